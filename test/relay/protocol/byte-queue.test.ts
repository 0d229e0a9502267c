import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { expect, test } from "vitest";

import { ByteQueue, ownBytes } from "../../../relay/protocol/byte-queue.ts";

const MIB = 1024 * 1024;
const onNode = !("Deno" in globalThis);

test("ByteQueue gives pieces back in order, and counts what it holds", async () => {
  let reads = 0;
  const queue = new ByteQueue(() => reads++, { join: true });
  for (let i = 0; i < 3_000; i++) queue.push(Uint8Array.of(i & 255));
  // A piece of one byte costs more than one byte.
  expect(queue.bytes).toBe(3_000);
  expect(queue.heldBytes).toBeGreaterThan(100 * 3_000);
  const back: number[] = [];
  while (back.length < 3_000) back.push(...((await queue.read()) ?? []));
  expect(back).toEqual(Array.from({ length: 3_000 }, (_, i) => i & 255));
  // Small ones come together.
  expect([queue.bytes, queue.heldBytes, reads]).toEqual([0, 0, 1]);
  queue.push(new Uint8Array(10_000));
  queue.push(new Uint8Array(10_000));
  queue.push(new Uint8Array(100));
  expect((await queue.read())?.length).toBe(10_000);
  expect((await queue.read())?.length).toBe(10_100);
  queue.end();
  expect(await queue.read()).toBeNull();
});

// A reader that is always behind: the queue is never empty, so nothing else would let go of what was read.
test.runIf(onNode)("ByteQueue.read() lets go of the piece", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const queue = new ByteQueue();
  for (let i = 0; i < 4; i++) queue.push(new Uint8Array(MIB));
  collect();
  const before = process.memoryUsage().arrayBuffers;
  for (let i = 0; i < 200; i++) {
    queue.push(new Uint8Array(MIB));
    await queue.read();
  }
  // What is freed is freed by another thread.
  for (let i = 0; i < 20 && process.memoryUsage().arrayBuffers - before > 20 * MIB; i++) {
    collect();
    await sleep(20);
  }
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(20 * MIB);
  expect(queue.bytes).toBe(4 * MIB);
});

test("ownBytes() copies a small part of something large, and nothing else", () => {
  const large = new Uint8Array(64 * 1024).fill(7);
  const small = ownBytes(large.subarray(10, 20));
  expect(small).toEqual(new Uint8Array(10).fill(7));
  expect(small.buffer.byteLength).toBe(10);
  expect(ownBytes(large)).toBe(large);
  const most = ownBytes(Buffer.from(large.buffer, 0, 40_000));
  expect(most.buffer).toBe(large.buffer);
  expect(Object.getPrototypeOf(most)).toBe(Uint8Array.prototype);
});
