/**
 * A short run of the fuzzer, and that it finds what is there to be found. The long one is `test/long/fuzz.test.ts`.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

import { Engine } from "./engine.ts";
import { requireSame, type Target } from "./targets.ts";
import { mutate } from "./mutate.ts";

const MAIN = fileURLToPath(new URL("main.ts", import.meta.url));
const CASES = 100_000;

test(`${CASES} damaged messages are decoded or refused, cheaply, by every decoder`, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [
    MAIN,
    "--cases",
    String(CASES),
    "--seed",
    "1",
  ]);
  expect(stdout).toContain(`${CASES} cases, seed 1,`);
  expect(stdout).toContain(" 0 wrong,");
});

/** Reads a count, and believes it. */
const careless: Target = {
  name: "careless",
  weight: 1,
  make: (random) => mutate(Uint8Array.of(3, 1, 2, 3), random, Uint8Array.of(1, 9)),
  check(input) {
    const [count = 0, ...items] = input;
    const read = Array.from({ length: count }, (_, i) => (items[i] as number).toString(16));
    requireSame(Uint8Array.of(count, ...items), input);
    return `accepted ${read.length > 0}`;
  },
};

test("a finding has its seed and its number, and is the same when it is repeated alone", async () => {
  const engine = new Engine([careless], 7);
  const found = [];
  for (let i = 0; i < 200; i++) {
    const failure = await engine.run(i);
    if (failure !== undefined) found.push(failure);
  }
  expect(found.length).toBeGreaterThan(10);
  for (const failure of found.slice(0, 3)) {
    expect(failure.error).toContain("TypeError");
    const { seed, caseNumber, hex } = failure;
    const again = await new Engine([careless], seed).run(caseNumber);
    expect(again).toMatchObject({ seed, caseNumber, hex });
  }
});
