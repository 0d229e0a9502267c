/**
 * A few runs of the simulation: that it works, that a seed repeats, that it finds what is wrong. The thousands are
 * `npm run sim`'s.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

interface Answer {
  readonly code: number;
  readonly result: Record<string, unknown>;
}

function sim(...args: string[]): Promise<Answer> {
  const main = fileURLToPath(new URL("main.ts", import.meta.url));
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [main, "--json", ...args], (error, stdout, stderr) => {
      // A seed that failed is an answer; that it could not run is none.
      const code = error === null ? 0 : error.code;
      if (code !== 0 && code !== 1) reject(new Error(`${code}: ${stderr}`));
      else resolve({ code, result: JSON.parse(stdout) as Record<string, unknown> });
    });
  });
}

test("migrations under simulated faults lose nothing and end", async () => {
  const { result } = await sim("--seeds", "60", "--workers", "1");
  expect(result).toMatchObject({ seeds: 60, failed: 0, failures: [] });
}, 120_000);

test("a seed gives the same run again, in this process and in another", async () => {
  for (const seed of ["12", "42"]) {
    const [first, second] = await Promise.all([sim("--seed", seed), sim("--seed", seed)]);
    expect(first.result["again"]).toBe(first.result["hash"]);
    expect(second.result["hash"]).toBe(first.result["hash"]);
  }
}, 120_000);

test("a dirty mark that is dropped is found", async () => {
  const { code, result } = await sim("--seeds", "40", "--mutant", "a dirty mark is dropped");
  expect(code).toBe(1);
  expect(result["failures"]).not.toEqual([]);
}, 120_000);
