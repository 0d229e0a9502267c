/** The direct connection over networks of numbers: its protocol by itself, in virtual time. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { beforeAll, beforeEach, describe, expect, test } from "vitest";

import { SeededRandom } from "../../support/seeded-random.ts";
import { requireTool, skipUnless } from "../../support/requires.ts";
import { compileDirect } from "./compile.ts";

const run = promisify(execFile);

interface Report {
  readonly finished: boolean;
  readonly wrong: boolean;
  /** Time over that of the bare bytes at the link's rate. */
  readonly ratio: number;
  readonly sent: number;
  readonly lost: number;
  readonly rttMs: number;
  readonly closed: string;
}

let program: string;

beforeEach((ctx) => skipUnless(ctx, requireTool("cc")));
beforeAll(async () => {
  if (requireTool("cc").available) program = await compileDirect("simulate");
}, 120_000);

async function simulate(...values: readonly number[]): Promise<Report> {
  try {
    const { stdout } = await run(program, values.map(String));
    return JSON.parse(stdout) as Report;
  } catch (error) {
    // It ends with 1 if not everything arrived, and says what did.
    const { stdout } = error as { stdout: string };
    return JSON.parse(stdout) as Report;
  }
}

test("any rate, delay, loss, jitter and queue: everything arrives, as it was", async () => {
  const random = new SeededRandom(7);
  const pick = (values: readonly number[]): number => values[random.below(values.length)] ?? 0;
  for (let seed = 0; seed < 60; seed++) {
    const rateMbit = pick([5, 50, 1_000, 10_000]);
    const rttMs = pick([0.1, 1, 20, 150, 600]);
    const lossPercent = pick([0, 0.1, 2, 20]);
    const jitterMs = pick([0, 0, 1, 30]);
    const queueMs = pick([1, 10, 100, 1_000]);
    const bytes = Math.min(rateMbit, 50) * 40_000;
    const values = [seed, bytes, rateMbit, rttMs, lossPercent, jitterMs, queueMs];
    const report = await simulate(...values);
    expect({ values, finished: report.finished, wrong: report.wrong }).toEqual({
      values,
      finished: true,
      wrong: false,
    });
  }
});

describe("how long it takes over the bare bytes", () => {
  test.each([
    [200, 10, 0, 1.15],
    [200, 50, 0, 1.12],
    [200, 100, 0, 1.2],
    [1_000, 100, 0, 1.24],
    [200, 50, 0.1, 1.25],
    [200, 50, 1, 1.3],
    [100, 100, 2, 1.35],
  ])("%i Mbit/s, %i ms, %d percent lost: below %d", async (mbit, rttMs, loss, most) => {
    // Long enough that the start is a part of it, and no more.
    const report = await simulate(1, mbit * 500_000, mbit, rttMs, loss, 0, rttMs);
    expect(report.ratio).toBeLessThan(most);
  });
});

test("a connection that waited in idleness begins as fast as one that did not", async () => {
  const [at, idle] = await Promise.all([
    simulate(1, 5e6, 32, 24, 0, 0, 24),
    simulate(1, 5e6, 32, 24, 0, 0, 24, 1e6, 1, 5_000),
  ]);
  expect(idle.ratio).toBeLessThan(1.2 * at.ratio);
});

test("the start of a long transfer loses little: the queue is seen before it is full", async () => {
  const { lost, sent } = await simulate(1, 500e6, 1_000, 100, 0, 0, 100);
  expect(lost / sent).toBeLessThan(0.01);
});

test("a sender that is held up by something else leaves the search for more all the same", async () => {
  // Nothing to send for 50 ms in 100: the rounds of the start are never full.
  const { lost, sent } = await simulate(1, 200e6, 200, 50, 0, 0, 50, 1e6, 1, 0, 0, 50);
  expect(lost / sent).toBeLessThan(0.01);
});

describe("what is learnt with padding while there is nothing to send", () => {
  test("saves round trips", async () => {
    const [cold, warm] = await Promise.all(
      [0, 1].map((warms) => simulate(1, 250e6, 500, 100, 0, 0, 100, 1e6, 1, 250, warms)),
    );
    expect(warm?.ratio).toBeLessThan((cold?.ratio ?? 0) - 0.02);
  });

  test.each([
    [1, 100, 50],
    [1, 100, 1_000],
    [2, 20, 30],
    [10, 40, 20],
  ])("does no harm at %i Mbit/s, %i ms, a queue of %i ms", async (mbit, rttMs, queueMs) => {
    const [cold, warm] = await Promise.all(
      [0, 1].map((warms) =>
        simulate(1, mbit * 1e6, mbit, rttMs, 0, 0, queueMs, 1e6, 1, 250, warms),
      ),
    );
    expect(warm?.ratio).toBeLessThan((cold?.ratio ?? 0) * 1.1);
    expect((warm?.lost ?? Infinity) / (warm?.sent ?? 1)).toBeLessThan(0.12);
  });
});

test("a path that is dark for two seconds goes on, one for four is given up", async () => {
  const dark = await simulate(1, 50e6, 100, 50, 0, 0, 50, 500, 2_000);
  expect(dark).toMatchObject({ finished: true, wrong: false });
  const gone = await simulate(1, 50e6, 100, 50, 0, 0, 50, 500, 4_000);
  expect(gone).toMatchObject({ finished: false, wrong: false, closed: "the other peer is silent" });
});
