/** A region that is a copy of what is kept elsewhere: durability is the owner's, and chunks may be taken away. */
import { fork } from "node:child_process";
import { once } from "node:events";
import path from "node:path";

import { beforeEach, expect, onTestFinished, test } from "vitest";

import { type NativeRegion, type RegionOptions, StoreOutcome } from "../../native/index.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { skipUnless } from "../support/requires.ts";
import {
  CHUNK,
  indexesOf,
  native,
  openRegion,
  requireNative,
  temporaryFolder,
  until,
} from "./support/exports.ts";
import { COMMAND, ERROR, FLAG, NbdClient } from "./support/nbd-client.ts";

beforeEach((ctx) => skipUnless(ctx, requireNative()));

const full = (value: number, bytes = CHUNK): Buffer => Buffer.alloc(bytes, value);

async function shown(region: NativeRegion): Promise<NbdClient> {
  const server = native().serveNbd({ listen: { path: path.join(temporaryFolder(), "nbd.sock") } });
  onTestFinished(() => server.stop());
  server.add("r", region);
  const client = await NbdClient.open(server.address, "r");
  onTestFinished(() => client.end());
  return client;
}

function copy(options: Partial<RegionOptions>): NativeRegion {
  return openRegion({ bytes: 8 * CHUNK, present: "all", onSync: () => undefined, ...options });
}

/** Brings chunks in without hashes. */
async function bring(
  region: NativeRegion,
  chunks: readonly number[],
  value: (chunk: number) => number,
): Promise<Uint8Array> {
  return await region.store({
    indexes: Uint32Array.from(chunks),
    offsets: Uint32Array.from(chunks, (_, k) => k * CHUNK),
    bytes: Buffer.concat(chunks.map((chunk) => full(value(chunk)))),
    hashes: new Uint8Array(),
    ifAbsent: true,
  });
}

test("a flush waits until the owner says that what was written before it is elsewhere", async () => {
  let asked = 0;
  const region = copy({ onSync: () => asked++ });
  const client = await shown(region);
  await client.write(0, full(1, 4096));
  let answered = false;
  const flushed = client.code({ command: COMMAND.flush }).then((code) => {
    answered = true;
    return code;
  });
  await until("asked", () => asked === 1);
  const group = region.takeSyncs();
  expect(indexesOf(region.takeDirty())).toEqual([0]);
  // Of the next group: what this one waits for was written after takeDirty.
  await client.write(CHUNK, full(2, 4096));
  const later = client.code({ command: COMMAND.flush });
  await until("asked again", () => asked === 2);
  expect(answered).toBe(false);
  region.settleSyncs(group);
  expect(await flushed).toBe(0);
  const next = region.takeSyncs();
  expect(indexesOf(region.takeDirty())).toEqual([1]);
  region.settleSyncs(next, "EIO");
  expect(await later).toBe(ERROR.io);
});

test("a durable write, and every write where writes go through, wait too", async () => {
  for (const [writeThrough, flags] of [
    [false, FLAG.fua],
    [true, 0],
  ] as const) {
    let asked = 0;
    const region = copy({ writeThrough, onSync: () => asked++ });
    const client = await shown(region);
    for (const length of [512, 200_000]) {
      const before = asked;
      const written = client.write(0, full(7, length), flags);
      await until("asked", () => asked > before);
      // It has been written by then.
      expect(indexesOf(region.takeDirty())[0]).toBe(0);
      region.settleSyncs(region.takeSyncs());
      expect(await written).toBe(0);
      expect(await client.read(0, length)).toEqual(full(7, length));
    }
  }
});

test("closing answers who waits", async () => {
  let asked = 0;
  const region = copy({ onSync: () => asked++ });
  const server = native().serveNbd({ listen: { path: path.join(temporaryFolder(), "nbd.sock") } });
  server.add("r", region);
  const client = await NbdClient.open(server.address, "r");
  const flushed = client.code({ command: COMMAND.flush }).catch((error: unknown) => error);
  await until("asked", () => asked === 1);
  await server.stop();
  await flushed;
  client.end();
});

