/**
 * Builds the simulation of the direct connection from the addon's own sources.
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
export async function compileSimulation(): Promise<string> {
  const sources = [
    path.join(import.meta.dirname, "simulate.cc"),
    ...["connection", "rate", "streams", "wire"].map((name) =>
      path.join(root, `native/src/direct_${name}.cc`),
    ),
  ];
  const headers = readdirSync(path.join(root, "native/src"))
    .filter((name) => /^(?:direct_|range_set).*\.h$/.test(name))
    .map((name) => path.join(root, "native/src", name));
  const hash = createHash("sha256");
  for (const file of [...sources, ...headers]) hash.update(readFileSync(file));
  const folder = path.join(root, "native/build/test");
  const program = path.join(folder, `direct-${hash.digest("hex").slice(0, 16)}`);
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  // Another process may want the same at the same time.
  const own = `${program}.${process.pid}`;
  const objects = await Promise.all(
    ["blake3", "blake3_dispatch", "blake3_portable"].map(async (name) => {
      const object = `${own}.${name}.o`;
      const source = path.join(root, `native/vendor/blake3/${name}.c`);
      await run("gcc", ["-O2", "-w", ...PORTABLE, "-DBLAKE3_NO_NEON", "-c", source, "-o", object]);
      return object;
    }),
  );
  const flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-fno-exceptions"];
  await run("g++", [...flags, "-o", own, ...sources, ...objects]);
  await run("rm", objects);
  renameSync(own, program);
  return program;
}
