/**
 * Regions that migrate together, as one numbering of chunks.
 *
 * @module
 */
import type { Gate, NativeRegion, ReadResult, StoreRequest } from "../../native/index.ts";
import type { RegionStats } from "../../native/index.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { ChunkSet } from "../migration/bitmap.ts";
import {
  lengthOfChunk,
  sliceRegions,
  type ChunkStore,
  type DirtySource,
  type RegionSlice,
  type SentHash,
} from "./region.ts";

export interface NamedRegion {
  readonly name: string;
  readonly region: NativeRegion;
}

/** What of a call is one region's. */
interface Share {
  readonly region: NativeRegion;
  readonly slice: RegionSlice;
  /** In the call's arrays. */
  readonly positions: number[];
  /** Within the region. */
  readonly indexes: number[];
}

export class RegionGroup implements ChunkStore {
  readonly regions: readonly RegionSlice[];
  readonly chunkBytes: number;
  readonly chunkCount: number;
  readonly bytes: number;
  readonly #members: readonly NativeRegion[];

  /** @param members At least one; all of one chunk size. */
  constructor(members: readonly NamedRegion[]) {
    this.#members = members.map(({ region }) => region);
    this.chunkBytes = this.#members[0]?.chunkBytes ?? 0;
    this.regions = sliceRegions(
      members.map(({ name, region }) => ({ name, bytes: region.bytes })),
      this.chunkBytes,
    );
    this.chunkCount = this.regions.reduce((sum, slice) => sum + slice.chunkCount, 0);
    this.bytes = this.regions.reduce((sum, slice) => sum + slice.bytes, 0);
  }

  chunkLength(index: number): number {
    return lengthOfChunk(this.regions, this.chunkBytes, index);
  }

  async read(indexes: Uint32Array, into: Uint8Array): Promise<ReadResult> {
    const alone = this.#alone;
    if (alone !== undefined) return await alone.read(indexes, into);
    return await this.#gather(indexes, async (share) => {
      const slots = new Uint8Array(share.indexes.length * this.chunkBytes);
      const result = await share.region.read(Uint32Array.from(share.indexes), slots);
      share.positions.forEach((position, i) => {
        const start = i * this.chunkBytes;
        into.set(slots.subarray(start, start + this.chunkBytes), position * this.chunkBytes);
      });
      return result;
    });
  }

  hash(indexes: Uint32Array): Promise<ReadResult> {
    if (this.#alone !== undefined) return this.#alone.hash(indexes);
    return this.#gather(indexes, ({ region, indexes: own }) => region.hash(Uint32Array.from(own)));
  }

  async store(request: StoreRequest): Promise<Uint8Array> {
    if (this.#alone !== undefined) return await this.#alone.store(request);
    const outcomes = new Uint8Array(request.indexes.length);
    // Begun in one turn: calls that name the same chunk take effect in their order.
    await Promise.all(
      this.#shares(request.indexes).map(async ({ region, positions, indexes }) => {
        const hashes = new Uint8Array(positions.length * HASH_BYTES);
        positions.forEach((position, i) => {
          const start = position * HASH_BYTES;
          hashes.set(request.hashes.subarray(start, start + HASH_BYTES), i * HASH_BYTES);
        });
        const own = await region.store({
          ...request,
          indexes: Uint32Array.from(indexes),
          offsets: Uint32Array.from(positions, (position) => request.offsets[position] ?? 0),
          hashes,
        });
        positions.forEach((position, i) => (outcomes[position] = own[i] ?? 0));
      }),
    );
    return outcomes;
  }

  async sync(): Promise<void> {
    await Promise.all(this.#members.map((region) => region.sync()));
  }

  async checkpoint(): Promise<void> {
    await Promise.all(this.#members.map((region) => region.checkpoint()));
  }

  setPresent(bitmap: Uint8Array): void {
    const all = ChunkSet.from(bitmap, this.chunkCount);
    this.#each((region, slice) => region.setPresent(part(all, slice)));
  }

  /** One bit per chunk. */
  presence(): Uint8Array {
    return joined(
      this.regions,
      this.#members.map((region) => region.presence()),
    ).toBits();
  }

  /** 32 bytes per chunk: what was verified when it was stored last. */
  storedHashes(): Uint8Array {
    const hashes = new Uint8Array(this.chunkCount * HASH_BYTES);
    this.#each((region, { firstChunk }) =>
      hashes.set(region.storedHashes(), firstChunk * HASH_BYTES),
    );
    return hashes;
  }

  setGate(gate: Gate): void {
    for (const region of this.#members) region.setGate(gate);
  }

  async quiesce(): Promise<void> {
    await Promise.all(this.#members.map((region) => region.quiesce()));
  }

  retryFaults(): void {
    for (const region of this.#members) region.retryFaults();
  }

  stats(): RegionStats {
    const each = this.#members.map((region) => region.stats());
    const sum = (field: Exclude<keyof RegionStats, "firstServedAtMs">): number =>
      each.reduce((total, stats) => total + stats[field], 0);
    const served = each.map((stats) => stats.firstServedAtMs).filter((ms) => ms > 0);
    return {
      reads: sum("reads"),
      writes: sum("writes"),
      syncs: sum("syncs"),
      misses: sum("misses"),
      bytesRead: sum("bytesRead"),
      bytesWritten: sum("bytesWritten"),
      parked: sum("parked"),
      presentChunks: sum("presentChunks"),
      dirtyChunks: sum("dirtyChunks"),
      firstServedAtMs: served.length === 0 ? 0 : Math.min(...served),
    };
  }

  /** The only one, if there are not several. */
  get #alone(): NativeRegion | undefined {
    return this.#members.length === 1 ? this.#members[0] : undefined;
  }

  #each(visit: (region: NativeRegion, slice: RegionSlice) => void): void {
    this.regions.forEach((slice, i) => {
      const region = this.#members[i];
      if (region !== undefined) visit(region, slice);
    });
  }

  #shares(indexes: Uint32Array): Share[] {
    const shares = new Map<number, Share>();
    indexes.forEach((index, position) => {
      const at = this.regions.findIndex((slice) => index < slice.firstChunk + slice.chunkCount);
      const [region, slice] = [this.#members[at], this.regions[at]];
      if (region === undefined || slice === undefined) {
        throw new RangeError(`chunk ${index} is past the last one`);
      }
      const share = shares.get(at) ?? { region, slice, positions: [], indexes: [] };
      shares.set(at, share);
      share.positions.push(position);
      share.indexes.push(index - slice.firstChunk);
    });
    return [...shares.values()];
  }

  async #gather(
    indexes: Uint32Array,
    run: (share: Share) => Promise<ReadResult>,
  ): Promise<ReadResult> {
    const hashes = new Uint8Array(indexes.length * HASH_BYTES);
    const zero = new Uint8Array(indexes.length);
    await Promise.all(
      this.#shares(indexes).map(async (share) => {
        const own = await run(share);
        share.positions.forEach((position, i) => {
          const start = i * HASH_BYTES;
          hashes.set(own.hashes.subarray(start, start + HASH_BYTES), position * HASH_BYTES);
          zero[position] = own.zero[i] ?? 0;
        });
      }),
    );
    return { hashes, zero };
  }
}

