/**
 * Waiting: for chunks, for gates; and being taken out of the wait.
 */
import { beforeEach, expect, test } from "vitest";

import { skipUnless } from "../support/requires.ts";
import {
  bitmapOf,
  CHUNK,
  exportRegion,
  indexesOf,
  native,
  openRegion,
  readAll,
  requireMount,
  run,
  start,
  storeChunks,
  until,
  KEY,
} from "./support/exports.ts";

beforeEach((ctx) => skipUnless(ctx, requireMount()));

const full = (value: number): Uint8Array => new Uint8Array(CHUNK).fill(value);

test("many readers of one missing chunk are one fault, and all of them get the bytes", async () => {
  const faults: number[][] = [];
  const region = openRegion({
    bytes: 8 * CHUNK,
    present: "none",
    onFault: (indexes) => faults.push([...indexes]),
  });
  const { file } = exportRegion(region);
  const readers = Array.from({ length: 6 }, (_, reader) =>
    start("direct-read", file, 2 * CHUNK + reader * 4096, 4096),
  );
  await until("6 parked readers", () => region.stats().parked === 6 && faults.length > 0);
  expect(faults).toEqual([[2]]);
  await storeChunks(region, [[2, full(1)]], true);
  for (const reader of readers) expect(await reader.line("read")).toBe("read 4096 4096");
  expect(faults).toEqual([[2]]);
  expect(region.stats()).toMatchObject({ misses: 6, parked: 0 });
});

test("retryFaults() reports again what is still waited for, and nothing else", async () => {
  const faults: number[][] = [];
  const region = openRegion({
    bytes: 8 * CHUNK,
    present: "none",
    onFault: (indexes) => faults.push([...indexes]),
  });
  const { file } = exportRegion(region);
  const readers = [5, 1].map((chunk) => start("direct-read", file, chunk * CHUNK, 4096));
  await until("2 faults", () => faults.flat().length === 2);
  await storeChunks(region, [[5, full(1)]], true);
  await readers[0]?.line("read");
  faults.length = 0;
  region.retryFaults();
  await until("the retry", () => faults.length > 0);
  expect(faults).toEqual([[1]]);
  region.setPresent(bitmapOf([1], 8));
  expect(await readers[1]?.line("read")).toBe("read 4096 0");
});

test("a write to a missing chunk waits for it and changes only its own bytes", async () => {
  const region = openRegion({
    bytes: 4 * CHUNK,
    present: "none",
    onFault: (indexes) =>
      void storeChunks(
        region,
        [...indexes].map((index) => [index, full(1)] as const),
        true,
      ),
  });
  const { file } = exportRegion(region);
  expect(await run("write", file, CHUNK + 10, 5, 9)).toBe("wrote 5");
  const all = await readAll(region);
  expect([...all.subarray(CHUNK + 9, CHUNK + 16)]).toEqual([1, 9, 9, 9, 9, 9, 1]);
  expect(indexesOf(region.takeDirty())).toEqual([1]);
  // The bytes of the other side come too late, and must not win.
  expect([...(await storeChunks(region, [[1, full(2)]], true))]).toEqual([2]);
});

// Not with O_DIRECT: for that the kernel waits without listening to signals (FUSE_ASYNC_DIO).
test("a killed writer leaves the wait with EINTR, and its chunk can still come", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const { file } = exportRegion(region);
  const stays = start("direct-read", file, 0, 4096);
  const killed = start("write", file, 0, 4096, 7);
  await until("2 parked", () => region.stats().parked === 2);
  killed.kill("SIGKILL");
  expect(await killed.ended).toBe("SIGKILL");
  await until("1 parked", () => region.stats().parked === 1);
  await storeChunks(region, [[0, full(1)]], true);
  expect(await stays.line("read")).toBe("read 4096 4096");
  expect(region.stats()).toMatchObject({ writes: 0, parked: 0 });
});

