import fc from "fast-check";
import { expect, test } from "vitest";

import {
  choosePath,
  DEAD_AFTER_MS,
  retryInMs,
  SETTLE_MS,
  type PathMeasurements,
  type PathName,
  type PathSnapshot,
} from "../../../peer/net/path-choice.ts";

const MB = 1e6;
const up: PathMeasurements = {
  state: "connected",
  rttMs: 20,
  bytesPerS: undefined,
  sampleBytes: 0,
  lossRatio: undefined,
  silentForMs: 100,
  failures: 0,
};
const rated = (bytesPerS: number, sampleBytes = 64 * MB): PathMeasurements => ({
  ...up,
  bytesPerS,
  sampleBytes,
});
const silent: PathMeasurements = { ...up, silentForMs: DEAD_AFTER_MS + 1 };
const failed: PathMeasurements = { ...up, state: "failed", failures: 2 };
const base: PathSnapshot = {
  policy: "auto",
  current: undefined,
  sinceSwitchMs: Infinity,
  direct: up,
  relayed: up,
};

/** The table of docs/transports.md, row by row. */
test.each<[string, Partial<PathSnapshot>, PathName, string]>([
  ["policy relay", { policy: "relay" }, "relayed", "asked for"],
  ["policy direct", { policy: "direct", direct: failed }, "direct", "though it failed 2 times"],
  ["direct untried", { direct: { ...up, state: "untried" } }, "relayed", "not tried yet"],
  ["direct opening", { direct: { ...up, state: "connecting" } }, "relayed", "being opened"],
  ["direct failed", { direct: failed }, "relayed", "failed 2 times"],
  ["direct silent", { current: "direct", sinceSwitchMs: 0, direct: silent }, "relayed", "silent"],
  ["relayed silent", { current: "relayed", sinceSwitchMs: 0, relayed: silent }, "direct", "silent"],
  ["both dead", { direct: silent, relayed: failed }, "relayed", "neither"],
  ["both up", { current: "relayed" }, "direct", "round trip 20 ms"],
  ["just switched", { current: "relayed", sinceSwitchMs: 4_000 }, "relayed", "4.0 s ago"],
  ["direct much slower", { direct: rated(4 * MB), relayed: rated(10 * MB) }, "relayed", "4.0 MB/s"],
  ["direct a little slower", { direct: rated(6 * MB), relayed: rated(10 * MB) }, "direct", "6.0"],
  [
    "direct slower by a sample too small",
    { direct: rated(1 * MB, 100_000), relayed: rated(10 * MB) },
    "direct",
    "it is up",
  ],
  [
    "direct back, not by enough",
    { current: "relayed", direct: rated(7 * MB), relayed: rated(10 * MB) },
    "relayed",
    "7.0",
  ],
  [
    "direct back",
    { current: "relayed", direct: rated(9 * MB), relayed: rated(10 * MB) },
    "direct",
    "9.0",
  ],
])("choosePath(): %s", (_row, change, path, reason) => {
  const decision = choosePath({ ...base, ...change });
  expect(decision.path).toBe(path);
  expect(decision.reason).toContain(reason);
});

const measurements: fc.Arbitrary<PathMeasurements> = fc.record({
  state: fc.constantFrom("untried", "connecting", "connected", "connected", "connected", "failed"),
  rttMs: fc.double({ min: 0, max: 2_000, noNaN: true }),
  bytesPerS: fc.option(fc.double({ min: 0, max: 1e10, noNaN: true }), { nil: undefined }),
  sampleBytes: fc.integer({ min: 0, max: 100 * MB }),
  lossRatio: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined }),
  silentForMs: fc.integer({ min: 0, max: 10_000 }),
  failures: fc.nat(10),
});
const snapshot: fc.Arbitrary<PathSnapshot> = fc.record({
  policy: fc.constantFrom("auto", "auto", "relay", "direct"),
  current: fc.constantFrom("direct", "relayed", undefined),
  sinceSwitchMs: fc.oneof(fc.nat(60_000), fc.constant(Infinity)),
  direct: measurements,
  relayed: measurements,
});
const lives = (path: PathMeasurements): boolean =>
  path.state === "connected" && path.silentForMs <= DEAD_AFTER_MS;

test("choosePath() obeys the policy, says why in one line, and says the same again", () => {
  fc.assert(
    fc.property(snapshot, (given) => {
      const decision = choosePath(given);
      if (given.policy === "relay") expect(decision.path).toBe("relayed");
      if (given.policy === "direct") expect(decision.path).toBe("direct");
      expect(decision.reason).toMatch(new RegExp(`^${decision.path}: \\S.*$`));
      expect(decision.reason).not.toMatch(/NaN|undefined|Infinity/);
      expect(choosePath(given)).toEqual(decision);
    }),
    { numRuns: 2_000 },
  );
});

test("choosePath() never takes a dead path while the other lives", () => {
  fc.assert(
    fc.property(snapshot, (given) => {
      fc.pre(given.policy === "auto" && lives(given.direct) !== lives(given.relayed));
      expect(choosePath(given).path).toBe(lives(given.direct) ? "direct" : "relayed");
    }),
    { numRuns: 2_000 },
  );
});

test("choosePath() never leaves a living path within the settling time", () => {
  const steps = fc.array(fc.tuple(measurements, measurements, fc.integer({ min: 1, max: 4_000 })), {
    minLength: 2,
    maxLength: 60,
  });
  fc.assert(
    fc.property(steps, (given) => {
      let current: PathName | undefined;
      let sinceSwitchMs = Infinity;
      for (const [direct, relayed, passedMs] of given) {
        sinceSwitchMs += passedMs;
        const { path } = choosePath({ policy: "auto", current, sinceSwitchMs, direct, relayed });
        if (path === current) continue;
        const left = current === "direct" ? direct : relayed;
        if (current !== undefined && lives(left)) {
          expect(sinceSwitchMs).toBeGreaterThanOrEqual(SETTLE_MS);
        }
        current = path;
        sinceSwitchMs = 0;
      }
    }),
  );
});

test("choosePath() settles: what does not change is not switched twice", () => {
  fc.assert(
    fc.property(snapshot, (given) => {
      const first = choosePath({ ...given, sinceSwitchMs: Infinity });
      const then = choosePath({ ...given, current: first.path, sinceSwitchMs: Infinity });
      const last = choosePath({ ...given, current: then.path, sinceSwitchMs: Infinity });
      expect(last.path).toBe(then.path);
    }),
    { numRuns: 2_000 },
  );
});

test("retryInMs() waits longer for each failure, up to five minutes", () => {
  expect([0, 1, 2, 3, 4, 100].map(retryInMs)).toEqual([
    0, 15_000, 60_000, 300_000, 300_000, 300_000,
  ]);
  expect(retryInMs(-1)).toBe(0);
});
