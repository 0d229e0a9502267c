/** Writes that must be found although nobody marks them. */
import { closeSync, copyFileSync, fsyncSync, openSync, renameSync, truncateSync } from "node:fs";
import { appendFileSync, ftruncateSync, rmSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";

import { beforeEach, describe, expect, onTestFinished, test } from "vitest";

import type { NativeRegion } from "../../../native/index.ts";
import {
  ScannedWrites,
  type Look,
  type ScannedWritesOptions,
} from "../../../peer/export/scanned-writes.ts";
import type { SentHash } from "../../../peer/region/region.ts";
import { indexesOf, KEY, native, requireNative } from "../../native/support/exports.ts";
import { findProgram } from "../../support/programs.mjs";
import { skipUnless, type Requirement } from "../../support/requires.ts";
import { folderOn, mapFile } from "./support/poke.ts";

const CHUNK = 4096;
const CHUNKS = 64;
const TAIL = 100;
const BYTES = (CHUNKS - 1) * CHUNK + TAIL;
/** Later than any stamp can be: what happened before has settled long ago. */
const MUCH_LATER_MS = 3_600_000;

interface Scene {
  readonly file: string;
  readonly region: NativeRegion;
  readonly writes: ScannedWrites;
  readonly looks: Look[];
  /** Of every chunk as it was when it was sent last. */
  readonly sentHash: SentHash;
  send(): Promise<void>;
  found(): Promise<number[]>;
}

function requireCompiler(): Requirement {
  const cc = findProgram("cc");
  const skipReason = "needs a C compiler: apt-get install -y gcc libc6-dev";
  return { available: cc !== undefined && cc !== "", path: cc ?? "", skipReason };
}

async function watch(folder: string, options: ScannedWritesOptions = {}): Promise<Scene> {
  const file = path.join(folder, "data");
  writeFileSync(file, Buffer.alloc(BYTES, 7));
  return await open(file, options);
}

async function open(
  file: string,
  options: ScannedWritesOptions = {},
  bytes = BYTES,
): Promise<Scene> {
  const region = native().openRegion({
    store: { kind: "file", path: file, create: false, reserve: false, readOnly: true },
    bytes,
    chunkBytes: CHUNK,
    hashKey: KEY,
    present: "all",
    gate: "open",
  });
  const looks: Look[] = [];
  const writes = await ScannedWrites.open(region, file, {
    onLook: (look) => looks.push(look),
    ...options,
  });
  onTestFinished(async () => {
    await writes.close();
    await region.close();
  });
  let sent: Uint8Array = new Uint8Array(0);
  const scene: Scene = {
    file,
    region,
    writes,
    looks,
    sentHash: (index) => sent.subarray(index * 32, index * 32 + 32),
    async send() {
      const all = Uint32Array.from({ length: region.chunkCount }, (_, index) => index);
      sent = (await region.hash(all)).hashes;
    },
    async found() {
      return indexesOf(await writes.collect(scene.sentHash));
    },
  };
  return scene;
}

/** A clock that runs ahead of the one that stamps files. */
const later = (): number => Date.now() + MUCH_LATER_MS;

describe.each(["disk", "tmpfs"] as const)("on %s", (kind) => {
  let folder = "";

  beforeEach(async (ctx) => {
    const place = await folderOn(kind);
    skipUnless(ctx, requireNative(), requireCompiler(), place);
    folder = place.path;
  });

  test("ScannedWrites.collect() finds exactly the chunks that a mapping or a write changed", async () => {
    const scene = await watch(folder);
    const { poke } = mapFile(scene.file);
    await scene.writes.begin();
    await scene.send();
    await poke(3 * CHUNK + 17, 1);
    await poke(BYTES - 1, 2);
    const fd = openSync(scene.file, "r+");
    writeSync(fd, "x", 9 * CHUNK);
    closeSync(fd);
    expect(await scene.found()).toEqual([3, 9, CHUNKS - 1]);
    await scene.send();
    expect(await scene.found()).toEqual([]);
    // The page of the first store is known to be written: the mapping stores into it again.
    await poke(3 * CHUNK + 17, 3);
    expect(await scene.found()).toEqual([3]);
  });

  // The store that makes a page writable is stamped; those after it are not, until the page is written back.
  test("a store between the stamp and the hash, and one after the hash, are both found", async () => {
    let between: (() => Promise<void>) | undefined;
    const scene = await watch(folder, {
      async statOf(file) {
        const run = between;
        between = undefined;
        await run?.();
        return await file.stat({ bigint: true });
      },
    });
    const { poke } = mapFile(scene.file);
    await scene.writes.begin();
    await scene.send();
    between = () => poke(5 * CHUNK, 1);
    expect(await scene.found()).toEqual([5]);
    await scene.send();
    await poke(5 * CHUNK, 2);
    await scene.writes.freeze();
    expect(await scene.found()).toEqual([5]);
  });

  test("a store that is stamped with the same tick as the look is found", async () => {
    // A kernel whose clock stands still: every write has the time of the last look.
    const frozenNs = BigInt(Date.now()) * 1_000_000n;
    const scene = await watch(folder, {
      async statOf(file) {
        const info = await file.stat({ bigint: true });
        return Object.assign(info, { mtimeNs: frozenNs, ctimeNs: frozenNs });
      },
    });
    const { poke } = mapFile(scene.file);
    await scene.writes.begin();
    await scene.send();
    await poke(CHUNK, 1);
    expect(await scene.found()).toEqual([1]);
  });

  test("a store into a hole is data, whether or not it has reached the disk", async () => {
    const file = path.join(folder, "sparse");
    const fd = openSync(file, "w");
    ftruncateSync(fd, BYTES);
    fsyncSync(fd);
    closeSync(fd);
    const scene = await open(file);
    const { poke } = mapFile(file);
    const all = Uint32Array.from({ length: CHUNKS }, (_, index) => index);
    expect([...(await scene.region.hash(all)).zero]).toEqual(Array(CHUNKS).fill(1));
    await scene.writes.begin();
    await scene.send();
    // Straight to the region: no write-back in between.
    await poke(20 * CHUNK + 4000, 9);
    await poke(BYTES - 1, 9);
    const { zero, hashes } = await scene.region.hash(all);
    expect([...zero].flatMap((isZero, index) => (isZero === 1 ? [] : [index]))).toEqual([
      20,
      CHUNKS - 1,
    ]);
    const chunk = Buffer.alloc(CHUNK);
    chunk[4000] = 9;
    expect(Buffer.from(hashes.subarray(20 * 32, 21 * 32))).toEqual(
      Buffer.from(native().blake3(chunk, KEY)),
    );
    expect(await scene.found()).toEqual([20, CHUNKS - 1]);
  });

  test("a file that was cut or replaced is SOURCE_CHANGED, with the cure; one that grew or is gone is whole", async () => {
    const scene = await watch(folder);
    await scene.writes.begin();
    await scene.send();
    const failure = (pattern: RegExp): Promise<void> =>
      expect(scene.found()).rejects.toThrow(
        expect.objectContaining({
          code: "SOURCE_CHANGED",
          message: expect.stringMatching(pattern),
        }),
      );
    truncateSync(scene.file, BYTES - 1);
    await failure(/shrank .* restore it/);
    truncateSync(scene.file, BYTES);
    appendFileSync(scene.file, "more");
    expect(await scene.found()).toEqual([CHUNKS - 1]);
    copyFileSync(scene.file, `${scene.file}.new`);
    renameSync(`${scene.file}.new`, scene.file);
    await failure(/another file now.* start again/);
    rmSync(scene.file);
    expect(await scene.found()).toEqual([CHUNKS - 1]);
  });

  test("a file that is cut during the look is SOURCE_CHANGED too", async () => {
    let cut = false;
    const scene = await watch(folder, {
      async statOf(file) {
        const info = await file.stat({ bigint: true });
        if (cut) truncateSync(scene.file, CHUNK);
        return info;
      },
    });
    await scene.writes.begin();
    await scene.send();
    cut = true;
    await expect(scene.found()).rejects.toMatchObject({ code: "SOURCE_CHANGED" });
  });
});

describe("the times of a file", () => {
  let folder = "";

  beforeEach(async (ctx) => {
    const place = await folderOn("disk");
    skipUnless(ctx, requireNative(), requireCompiler(), place);
    folder = place.path;
  });

  test("spare a look once they have settled, also the last one", async () => {
    const scene = await watch(folder, { now: later });
    await scene.writes.begin();
    await scene.send();
    expect(await scene.found()).toEqual([]);
    await scene.writes.freeze();
    expect(await scene.found()).toEqual([]);
    expect(scene.looks).toEqual([]);
  });

  test("spare none while they have not, and the last one only after a minute", async () => {
    let aheadMs = 0;
    const scene = await watch(folder, { now: () => Date.now() + aheadMs });
    await scene.writes.begin();
    await scene.send();
    await scene.found();
    expect(scene.looks).toHaveLength(1);
    aheadMs = 10_000;
    await scene.found();
    await scene.found();
    expect(scene.looks).toHaveLength(2);
    await scene.writes.freeze();
    await scene.found();
    expect(scene.looks).toHaveLength(3);
  });

  test("are moved by a store through a mapping after each write-back", async () => {
    const scene = await watch(folder, { now: later });
    const { poke } = mapFile(scene.file);
    await scene.writes.begin();
    await scene.send();
    for (const byte of [1, 2, 3]) {
      await poke(8 * CHUNK, byte);
      expect(await scene.found()).toEqual([8]);
      await scene.send();
    }
  });
});

test("tmpfs: every look is made, for its times say nothing of mappings", async (ctx) => {
  const place = await folderOn("tmpfs");
  skipUnless(ctx, requireNative(), requireCompiler(), place);
  const scene = await watch(place.path, { now: later });
  const { poke } = mapFile(scene.file);
  await scene.writes.begin();
  await scene.send();
  for (const byte of [1, 2]) {
    await poke(8 * CHUNK, byte);
    expect(await scene.found()).toEqual([8]);
    await scene.send();
  }
  expect(scene.looks.map(({ changedChunks }) => changedChunks)).toEqual([1, 1]);
});

test("a look that the freeze overtakes is cut short, and the last one finds what it left", async (ctx) => {
  const place = await folderOn("tmpfs");
  skipUnless(ctx, requireNative(), place);
  const file = path.join(place.path, "large");
  writeFileSync(file, "");
  const bytes = 160 << 20;
  truncateSync(file, bytes);
  const scene = await open(file, {}, bytes);
  await scene.writes.begin();
  await scene.send();
  const fd = openSync(file, "r+");
  for (const at of [0, bytes - 1]) writeSync(fd, "x", at);
  closeSync(fd);
  const overtaken = scene.found();
  await scene.writes.freeze();
  expect(await overtaken).toEqual([0]);
  expect(scene.looks).toEqual([]);
  expect(await scene.found()).toEqual([0, bytes / CHUNK - 1]);
  expect(scene.looks).toHaveLength(1);
});
