import {
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { execFileSync, spawnSync } from "node:child_process";
import path from "node:path";
import v8 from "node:v8";
import vm from "node:vm";

import fc from "fast-check";
import { beforeEach, expect, onTestFinished, test } from "vitest";

import { NativeError, type NativeRegion, StoreOutcome, ZERO_CHUNK } from "../../native/index.ts";
import { skipUnless } from "../support/requires.ts";
import {
  bitmapOf,
  CHUNK,
  indexesOf,
  isRoot,
  KEY,
  native,
  openRegion,
  readAll,
  requireNative,
  storeChunks,
  temporaryFolder,
  until,
} from "./support/exports.ts";

beforeEach((ctx) => skipUnless(ctx, requireNative()));

const SMALL = 4096;

v8.setFlagsFromString("--expose-gc");
const collectGarbage = vm.runInNewContext("gc") as () => void;

function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof NativeError) return error.code;
    throw error;
  }
  return "no error";
}

// The region against the simplest thing that could be right: an array, a set of present chunks and a set
// of dirty ones. The last chunk is short on purpose.
test("a region behaves as an array of bytes with two sets of chunks", async () => {
  const chunkCount = 20;
  const bytes = chunkCount * SMALL - 1000;
  const chunk = fc.nat(chunkCount - 1);
  const command = fc.oneof(
    fc.record({
      kind: fc.constant("store"),
      chunks: fc.array(chunk, { maxLength: 6 }),
      fill: fc.nat(255),
      ifAbsent: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant("zero"),
      chunks: fc.array(chunk, { maxLength: 6 }),
      fill: fc.constant(0),
      ifAbsent: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant("present"),
      chunks: fc.array(chunk),
      fill: fc.constant(0),
      ifAbsent: fc.constant(false),
    }),
    fc.record({
      kind: fc.constant("dirty"),
      chunks: fc.array(chunk),
      fill: fc.constant(0),
      ifAbsent: fc.constant(false),
    }),
    fc.record({
      kind: fc.constant("take"),
      chunks: fc.constant([]),
      fill: fc.constant(0),
      ifAbsent: fc.constant(false),
    }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(command, { maxLength: 20 }),
      fc.constantFrom(1, 2, 3),
      async (commands, threads) => {
        const region = native().openRegion({
          store: { kind: "memory" },
          bytes,
          chunkBytes: SMALL,
          hashKey: KEY,
          present: "none",
          gate: "closed",
          threads,
        });
        const model = new Uint8Array(bytes);
        const present = new Set<number>();
        const dirty = new Set<number>();
        const answers: number[][] = [];
        const right: number[][] = [];
        const span = (index: number): [number, number] => [
          index * SMALL,
          Math.min(bytes, (index + 1) * SMALL),
        ];
        for (const { kind, chunks, fill, ifAbsent } of commands) {
          if (kind === "present") {
            region.setPresent(bitmapOf(chunks, chunkCount));
            for (const index of chunks) present.add(index);
          } else if (kind === "dirty") {
            region.mergeDirty(bitmapOf(chunks, chunkCount));
            for (const index of chunks) dirty.add(index);
          } else if (kind === "take") {
            answers.push(indexesOf(region.takeDirty()));
            right.push([...dirty].toSorted((a, b) => a - b));
            dirty.clear();
          } else {
            const expected: number[] = [];
            const data = chunks.map((index, position) => {
              const [from, to] = span(index);
              const value = kind === "zero" ? 0 : (fill + position) & 255;
              const skipped = ifAbsent && present.has(index);
              expected.push(skipped ? StoreOutcome.skipped : StoreOutcome.stored);
              if (!skipped) model.fill(value, from, to);
              if (ifAbsent) present.add(index);
              return [index, new Uint8Array(to - from).fill(value)] as const;
            });
            const outcomes =
              kind === "zero"
                ? await region.store({
                    indexes: Uint32Array.from(chunks),
                    offsets: new Uint32Array(chunks.length).fill(ZERO_CHUNK),
                    bytes: new Uint8Array(),
                    hashes: Buffer.concat(data.map(([, zeros]) => native().blake3(zeros, KEY))),
                    ifAbsent,
                  })
                : await storeChunks(region, data, ifAbsent);
            answers.push([...outcomes]);
            right.push(expected);
          }
          answers.push(indexesOf(region.presence()));
          right.push([...present].toSorted((a, b) => a - b));
        }
        expect(answers).toEqual(right);
        expect(Buffer.compare(await readAll(region), model)).toBe(0);
        const { hashes, zero } = await region.hash(
          Uint32Array.from({ length: chunkCount }, (_, index) => index),
        );
        for (let index = 0; index < chunkCount; index++) {
          const expected = model.subarray(...span(index));
          expect(Buffer.from(hashes.subarray(index * 32, index * 32 + 32))).toEqual(
            Buffer.from(native().blake3(expected, KEY)),
          );
          expect(zero[index]).toBe(expected.every((byte) => byte === 0) ? 1 : 0);
        }
        await region.close();
      },
    ),
    { numRuns: 60 },
  );
});

