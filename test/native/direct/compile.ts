/**
 * Builds programs around the direct connection from the addon's own sources: its simulation and its fuzzer.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../../../", import.meta.url));
const PORTABLE = ["AVX512", "AVX2", "SSE41", "SSE2"].map((name) => `-DBLAKE3_NO_${name}`);

/** @returns the program, from an earlier run if no source has changed. @throws without a compiler */
export async function compileDirect(
  name: "simulate" | "fuzz",
  sanitize: readonly string[] = [],
): Promise<string> {
  const sources = [
    path.join(import.meta.dirname, `${name}.cc`),
    ...["connection", "rate", "streams", "wire"].map((part) =>
      path.join(root, `native/src/direct_${part}.cc`),
    ),
  ];
  const headers = readdirSync(path.join(root, "native/src"))
    .filter((file) => /^(?:direct_|range_set).*\.h$/.test(file))
    .map((file) => path.join(root, "native/src", file));
  const hash = createHash("sha256").update(sanitize.join(" "));
  for (const file of [...sources, ...headers]) hash.update(readFileSync(file));
  const folder = path.join(root, "native/build/test");
  const program = path.join(folder, `direct-${name}-${hash.digest("hex").slice(0, 16)}`);
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  // Another process may want the same at the same time.
  const own = `${program}.${process.pid}`;
  const objects = await Promise.all(
    ["blake3", "blake3_dispatch", "blake3_portable"].map(async (part) => {
      const object = `${own}.${part}.o`;
      const source = path.join(root, `native/vendor/blake3/${part}.c`);
      await run("gcc", ["-O2", "-w", ...PORTABLE, "-DBLAKE3_NO_NEON", "-c", source, "-o", object]);
      return object;
    }),
  );
  const flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-fno-exceptions", ...sanitize];
  await run("g++", [...flags, "-o", own, ...sources, ...objects]);
  await run("rm", objects);
  renameSync(own, program);
  return program;
}
