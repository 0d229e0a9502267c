/**
 * Regions with content, near and far; no test framework is needed.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";
import { loadNative, type NativeRegion, type RegionOptions } from "../../native/index.ts";

export const KEY = Uint8Array.from({ length: 32 }, (_, index) => index);
export const CHUNK = 64 << 10;
const STORE_BATCH_CHUNKS = 64;

/** Bytes that repeat nowhere near, with holes of whole chunks. */
export function image(bytes: number): Buffer {
  const out = Buffer.alloc(bytes);
  let state = 0x9e3779b9;
  for (let at = 0; at + 4 <= bytes; at += 4) {
    if ((at >> 18) % 3 === 1) continue;
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    out.writeUInt32LE(state, at);
  }
  return out;
}

export function memoryRegion(options: Partial<RegionOptions> & { bytes: number }): NativeRegion {
  return loadNative().openRegion({
    store: { kind: "memory" },
    chunkBytes: CHUNK,
    hashKey: KEY,
    present: "all",
    gate: "open",
    ...options,
  });
}

/** A region that has everything. */
export async function filledRegion(content: Uint8Array): Promise<NativeRegion> {
  const region = memoryRegion({ bytes: content.length, present: "none" });
  for (let first = 0; first < region.chunkCount; first += STORE_BATCH_CHUNKS) {
    const count = Math.min(STORE_BATCH_CHUNKS, region.chunkCount - first);
    await storeChunks(
      region,
      Array.from({ length: count }, (_, i) => chunkOf(content, first + i)),
      true,
    );
  }
  return region;
}

export interface FarRegion {
  readonly region: NativeRegion;
  /** What was asked for, in order: nothing may stand in it twice. */
  readonly fetched: number[];
}

/** A region whose chunks are elsewhere: each arrives a while after somebody asked for it. */
export function emptyRegion(content: Uint8Array): FarRegion {
  const fetched: number[] = [];
  const region: NativeRegion = memoryRegion({
    bytes: content.length,
    present: "none",
    onFault: (indexes) => {
      const asked = [...indexes];
      fetched.push(...asked);
      void sleep(2).then(() =>
        storeChunks(
          region,
          asked.map((index) => chunkOf(content, index)),
          true,
        ),
      );
    },
  });
  return { region, fetched };
}

/** Stores chunks whose bytes and hashes are right. */
export function storeChunks(
  region: NativeRegion,
  chunks: readonly (readonly [index: number, bytes: Uint8Array])[],
  ifAbsent: boolean,
): Promise<Uint8Array> {
  const hashes = new Uint8Array(chunks.length * 32);
  const offsets: number[] = [];
  let end = 0;
  for (const [position, [, bytes]] of chunks.entries()) {
    hashes.set(loadNative().blake3(bytes, KEY), position * 32);
    offsets.push(end);
    end += bytes.length;
  }
  const bytes = new Uint8Array(end);
  for (const [position, [, chunk]] of chunks.entries()) bytes.set(chunk, offsets[position]);
  return region.store({
    indexes: Uint32Array.from(chunks, ([index]) => index),
    offsets: Uint32Array.from(offsets),
    bytes,
    hashes,
    ifAbsent,
  });
}

/** All of it, as its owner sees it. */
export async function contentOf(region: NativeRegion): Promise<Buffer> {
  const into = Buffer.alloc(region.chunkCount * region.chunkBytes);
  await region.read(
    Uint32Array.from({ length: region.chunkCount }, (_, index) => index),
    into,
  );
  return into.subarray(0, region.bytes);
}

export function indexesOf(bitmap: Uint8Array): number[] {
  return [...bitmap].flatMap((byte, at) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit) & 1).map((bit) => at * 8 + bit),
  );
}

function chunkOf(content: Uint8Array, index: number): [number, Uint8Array] {
  return [index, content.subarray(index * CHUNK, (index + 1) * CHUNK)];
}