test("store() of one chunk takes effect in the order of the calls", async () => {
  const region = openRegion({ bytes: 8 * CHUNK, gate: "closed", threads: 4 });
  const calls = Array.from({ length: 200 }, (_, call) =>
    storeChunks(
      region,
      [
        [3, new Uint8Array(CHUNK).fill(call)],
        [call % 8 === 3 ? 2 : call % 8, new Uint8Array(CHUNK).fill(call)],
      ],
      false,
    ),
  );
  await Promise.all(calls);
  const into = new Uint8Array(CHUNK);
  await region.read(Uint32Array.of(3), into);
  expect(into.every((byte) => byte === 199)).toBe(true);
});

test("store() with ifAbsent lets exactly one of many stores of a chunk through", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none", threads: 4 });
  const calls = Array.from({ length: 64 }, (_, call) =>
    storeChunks(
      region,
      [0, 1, 2, 3].map((index) => [index, new Uint8Array(CHUNK).fill(call + 1)] as const),
      true,
    ),
  );
  const outcomes = await Promise.all(calls);
  for (const index of [0, 1, 2, 3]) {
    const winners = outcomes.flatMap((outcome, call) =>
      outcome[index] === StoreOutcome.stored ? [call] : [],
    );
    expect(winners).toHaveLength(1);
    const into = new Uint8Array(CHUNK);
    await region.read(Uint32Array.of(index), into);
    expect(into.every((byte) => byte === (winners[0] ?? -1) + 1)).toBe(true);
  }
  expect(region.stats().presentChunks).toBe(4);
});

// A store may hold the claim while setPresent() comes: whichever wins, the chunk ends up present.
test("setPresent() during store() loses no chunk", async () => {
  const chunkCount = 256;
  for (let round = 0; round < 20; round++) {
    const region = openRegion({
      bytes: chunkCount * SMALL,
      chunkBytes: SMALL,
      present: "none",
      threads: 2,
    });
    const all = Array.from({ length: chunkCount }, (_, index) => index);
    const wrong = round % 2 === 1; // half of the rounds: the store fails, and must not take the mark along
    const bytes = new Uint8Array(SMALL).fill(1);
    const stores = region.store({
      indexes: Uint32Array.from(all),
      offsets: new Uint32Array(chunkCount),
      bytes,
      hashes: wrong
        ? new Uint8Array(32 * chunkCount)
        : Buffer.concat(all.map(() => native().blake3(bytes, KEY))),
      ifAbsent: true,
    });
    region.setPresent(bitmapOf(all, chunkCount));
    await stores;
    expect(region.stats().presentChunks).toBe(chunkCount);
  }
});

test("store() writes nothing where the hash is wrong", async () => {
  const region = openRegion({ bytes: 2 * CHUNK, present: "none" });
  const bytes = new Uint8Array(2 * CHUNK).fill(9);
  const hashes = new Uint8Array(64);
  hashes.set(native().blake3(bytes.subarray(CHUNK), KEY), 32);
  const request = {
    indexes: Uint32Array.of(0, 1),
    offsets: Uint32Array.of(0, CHUNK),
    bytes,
    hashes,
  };
  const outcomes = await region.store({ ...request, ifAbsent: true });
  expect([...outcomes]).toEqual([StoreOutcome.mismatch, StoreOutcome.stored]);
  expect((await readAll(region)).subarray(0, CHUNK).every((byte) => byte === 0)).toBe(true);
  expect(indexesOf(region.presence())).toEqual([1]);
});

