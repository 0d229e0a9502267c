/** In which order chunks are sent, and how many at once while somebody waits. */
import fc from "fast-check";
import { expect, test } from "vitest";

import { ChunkSet } from "../../../peer/migration/bitmap.ts";
import { DELAY_WINDOW_BYTES_MIN, DelayWindow } from "../../../peer/migration/delay-window.ts";
import { WINDOW_BYTES_MAX } from "../../../peer/migration/limits.ts";
import { PRIORITIES, Schedule } from "../../../peer/migration/schedule.ts";
import { sliceRegions } from "../../../peer/region/region.ts";

const CHUNK_BYTES = 128 * 1024;

function makeSchedule(...chunkCounts: readonly number[]): Schedule {
  const regions = sliceRegions(
    chunkCounts.map((count, i) => ({ name: `r${i}`, bytes: count * CHUNK_BYTES })),
    CHUNK_BYTES,
  );
  const chunkCount = chunkCounts.reduce((sum, count) => sum + count, 0);
  return new Schedule(regions, chunkCount, CHUNK_BYTES);
}

function setOf(chunkCount: number, indexes: readonly number[]): ChunkSet {
  const set = new ChunkSet(chunkCount);
  for (const index of indexes) set.add(index);
  return set;
}

function takeAll(schedule: Schedule): number[] {
  const taken: number[] = [];
  for (let batch = schedule.take(); batch.length > 0; batch = schedule.take()) taken.push(...batch);
  return taken;
}

test("every chunk that is wanted is taken once, whatever it is wanted for", () => {
  const indexes = fc.array(fc.nat(199));
  const step = fc.oneof(
    fc.record({ kind: fc.constant("add" as const), indexes }),
    fc.record({ kind: fc.constant("dirty" as const), indexes }),
    fc.record({ kind: fc.constant("fault" as const), indexes }),
    fc.record({ kind: fc.constant("take" as const), chunks: fc.nat(6) }),
    fc.record({ kind: fc.constant("takeFault" as const) }),
  );
  fc.assert(
    fc.property(fc.array(step), fc.integer({ min: 1, max: 199 }), (steps, first) => {
      const schedule = makeSchedule(first, 200 - first);
      const wanted = new Set<number>();
      const faulted = new Set<number>();
      const takeOut = (index: number): void => expect(wanted.delete(index)).toBe(true);
      for (const todo of steps) {
        if (todo.kind === "add") {
          for (const index of todo.indexes) {
            schedule.add(index);
            wanted.add(index);
          }
        } else if (todo.kind === "dirty") {
          schedule.addDirty(setOf(200, todo.indexes));
          for (const index of todo.indexes) wanted.add(index);
        } else if (todo.kind === "fault") {
          schedule.addFaults(Uint32Array.from(todo.indexes));
          for (const index of todo.indexes) faulted.add(index);
        } else if (todo.kind === "take") {
          const batch = schedule.take(todo.chunks * CHUNK_BYTES);
          expect(batch.length).toBeLessThanOrEqual(Math.max(1, todo.chunks));
          expect(batch.length).toBeLessThanOrEqual(schedule.batchChunks);
          expect(batch.length > 0).toBe(wanted.size > 0);
          batch.forEach(takeOut);
        } else {
          const index = schedule.takeFault();
          expect(index).toBe([...faulted][0]);
          if (index === undefined) continue;
          faulted.delete(index);
          wanted.delete(index);
        }
        expect(schedule.size).toBe(wanted.size);
      }
      expect(takeAll(schedule).toSorted((a, b) => a - b)).toEqual(
        [...wanted].toSorted((a, b) => a - b),
      );
    }),
  );
});

test("faults, what was written again, what follows a fault, and the rest: in this order", () => {
  expect(PRIORITIES).toEqual(["fault", "dirty", "workingSet", "background"]);
  const schedule = makeSchedule(100);
  for (let index = 0; index < 100; index++) schedule.add(index);
  schedule.addDirty(setOf(100, [70, 71]));
  schedule.addFaults(Uint32Array.of(50, 90));
  expect([schedule.takeFault(), schedule.takeFault(), schedule.takeFault()]).toEqual([
    50,
    90,
    undefined,
  ]);
  expect([...schedule.take()]).toEqual([70, 71]);
  expect([...schedule.take()]).toEqual([51, 52, 53, 54]);
  expect([...schedule.take()]).toEqual([91, 92, 93, 94]);
  expect([...schedule.take()]).toEqual([0, 1, 2, 3]);
});