test("failParked() fails those who wait, and the next reader is a fault again", async () => {
  const faults: number[] = [];
  const region = openRegion({
    bytes: 4 * CHUNK,
    present: "none",
    onFault: (indexes) => faults.push(...indexes),
  });
  const { file } = exportRegion(region);
  const reader = start("direct-read", file, 0, 4096);
  await until("a fault", () => faults.length === 1);
  region.failParked("ETIMEDOUT");
  expect(await reader.line("error")).toBe("error pread ETIMEDOUT");
  const next = start("direct-read", file, 0, 4096);
  await until("a second fault", () => faults.length === 2);
  region.setPresent(bitmapOf([0], 4));
  await next.line("read");
});

test("closed parks reads and writes, quiesce() resolves, open lets them go", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, gate: "closed" });
  const { file } = exportRegion(region);
  const reader = start("direct-read", file, 0, 4096);
  await until("1 parked", () => region.stats().parked === 1);
  // With nothing to write back, fsync and close have nothing to wait for.
  expect(await run("fsync", file)).toBe("synced");
  const writer = start("direct-write", file, CHUNK, 4096, 3);
  await until("2 parked", () => region.stats().parked === 2);
  await region.quiesce();
  expect(region.stats().firstServedAtMs).toBe(0);
  expect(indexesOf(region.takeDirty())).toEqual([]);
  const before = Number(process.hrtime.bigint()) / 1e6;
  region.setGate("open");
  expect(await reader.line("read")).toBe("read 4096 0");
  expect(await writer.line("wrote")).toBe("wrote 4096");
  expect(region.stats().firstServedAtMs).toBeGreaterThanOrEqual(before);
  expect(indexesOf(region.takeDirty())).toEqual([1]);
});

test("after closed and quiesce() nothing changes the store", async () => {
  const region = openRegion({ bytes: 64 * 4096, chunkBytes: 4096 });
  const { file } = exportRegion(region);
  const writers = [1, 2].map((seed) => start("scribble", file, seed, 3000));
  for (let round = 0; round < 10; round++) {
    await until("writes", () => region.stats().writes > round * 50);
    region.setGate("closed");
    await region.quiesce();
    const before = await readAll(region);
    region.takeDirty();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(Buffer.compare(before, await readAll(region))).toBe(0);
    expect(indexesOf(region.takeDirty())).toEqual([]);
    region.setGate("open");
  }
  expect(await Promise.all(writers.map((writer) => writer.ended))).toEqual([0, 0]);
});

test("quiesce() resolves under a load that never pauses", async () => {
  const region = openRegion({ bytes: 64 * CHUNK });
  const { file } = exportRegion(region);
  const readers = [
    start("direct-bench-random-read", file, 60),
    start("direct-bench-random-read", file, 60),
  ];
  await until("reads", () => region.stats().reads > 100);
  for (let turn = 0; turn < 200; turn++) await Promise.all([region.quiesce(), region.quiesce()]);
  expect(region.gate).toBe("open");
  for (const reader of readers) reader.kill();
});

test("draining parks reads and serves writes", async () => {
  const region = openRegion({ bytes: 4 * CHUNK });
  const { file } = exportRegion(region);
  region.setGate("draining");
  const reader = start("direct-read", file, 0, 4096);
  await until("1 parked", () => region.stats().parked === 1);
  expect(await run("direct-write", file, 0, 4096, 2)).toBe("wrote 4096");
  region.setGate("open");
  expect(await reader.line("read")).toBe("read 4096 8192");
});