test("an unkeyed hash is not accepted for a keyed one", async () => {
  const region = openRegion({ bytes: CHUNK, present: "none" });
  const bytes = new Uint8Array(CHUNK).fill(1);
  const request = { indexes: Uint32Array.of(0), offsets: Uint32Array.of(0), bytes };
  const outcomes = await region.store({
    ...request,
    hashes: native().blake3(bytes),
    ifAbsent: false,
  });
  expect(outcomes[0]).toBe(StoreOutcome.mismatch);
});

test.each(["read", "store"] as const)(
  "%s() refuses indexes and buffers that do not fit",
  (method) => {
    const region = openRegion({ bytes: 2 * CHUNK });
    const request = (index: number, offset: number): (() => unknown) => {
      if (method === "read")
        return () => region.read(Uint32Array.of(index), new Uint8Array(offset));
      return () =>
        region.store({
          indexes: Uint32Array.of(index),
          offsets: Uint32Array.of(offset),
          bytes: new Uint8Array(CHUNK),
          hashes: new Uint8Array(32),
          ifAbsent: false,
        });
    };
    expect(request(2, method === "read" ? CHUNK : 0)).toThrow(TypeError);
    expect(request(0, method === "read" ? CHUNK - 1 : 1)).toThrow(TypeError);
  },
);

test("a file that a region has open is in use for everybody else", async () => {
  const file = path.join(temporaryFolder(), "region");
  const store = { kind: "file", path: file, create: true, reserve: false } as const;
  const region = openRegion({ bytes: CHUNK, store });
  expect(codeOf(() => openRegion({ bytes: CHUNK, store }))).toBe("EBUSY");
  expect(codeOf(() => openRegion({ bytes: CHUNK, store: { ...store, readOnly: true } }))).toBe(
    "EBUSY",
  );
  await region.close();
  await openRegion({ bytes: CHUNK, store }).close();
  expect(statSync(file).size).toBe(CHUNK);
  expect(statSync(file).mode & 0o777).toBe(0o600);
});

test("an existing file must have the region's size, and the error names both", () => {
  const file = path.join(temporaryFolder(), "region");
  writeFileSync(file, "12345");
  const open = () =>
    openRegion({ bytes: CHUNK, store: { kind: "file", path: file, create: true, reserve: false } });
  expect(codeOf(open)).toBe("ESIZE");
  expect(open).toThrow(/5 bytes.*65536/);
  expect(readFileSync(file, "utf8")).toBe("12345");
});

test("an absent file is an error unless it is to be created", () => {
  const file = path.join(temporaryFolder(), "region");
  const store = { kind: "file", path: file, create: false, reserve: false } as const;
  expect(() => openRegion({ bytes: CHUNK, store })).toThrow(
    expect.objectContaining({
      name: "NativeError",
      code: "ENOENT",
      errno: -2,
      syscall: "open",
      path: file,
    }),
  );
});

test("a read-only store is never written", async () => {
  const file = path.join(temporaryFolder(), "region");
  writeFileSync(file, new Uint8Array(CHUNK).fill(3));
  const store = {
    kind: "file",
    path: file,
    create: false,
    reserve: false,
    readOnly: true,
  } as const;
  const region = openRegion({ bytes: CHUNK, store });
  await expect(storeChunks(region, [[0, new Uint8Array(CHUNK)]], false)).rejects.toMatchObject({
    code: "EROFS",
  });
  expect((await readAll(region)).every((byte) => byte === 3)).toBe(true);
});

test("a file that is truncated under the region is EIO, not zeros and not a crash", async () => {
  const file = path.join(temporaryFolder(), "region");
  const region = openRegion({
    bytes: 4 * CHUNK,
    store: { kind: "file", path: file, create: true, reserve: false },
  });
  truncateSync(file, CHUNK + 10);
  await expect(readAll(region)).rejects.toMatchObject({
    code: "EIO",
    message: expect.stringContaining("truncated"),
  });
  await expect(
    storeChunks(region, [[3, new Uint8Array(CHUNK).fill(1)]], false),
  ).rejects.toMatchObject({ code: "EIO" });
  expect(statSync(file).size).toBe(CHUNK + 10);
});

