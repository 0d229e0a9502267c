/**
 * C programs of the tests, compiled when they are first needed.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** Beside the addon: it is neither in the repository nor in the package. */
const CACHE = fileURLToPath(new URL("../../../native/build/test", import.meta.url));

/** @returns the program made of this C file, from an earlier run if the file is the same. @throws without a compiler */
export function compiled(source: string): string {
  const digest = createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16);
  const program = path.join(CACHE, `${path.basename(source, ".c")}-${digest}`);
  if (existsSync(program)) return program;
  mkdirSync(CACHE, { recursive: true });
  // Another process may want the same at the same time.
  const unfinished = `${program}.${process.pid}`;
  execFileSync("cc", ["-O2", "-o", unfinished, source], { stdio: ["ignore", "ignore", "inherit"] });
  renameSync(unfinished, program);
  return program;
}
