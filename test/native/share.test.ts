/** A region of two threads: one has it, the other fills it. */
import path from "node:path";
import { Worker } from "node:worker_threads";

import { beforeEach, expect, onTestFinished, test } from "vitest";

import { requireUffd, skipUnless } from "../support/requires.ts";
import { image } from "../support/regions.ts";
import { CHUNK, indexesOf, native, openRegion, storeChunks, until } from "./support/exports.ts";

const INDEX = path.join(import.meta.dirname, "../../native/index.ts");

/** `region` and `native` are there; `say` tells the test. */
function worker(
  id: number,
  text: string,
  onFault = "undefined",
): { said: unknown[]; end: () => Promise<number> } {
  const source = `
    const { workerData, parentPort } = require("node:worker_threads");
    const say = (message) => parentPort.postMessage(message);
    parentPort.on("message", () => 0);
    import(workerData.index).then(async ({ loadNative }) => {
      const native = loadNative();
      const onFault = ${onFault};
      const region = globalThis.region = native.shareRegion(workerData.id, onFault === undefined ? {} : { onFault });
      ${text}
    });`;
  const thread = new Worker(source, { eval: true, workerData: { id, index: INDEX } });
  const said: unknown[] = [];
  thread.on("message", (message) => said.push(message));
  thread.on("error", (error) => said.push(error));
  onTestFinished(async () => void (await thread.terminate()));
  return { said, end: () => thread.terminate() };
}

beforeEach((ctx) => skipUnless(ctx, requireUffd()));

test("shareRegion({ onFault }): the thread that waits for a chunk need not be the one that hears of it", async () => {
  const here: number[] = [];
  const region = openRegion({
    bytes: 4 * CHUNK,
    present: "none",
    onFault: (indexes) => void here.push(...indexes),
  });
  const content = image(CHUNK);
  const key = Array.from({ length: 32 }, (_, i) => i);
  const { said, end } = worker(
    region.id,
    `say("ready");`,
    `async (indexes) => {
      const bytes = new Uint8Array(${CHUNK}).fill(9);
      const hash = native.blake3(bytes, Uint8Array.from(${JSON.stringify(key)}));
      await region.store({ indexes, offsets: new Uint32Array(indexes.length), bytes, hashes: hash, ifAbsent: true });
      say([...indexes]);
    }`,
  );
  await until("the thread", () => said.length > 0);
  const mapping = native().mapRegion(region);
  // This very thread stops here, and the other one brings the chunk.
  expect(new Uint8Array(mapping.memory)[2 * CHUNK + 1]).toBe(9);
  await until("its word", () => said.length === 2);
  expect(said).toEqual(["ready", [2]]);
  await end();
  // With the listener gone, it is the first one that hears again.
  const waiting = worker(
    region.id,
    `
    const other = native.mapRegion(region);
    const byte = new Uint8Array(other.memory)[0];
    await other.unmap();
    say(byte);`,
  );
  await until("the fault", () => here.length > 0);
  expect(here).toEqual([0]);
  await storeChunks(region, [[0, content]], true);
  await until("the byte", () => waiting.said.length === 1);
  expect(waiting.said).toEqual([content[0]]);
  await waiting.end();
  await mapping.unmap();
});

test("flushMappings() marks what was written through memory that another thread mapped", async () => {
  const region = openRegion({ bytes: 8 * CHUNK });
  const mapping = native().mapRegion(region);
  onTestFinished(() => mapping.unmap());
  const bytes = new Uint8Array(mapping.memory);
  bytes[3 * CHUNK] = 1;
  bytes[6 * CHUNK] = 1;
  const { said, end } = worker(
    region.id,
    `await region.flushMappings(); say([...region.takeDirty()]); await region.close(); say(region.id);`,
  );
  await until("the marks", () => said.length === 2);
  expect(indexesOf(Uint8Array.from(said[0] as number[]))).toEqual([3, 6]);
  expect(said[1], "closed there, and not here").toBe(0);
  expect(region.stats().dirtyChunks).toBe(0);
  await end();
});

test("rekey() changes every hash from then on", async () => {
  const region = openRegion({ bytes: 2 * CHUNK });
  const hashes = async (): Promise<Buffer> =>
    Buffer.from((await region.hash(Uint32Array.of(0, 1))).hashes);
  const before = await hashes();
  const key = new Uint8Array(32).fill(5);
  region.rekey(key);
  const after = await hashes();
  expect(after.equals(before)).toBe(false);
  expect(after.subarray(0, 32)).toEqual(Buffer.from(native().blake3(new Uint8Array(CHUNK), key)));
  expect(() => region.rekey(new Uint8Array(31))).toThrow(/key must have 32 bytes/);
});

test("a thread that is ended in the middle of its reads takes their buffers with it only afterwards", async () => {
  const region = openRegion({ bytes: 256 * CHUNK });
  for (let round = 0; round < 10; round++) {
    const { said, end } = worker(
      region.id,
      `
      const all = Uint32Array.from({ length: ${256} }, (_, i) => i);
      for (let i = 0; i < 50; i++) void region.read(all, new Uint8Array(${256 * CHUNK}));
      say("reading");`,
    );
    await until("the reads", () => said.length > 0);
    await end();
  }
  expect((await region.hash(Uint32Array.of(0))).zero[0]).toBe(1);
});