/** The writes to several regions. All are frozen before any is collected for the last time. */
export class GroupWrites implements DirtySource {
  readonly #regions: readonly RegionSlice[];
  readonly #sources: readonly DirtySource[];

  constructor(regions: readonly RegionSlice[], sources: readonly DirtySource[]) {
    this.#regions = regions;
    this.#sources = sources;
  }

  async begin(): Promise<void> {
    await Promise.all(this.#sources.map((source) => source.begin()));
  }

  async collect(sentHash: SentHash): Promise<Uint8Array> {
    const sets = await Promise.all(
      this.#sources.map((source, i) => {
        const first = this.#regions[i]?.firstChunk ?? 0;
        return source.collect((index) => sentHash(first + index));
      }),
    );
    return joined(this.#regions, sets).toBits();
  }

  async freeze(): Promise<void> {
    await Promise.all(this.#sources.map((source) => source.freeze()));
  }

  thaw(): void {
    for (const source of this.#sources) source.thaw();
  }

  fence(): void {
    for (const source of this.#sources) source.fence();
  }
}

/** One region's share of a bitmap over all chunks. */
function part(all: ChunkSet, slice: RegionSlice): Uint8Array {
  const own = new ChunkSet(slice.chunkCount);
  const end = slice.firstChunk + slice.chunkCount;
  for (let index = all.next(slice.firstChunk); index >= 0 && index < end;) {
    own.add(index - slice.firstChunk);
    index = all.next(index + 1);
  }
  return own.toBits();
}

function joined(slices: readonly RegionSlice[], bitmaps: readonly Uint8Array[]): ChunkSet {
  const last = slices.at(-1);
  const all = new ChunkSet((last?.firstChunk ?? 0) + (last?.chunkCount ?? 0));
  slices.forEach((slice, i) => {
    const own = ChunkSet.from(bitmaps[i] ?? new Uint8Array(0), slice.chunkCount);
    for (const index of own) all.add(slice.firstChunk + index);
  });
  return all;
}