test("what is taken away is asked for again, and what was written stays", async () => {
  const faults: number[] = [];
  const region = copy({
    present: "none",
    evictable: true,
    onFault: (chunks) => {
      faults.push(...chunks);
      void bring(region, [...chunks], (chunk) => chunk + 1);
    },
  });
  const client = await shown(region);
  expect(await client.read(0, 2 * CHUNK)).toEqual(Buffer.concat([full(1), full(2)]));
  await client.write(CHUNK, full(9, 100));
  expect([...(await region.evict(Uint32Array.of(0, 1, 5)))]).toEqual([0]);
  expect(indexesOf(region.presence())).toEqual([1]);
  expect(faults).toEqual([0, 1]);
  expect(await client.read(0, 2 * CHUNK)).toEqual(
    Buffer.concat([full(1), full(9, 100), full(2, CHUNK - 100)]),
  );
  expect(faults).toEqual([0, 1, 0]);
  await expect(async () => await copy({}).evict(Uint32Array.of(0))).rejects.toThrow(/evictable/);
});

test("taking away, bringing and writing at once: every read is of the last write", async () => {
  const chunkCount = 8;
  const random = new SeededRandom(11);
  const elsewhere = new Uint8Array(chunkCount);
  const region = copy({
    present: "none",
    evictable: true,
    onFault: (chunks) => void bringAgain([...chunks]),
  });
  async function bringAgain(chunks: readonly number[]): Promise<void> {
    const outcomes = await bring(region, chunks, (chunk) => elsewhere[chunk] ?? 0);
    const presence = indexesOf(region.presence());
    const missing = chunks.filter(
      (chunk, k) => outcomes[k] !== StoreOutcome.stored && !presence.includes(chunk),
    );
    if (missing.length > 0) await bringAgain(missing);
  }
  const client = await shown(region);
  let evictions = 0;
  let over = false;
  const evicting = (async () => {
    while (!over) {
      // What was written is brought elsewhere first, as its owner does.
      for (const chunk of indexesOf(region.takeDirty())) {
        const bytes = new Uint8Array(CHUNK);
        await region.read(Uint32Array.of(chunk), bytes);
        elsewhere[chunk] = bytes[0] ?? 0;
      }
      evictions += (await region.evict(Uint32Array.from({ length: chunkCount }, (_, k) => k)))
        .length;
    }
  })();
  const last = new Uint8Array(chunkCount);
  for (let step = 0; step < 600; step++) {
    const chunk = random.below(chunkCount);
    if (random.below(2) === 0) {
      last[chunk] = random.below(256);
      expect(await client.write(chunk * CHUNK, full(last[chunk] ?? 0))).toBe(0);
    } else {
      expect(await client.read(chunk * CHUNK, CHUNK)).toEqual(full(last[chunk] ?? 0));
    }
  }
  over = true;
  await evicting;
  expect(evictions).toBeGreaterThan(0);
});

test("which chunks were written and not settled outlives a process that is killed", async () => {
  const folder = temporaryFolder();
  const child = fork(path.join(import.meta.dirname, "support/copy-writer.ts"), [folder], {
    execArgv: [],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const [said] = (await once(child, "message")) as [string];
  expect(said).toBe("written");
  child.kill("SIGKILL");
  await once(child, "exit");
  const region = copy({
    present: "none",
    store: { kind: "file", path: path.join(folder, "bytes"), create: false, reserve: false },
    state: { path: path.join(folder, "state"), mode: "resume", writes: true },
  });
  expect(region.restored).toBe("exact");
  expect(indexesOf(region.written())).toEqual([3, 5]);
  expect(indexesOf(region.presence())).toEqual([1, 3, 5]);
});