// The moment of truth of a migration: a mapping that was writing a million times a second stands still,
// what it wrote is in the store, and it goes on where it was when the gate opens.
test("draining and invalidate() fence a mapping that is being written", async () => {
  const pages = 40;
  const region = openRegion({ bytes: pages * 4096, chunkBytes: 4096 });
  const { mount, file } = exportRegion(region);
  const counters = async (): Promise<bigint[]> => {
    const view = new DataView((await readAll(region)).buffer);
    return Array.from({ length: pages }, (_, page) => view.getBigUint64(page * 4096, true));
  };
  const writer = start("map-count", file, pages);
  await writer.line("counting");
  let first: bigint | undefined;
  let last = 0n;
  for (let round = 0; round < 10; round++) {
    region.setGate("draining");
    await mount.invalidate("region");
    region.setGate("closed");
    await region.quiesce();
    const now = await counters();
    // Pages are written in order, so they hold n up to where the writer was stopped and n - 1 after it.
    const [high = 0n] = now;
    expect(now.every((value) => value === high || value === high - 1n)).toBe(true);
    expect(high).toBeGreaterThanOrEqual(last);
    first ??= high;
    last = high;
    region.takeDirty();
    await new Promise((resolve) => setTimeout(resolve, 5));
    await mount.flush("region");
    expect(indexesOf(region.takeDirty())).toEqual([]);
    expect(await counters()).toEqual(now);
    const { reads } = region.stats();
    region.setGate("open");
    await until("the writer to go on", () => region.stats().reads > reads);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(last).toBeGreaterThan(first ?? last);
});

test("invalidate() ends although readers keep faulting ahead of it", async () => {
  const region = openRegion({ bytes: 64 << 20 });
  const { mount, file } = exportRegion(region);
  const readers = [
    start("map-scan-read", file),
    start("map-scan-read", file),
    start("map-count", file, 512),
  ];
  await Promise.all(readers.map((reader) => reader.line("open")));
  for (let round = 0; round < 10; round++) {
    await until("reads", () => region.stats().reads > 20);
    region.setGate("draining");
    await mount.invalidate("region");
    // Nothing is cached any more, so everyone comes to a stop: parked, or behind somebody who is.
    await until("the readers to park", () => region.stats().parked > 0);
    const { reads } = region.stats();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(region.stats().reads).toBe(reads);
    region.setGate("open");
  }
});

test("fenced fails everything, also what is parked", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const { mount, file } = exportRegion(region);
  const reader = start("direct-read", file, 0, 4096);
  await until("1 parked", () => region.stats().parked === 1);
  region.setGate("fenced");
  expect(await reader.line("error")).toBe("error pread ESTALE");
  expect(await run("read", file, 0, 10)).toBe("error open ESTALE");
  await mount.invalidate("region");
});

test("unmount() fails those who wait with ENOTCONN", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const { mount, file } = exportRegion(region);
  const readers = [0, 1, 2].map((chunk) => start("direct-read", file, chunk * CHUNK, 4096));
  await until("3 parked", () => region.stats().parked === 3);
  await mount.unmount();
  for (const reader of readers) expect(await reader.line("error")).toBe("error pread ENOTCONN");
});

// The bound is 64 MiB of WRITEs for each mount. One file's writers take turns in the kernel, hence many
// files. The surplus waits on the workers, and all come through.
test("gates that open let through more writes than may be parked", async () => {
  const bytes = 1 << 20;
  const regions = Array.from({ length: 70 }, () =>
    openRegion({ bytes, gate: "closed", threads: 1 }),
  );
  const { mount } = exportRegion(openRegion({ bytes }));
  for (const [position, region] of regions.entries()) mount.add(`file-${position}`, region);
  const writers = regions.map((_, position) =>
    start("direct-write", `${mount.directory}/file-${position}`, 0, bytes, 1),
  );
  const parked = (): number => regions.reduce((sum, region) => sum + region.stats().parked, 0);
  await until("the bound", () => parked() === 64);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(parked()).toBe(64);
  for (const region of regions) region.setGate("open");
  for (const writer of writers) expect(await writer.line("wrote")).toBe(`wrote ${bytes}`);
});

test("onFault that throws does not stop later faults", async () => {
  const seen: number[] = [];
  const uncaught: unknown[] = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => uncaught.push(error));
  try {
    const region = openRegion({
      bytes: 4 * CHUNK,
      present: "none",
      onFault: (indexes) => {
        seen.push(...indexes);
        if (seen.length === 1) throw new Error("from the callback");
      },
    });
    const { file } = exportRegion(region);
    const readers = [start("direct-read", file, 0, 4096)];
    await until("the first fault", () => seen.length === 1);
    readers.push(start("direct-read", file, CHUNK, 4096));
    await until("the second fault", () => seen.length === 2);
    region.setPresent(bitmapOf([0, 1], 4));
    for (const reader of readers) await reader.line("read");
    expect(uncaught).toHaveLength(1);
    expect(native().blake3(KEY)).toHaveLength(32);
  } finally {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  }
});
