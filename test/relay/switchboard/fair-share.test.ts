import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { FairShare, type Flow, type RateLimitName } from "../../../relay/switchboard/fair-share.ts";

const KIB = 1024;
const PIECE = 64 * KIB;

/** A turn of the event loop takes what it passed on, at a rate of the machine's. */
class Loop {
  nowMs = 1_000;
  #due: (() => void)[] = [];
  readonly clock = (): number => this.nowMs;
  readonly nextTurn = (run: () => void): void => void this.#due.push(run);

  get idle(): boolean {
    return this.#due.length === 0;
  }

  async turn(): Promise<void> {
    this.nowMs += 1;
    for (const run of this.#due.splice(0)) run();
    // What was let go asks again.
    for (let i = 0; i < 20; i++) await Promise.resolve();
  }
}

/** A stream that always has another piece. */
function greedy(flow: Flow, passed: { bytes: number }, signal: { over: boolean }): void {
  void (async () => {
    while (!signal.over) {
      const held = flow.take(PIECE, false);
      // Reading a piece takes a moment, as it does from a queue.
      if (held === undefined) await Promise.resolve();
      else await held;
      passed.bytes += PIECE;
    }
  })();
}

const NO_BOUND = { bytesPerS: 0, weight: 1 };

async function race(
  setups: readonly { project: string; weight?: number; streams: number; sessions?: number }[],
  turns = 400,
): Promise<number[]> {
  const loop = new Loop();
  const shares = new FairShare({ nodeBytesPerS: 0, clock: loop.clock, nextTurn: loop.nextTurn });
  const signal = { over: false };
  const flows: Flow[] = [];
  const counted = setups.map(({ project, weight = 1, streams, sessions = 1 }) => {
    const passed = { bytes: 0 };
    for (let i = 0; i < sessions; i++) {
      const flow = shares.flow({
        projectId: project,
        project: { bytesPerS: 0, weight },
        bytesPerS: 0,
      });
      flows.push(flow);
      // Known to be there before the first is served, or it would run alone for good.
      void flow.take(1, false);
      for (let k = 0; k < streams; k++) setImmediate(() => greedy(flow, passed, signal));
    }
    return passed;
  });
  await new Promise((resolve) => setImmediate(resolve));
  for (let i = 0; i < turns; i++) await loop.turn();
  signal.over = true;
  const bytes = counted.map((one) => one.bytes);
  for (const flow of flows) flow.close();
  return bytes;
}

test("two projects get the same, whatever the number of their streams", async () => {
  const [a = 0, b = 0] = await race([
    { project: "a", streams: 64 },
    { project: "b", streams: 1 },
  ]);
  expect(b / a).toBeGreaterThan(0.9);
  expect(b / a).toBeLessThan(1.1);
});

test("two projects get the same, whatever the number of their sessions", async () => {
  const [a = 0, b = 0] = await race([
    { project: "a", streams: 2, sessions: 20 },
    { project: "b", streams: 1 },
  ]);
  expect(b / a).toBeGreaterThan(0.85);
  expect(b / a).toBeLessThan(1.15);
});

test("a project gets by its weight", async () => {
  const [a = 0, b = 0] = await race([
    { project: "a", streams: 8, weight: 1 },
    { project: "b", streams: 2, weight: 3 },
  ]);
  expect(b / a).toBeGreaterThan(2.7);
  expect(b / a).toBeLessThan(3.3);
});

test("sessions of one project get the same", async () => {
  const loop = new Loop();
  const shares = new FairShare({ nodeBytesPerS: 0, clock: loop.clock, nextTurn: loop.nextTurn });
  const signal = { over: false };
  const of = (streams: number): { passed: { bytes: number }; flow: Flow } => {
    const flow = shares.flow({ projectId: "p", project: NO_BOUND, bytesPerS: 0 });
    const passed = { bytes: 0 };
    void flow.take(1, false);
    for (let k = 0; k < streams; k++) setImmediate(() => greedy(flow, passed, signal));
    return { passed, flow };
  };
  const many = of(30);
  const one = of(1);
  await new Promise((resolve) => setImmediate(resolve));
  for (let i = 0; i < 300; i++) await loop.turn();
  signal.over = true;
  expect(one.passed.bytes / many.passed.bytes).toBeGreaterThan(0.9);
  many.flow.close();
  one.flow.close();
});

test("who is alone is never held", () => {
  const loop = new Loop();
  const shares = new FairShare({ nodeBytesPerS: 0, clock: loop.clock, nextTurn: loop.nextTurn });
  const flow = shares.flow({ projectId: "p", project: NO_BOUND, bytesPerS: 0 });
  for (let i = 0; i < 10_000; i++) expect(flow.take(PIECE, false)).toBeUndefined();
  expect(loop.idle).toBe(true);
  flow.close();
});

test("close() lets go whoever waits, and forgets the project", async () => {
  const loop = new Loop();
  const shares = new FairShare({ nodeBytesPerS: 0, clock: loop.clock, nextTurn: loop.nextTurn });
  const of = (projectId: string, bytesPerS: number): Flow =>
    shares.flow({ projectId, project: NO_BOUND, bytesPerS });
  const [one, other] = [of("a", 0), of("b", 1_000)];
  void other.take(1, false);
  const waiting: Promise<void>[] = [];
  for (let i = 0; i < 200; i++) {
    const held = one.take(PIECE, false);
    if (held !== undefined) waiting.push(held);
  }
  expect(waiting.length).toBeGreaterThan(0);
  const paced = other.take(1024 * KIB, false);
  expect(paced).toBeDefined();
  one.close();
  other.close();
  await Promise.all([...waiting, paced]);
  expect(shares.projectIds).toEqual([]);
});

test("a stream that somebody's workload waits for goes before the others", () => {
  const loop = new Loop();
  const shares = new FairShare({ nodeBytesPerS: 0, clock: loop.clock, nextTurn: loop.nextTurn });
  const of = (projectId: string): Flow =>
    shares.flow({ projectId, project: NO_BOUND, bytesPerS: 0 });
  const [one, other] = [of("a"), of("b")];
  void other.take(1, false);
  while (one.take(PIECE, false) === undefined);
  expect(one.take(PIECE, true)).toBeUndefined();
  // Not without end: its part of one more turn.
  let ahead = 0;
  while (one.take(PIECE, true) === undefined) ahead += PIECE;
  expect(ahead).toBeLessThanOrEqual(2 * 1024 * KIB);
  one.close();
  other.close();
});

// Timers and all: what a rate holds back goes by the clock.
beforeEach(() => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] }));
afterEach(() => vi.useRealTimers());