test("zero chunks become holes, or stay reserved where blocks were reserved", async () => {
  const folder = temporaryFolder();
  for (const reserve of [false, true]) {
    const file = path.join(folder, `reserve-${reserve}`);
    const region = openRegion({
      bytes: 16 * CHUNK,
      present: "none",
      store: { kind: "file", path: file, create: true, reserve },
    });
    await storeChunks(region, [[5, new Uint8Array(CHUNK).fill(1)]], false);
    await region.sync();
    const before = statSync(file).blocks;
    const zeros = await region.store({
      indexes: Uint32Array.of(5, 6),
      offsets: Uint32Array.of(ZERO_CHUNK, ZERO_CHUNK),
      bytes: new Uint8Array(),
      hashes: Buffer.concat([0, 1].map(() => native().blake3(new Uint8Array(CHUNK), KEY))),
      ifAbsent: true,
    });
    expect([...zeros]).toEqual([StoreOutcome.stored, StoreOutcome.stored]);
    expect((await readAll(region)).every((byte) => byte === 0)).toBe(true);
    const after = statSync(file).blocks;
    expect(after < before).toBe(!reserve);
  }
});

function tinyTmpfs(kib: number): string {
  const folder = path.join(temporaryFolder(), "tiny");
  mkdirSync(folder);
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${kib}k`, "tmpfs", folder]);
  onTestFinished(() => void spawnSync("umount", ["-l", folder]));
  return folder;
}

test("a full disk is an error at openRegion() with reserve, and at store() without", async (ctx) => {
  skipUnless(ctx, { available: isRoot(), path: "", skipReason: "needs root, for a tiny tmpfs" });
  const folder = tinyTmpfs(256);
  const file = path.join(folder, "region");
  const store = { kind: "file", path: file, create: true, reserve: true } as const;
  expect(codeOf(() => openRegion({ bytes: 16 * CHUNK, store }))).toBe("ENOSPC");
  expect(existsSync(file)).toBe(false);

  const region = openRegion({ bytes: 16 * CHUNK, store: { ...store, reserve: false } });
  const chunks = Array.from(
    { length: 16 },
    (_, index) => [index, new Uint8Array(CHUNK).fill(1)] as const,
  );
  await expect(storeChunks(region, chunks, false)).rejects.toMatchObject({
    code: "ENOSPC",
    syscall: "pwrite",
    path: file,
  });
});

test("after close() every method says so, and close() is idempotent", async () => {
  const region = openRegion({ bytes: CHUNK });
  const pending = region.hash(Uint32Array.of(0)).catch((error: unknown) => error);
  await Promise.all([region.close(), region.close()]);
  // Done in time, or refused: either way it has settled.
  const outcome = await pending;
  expect(outcome instanceof NativeError ? outcome.code : "ESHUTDOWN").toBe("ESHUTDOWN");
  await expect(region.hash(Uint32Array.of(0))).rejects.toMatchObject({ code: "ESHUTDOWN" });
  await expect(region.sync()).rejects.toMatchObject({ code: "ESHUTDOWN" });
  expect(codeOf(() => region.takeDirty())).toBe("ESHUTDOWN");
});

test("read() fills a buffer that the caller has let go of", async () => {
  const region = openRegion({ bytes: 64 * CHUNK });
  const indexes = Uint32Array.from({ length: 64 }, (_, index) => index);
  // Nobody but the addon refers to these; a collected one would be a use after free.
  const reads = Array.from({ length: 32 }, () => region.read(indexes, new Uint8Array(64 * CHUNK)));
  const filler = Array.from({ length: 64 }, () => new Uint8Array(1 << 20));
  for (const { zero } of await Promise.all(reads))
    expect(zero.every((flag) => flag === 1)).toBe(true);
  expect(filler).toHaveLength(64);
});

// The callback commonly refers back to what owns the region: a circle through the addon that the
// collector must see, or every migration of a long-lived process keeps its memory.
test.each([
  ["after close()", true],
  ["abandoned open", false],
])("a region whose onFault refers back to it is collected %s", async (_, closed) => {
  const rounds = 50;
  let collected = 0;
  const registry = new FinalizationRegistry(() => collected++);
  for (let round = 0; round < rounds; round++) {
    const owner: { region?: NativeRegion } = {};
    owner.region = native().openRegion({
      store: { kind: "memory" },
      bytes: CHUNK,
      chunkBytes: CHUNK,
      hashKey: KEY,
      present: "none",
      gate: "open",
      onFault: () => void owner.region,
    });
    registry.register(owner, undefined);
    if (closed) await owner.region.close();
  }
  // The loop's last one may still be on the stack.
  await until("the regions to be collected", () => {
    collectGarbage();
    return collected >= rounds - 2;
  });
});
