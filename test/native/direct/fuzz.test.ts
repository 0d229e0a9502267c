/** The direct connection against packets that no peer of ours would send, under a sanitizer. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { beforeAll, beforeEach, expect, test } from "vitest";

import { requireTool, skipUnless } from "../../support/requires.ts";
import { compileDirect } from "./compile.ts";

const run = promisify(execFile);
const PACKETS = 40_000;

let program: string;

beforeEach((ctx) => skipUnless(ctx, requireTool("cc")));
beforeAll(async () => {
  if (!requireTool("cc").available) return;
  program = await compileDirect("fuzz", [
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
  ]);
}, 120_000);

test.for([1, 2, 3])(
  "packets that are damaged, absurd and repeated are refused or taken, and nothing is read or written wrongly, seed %i",
  { timeout: 60_000 },
  async (seed, { signal }) => {
    const { stdout, stderr } = await run(program, [String(seed), String(PACKETS)], { signal });
    expect(stderr).toBe("");
    const { taken, refused } = JSON.parse(stdout) as { taken: number; refused: number };
    expect(taken + refused).toBe(PACKETS);
    expect(Math.min(taken, refused)).toBeGreaterThan(PACKETS / 20);
  },
);