async function paced(
  shares: FairShare,
  flows: readonly { flow: Flow; streams: number }[],
  seconds: number,
): Promise<number[]> {
  const signal = { over: false };
  const counted = flows.map(({ flow, streams }) => {
    const passed = { bytes: 0 };
    for (let i = 0; i < streams; i++) greedy(flow, passed, signal);
    return passed;
  });
  for (let ms = 0; ms < seconds * 1_000; ms += 5) await vi.advanceTimersByTimeAsync(5);
  signal.over = true;
  for (const { flow } of flows) flow.close();
  expect(shares.projectIds).toEqual([]);
  return counted.map(({ bytes }) => bytes / seconds);
}

test("a session keeps to its own rate, and both sides are told once", async () => {
  const told: [RateLimitName, number][] = [];
  const shares = new FairShare({ nodeBytesPerS: 0 });
  const flow = shares.flow({
    projectId: "p",
    project: NO_BOUND,
    bytesPerS: 4_000_000,
    onHeld: (name, bytesPerS) => told.push([name, bytesPerS]),
  });
  const [rate = 0] = await paced(shares, [{ flow, streams: 8 }], 5);
  expect(rate).toBeGreaterThan(3_800_000);
  expect(rate).toBeLessThan(4_300_000);
  expect(told).toEqual([["sessionBytesPerS", 4_000_000]]);
});

test("sessions of a project keep to its rate together", async () => {
  const shares = new FairShare({ nodeBytesPerS: 0 });
  const make = (): Flow =>
    shares.flow({ projectId: "p", project: { bytesPerS: 6_000_000, weight: 1 }, bytesPerS: 0 });
  const rates = await paced(
    shares,
    Array.from({ length: 3 }, () => ({ flow: make(), streams: 2 })),
    5,
  );
  const together = rates.reduce((sum, rate) => sum + rate, 0);
  expect(together).toBeGreaterThan(5_700_000);
  expect(together).toBeLessThan(6_500_000);
});

test("what the relay may pass on is shared by project, and what one leaves the others get", async () => {
  const shares = new FairShare({ nodeBytesPerS: 40_000_000 });
  const of = (projectId: string, bytesPerS = 0): Flow =>
    shares.flow({ projectId, project: NO_BOUND, bytesPerS });
  const rates = await paced(
    shares,
    [
      { flow: of("abuser"), streams: 40 },
      { flow: of("b"), streams: 1 },
      // Wants less than its third.
      { flow: of("c", 5_000_000), streams: 2 },
    ],
    10,
  );
  const [abuser = 0, b = 0, c = 0] = rates;
  expect(abuser + b + c).toBeGreaterThan(0.85 * 40_000_000);
  expect(abuser + b + c).toBeLessThan(1.05 * 40_000_000);
  expect(c).toBeGreaterThan(0.9 * 5_000_000);
  expect(b / abuser).toBeGreaterThan(0.85);
});
