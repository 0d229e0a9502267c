/**
 * What migrates, as the migration sees it: one region or several, in one numbering of chunks.
 *
 * Regions that migrate together stand one after another in it, each beginning with a new chunk. So a dirty set, a
 * manifest, an epoch and a commit are those of all of them, and nothing can be handed over in part.
 *
 * @module
 */
import type { NativeRegion } from "../../native/index.ts";

/** One region's place among the chunks. */
export interface RegionSlice {
  readonly name: string;
  readonly bytes: number;
  readonly firstChunk: number;
  readonly chunkCount: number;
}

/** Lays regions out one after another. */
export function sliceRegions(
  regions: readonly { readonly name: string; readonly bytes: number }[],
  chunkBytes: number,
): RegionSlice[] {
  let firstChunk = 0;
  return regions.map(({ name, bytes }) => {
    const slice = { name, bytes, firstChunk, chunkCount: Math.ceil(bytes / chunkBytes) };
    firstChunk += slice.chunkCount;
    return slice;
  });
}

/** Bytes of a chunk: the last one of each region may be short. */
export function lengthOfChunk(
  slices: readonly RegionSlice[],
  chunkBytes: number,
  index: number,
): number {
  const slice = sliceOfChunk(slices, index);
  return Math.min(chunkBytes, slice.bytes - (index - slice.firstChunk) * chunkBytes);
}

/** The region that a chunk is of. @throws RangeError past the last chunk */
export function sliceOfChunk(slices: readonly RegionSlice[], index: number): RegionSlice {
  for (const slice of slices) if (index < slice.firstChunk + slice.chunkCount) return slice;
  throw new RangeError(`chunk ${index} is past the last one`);
}

/**
 * The part of the addon's region that moves chunks, over all regions; see `native/types.ts` for each promise.
 * `bytes` is their sum; buffers have a slot of `chunkBytes` per chunk, whatever the chunk's length.
 */
export interface ChunkStore extends Pick<
  NativeRegion,
  | "bytes"
  | "chunkBytes"
  | "chunkCount"
  | "read"
  | "hash"
  | "store"
  | "sync"
  | "setPresent"
  | "setGate"
  | "quiesce"
  | "stats"
  | "retryFaults"
> {
  readonly regions: readonly RegionSlice[];
  /** Bytes of a chunk: the last one of each region may be short. */
  chunkLength(index: number): number;
  /** What is present, with its bytes and hashes, survives a crash of this host once this resolves. */
  checkpoint(): Promise<void>;
}

/**
 * The hash of a chunk as it was last sent; `undefined` if it never was or is being sent now, so that nobody can
 * say in which state it will arrive.
 */
export type SentHash = (index: number) => Uint8Array | undefined;

/** How the source's writes are found, and how its workload is held still. */
export interface DirtySource {
  /** Forgets the writes so far: everything is sent once anyway. */
  begin(): Promise<void>;
  /**
   * The chunks written since the last call or `begin`. What was written before the call is in this set or an
   * earlier one; a chunk read after the call has those writes. If `freeze` comes during the call, some may be
   * left for the call after it.
   *
   * @returns A bitmap, the caller's own.
   */
  collect(sentHash: SentHash): Promise<Uint8Array>;
  /** Lets no further write through and waits for those under way; a `collect` after it gets the last ones. */
  freeze(): Promise<void>;
  /** Undoes `freeze`: the workload goes on here. */
  thaw(): void;
  /** The region lives elsewhere: every access here fails from now on. */
  fence(): void;
}