test("no region waits for another to be finished", () => {
  const schedule = makeSchedule(1_000, 10, 40);
  for (let index = 0; index < 1_050; index++) schedule.add(index);
  const turns = Array.from({ length: 9 }, () => schedule.take()[0] ?? -1);
  expect(turns).toEqual([0, 1_000, 1_010, 4, 1_004, 1_014, 8, 1_008, 1_018]);
  // Dirty chunks too.
  schedule.addDirty(setOf(1_050, [900, 901, 902, 903, 904, 1_049]));
  expect([...schedule.take(), ...schedule.take(), ...schedule.take()]).toEqual([
    900, 901, 902, 903, 1_049, 904,
  ]);
  expect(takeAll(schedule)).toHaveLength(1_050 - 34 - 6);
});

test("faults of a channel that is gone are forgotten; those ahead of `want` are not", () => {
  const schedule = makeSchedule(20);
  schedule.addFaults(Uint32Array.of(3, 3, 4));
  schedule.clear();
  expect(schedule.takeFault()).toBe(3);
  schedule.clearFaults();
  expect(schedule.takeFault()).toBeUndefined();
});

/** A path with a queue: what is under way beyond what the path itself holds waits in it. */
class Path {
  readonly window = new DelayWindow();
  #nowMs = 0;
  #bytes = 0;

  readonly bytesPerS: number;
  baseMs: number;

  constructor(bytesPerS: number, baseMs: number) {
    this.bytesPerS = bytesPerS;
    this.baseMs = baseMs;
  }

  /** @returns The round trip, and the rate. */
  turn(lateMs = 0): [number, number] {
    const held = (this.bytesPerS * this.baseMs) / 1_000;
    const rttMs = Math.max(this.baseMs, (this.window.bytes / this.bytesPerS) * 1_000);
    const rate = this.bytesPerS * Math.min(1, this.window.bytes / held);
    this.#nowMs += 50;
    this.#bytes += rate * 0.05;
    this.window.sample(rttMs + lateMs, this.#bytes, this.#nowMs);
    return [rttMs, rate];
  }
}

test.each([
  { baseMs: 50, bytesPerS: 25e6 },
  { baseMs: 50, bytesPerS: 125e6 },
  { baseMs: 150, bytesPerS: 10e6 },
])("the window fills $bytesPerS bytes/s over $baseMs ms and not its queue", (options) => {
  const { baseMs, bytesPerS } = options;
  for (const known of [0, bytesPerS, bytesPerS * 4]) {
    const path = new Path(bytesPerS, baseMs);
    path.turn();
    path.window.begin(known);
    for (let turn = 0; turn < 100; turn++) path.turn();
    for (let turn = 0; turn < 2_000; turn++) {
      const [rttMs, rate] = path.turn();
      expect(rttMs / baseMs).toBeLessThan(1.25);
      expect(rate / bytesPerS).toBeGreaterThan(0.9);
    }
  }
});

test("a path that became longer is not taken for a full one for ever", () => {
  const path = new Path(50e6, 20);
  for (let turn = 0; turn < 400; turn++) path.turn();
  path.baseMs = 80;
  for (let turn = 0; turn < 3_000; turn++) path.turn();
  expect(path.turn()[1] / 50e6).toBeGreaterThan(0.8);
});

test("late answers alone do not shut the window", () => {
  const path = new Path(125e6, 20);
  for (let turn = 0; turn < 400; turn++) path.turn();
  for (let turn = 0; turn < 600; turn++) {
    const [, rate] = path.turn(turn % 3 === 0 ? 0 : 40);
    expect(rate / 125e6).toBeGreaterThan(0.85);
  }
});

test("whatever is measured, the window keeps its bounds", () => {
  const sample = fc.record({
    rttMs: fc.double({ min: 0, max: 1e6, noNaN: true }),
    bytes: fc.nat(),
  });
  fc.assert(
    fc.property(fc.array(sample), fc.nat(), (samples, bytesPerS) => {
      const window = new DelayWindow();
      let [total, nowMs] = [0, 0];
      for (const { rttMs, bytes } of samples) {
        window.sample(rttMs, (total += bytes), (nowMs += 50));
        window.begin(bytesPerS);
        expect(window.bytes).toBeGreaterThanOrEqual(DELAY_WINDOW_BYTES_MIN);
        expect(window.bytes).toBeLessThanOrEqual(WINDOW_BYTES_MAX);
      }
    }),
  );
});
