/**
 * A region in plain memory, with a workload that reads and writes it: for tests of the migration.
 *
 * @module
 */
import { loadNative, StoreOutcome, ZERO_CHUNK, type StoreRequest } from "../../native/index.ts";
import { ChunkSet } from "../../peer/migration/bitmap.ts";
import {
  lengthOfChunk,
  sliceRegions,
  type ChunkStore,
  type DirtySource,
  type RegionSlice,
} from "../../peer/region/region.ts";

const HASH_BYTES = 32;

export class MemoryRegion implements ChunkStore, DirtySource {
  readonly bytes: number;
  readonly chunkBytes: number;
  readonly chunkCount: number;
  readonly regions: readonly RegionSlice[];
  /** A slot of `chunkBytes` per chunk. */
  readonly memory: Uint8Array;
  /** As the addon keeps it beside the region: what was stored last, per chunk. */
  readonly storedHashes: Uint8Array;
  readonly #hashKey: Uint8Array;
  readonly #present: ChunkSet;
  readonly #dirty: ChunkSet;
  #gate: "open" | "closed" | "fenced" | "draining";
  #waiters: (() => void)[] = [];
  #faulted = new Set<number>();
  onFault: ((indexes: Uint32Array) => void) | undefined;
  /** Called before each operation that is asynchronous, to let the test interleave. */
  pause: () => Promise<void> = () => Promise.resolve();
  firstServedAtMs = 0;

  constructor(options: {
    readonly bytes: number;
    readonly chunkBytes: number;
    readonly hashKey: Uint8Array;
    readonly present: "all" | "none";
    /** Several regions in place of one of `bytes`. */
    readonly regions?: readonly { readonly name: string; readonly bytes: number }[];
  }) {
    this.chunkBytes = options.chunkBytes;
    this.regions = sliceRegions(
      options.regions ?? [{ name: "test", bytes: options.bytes }],
      options.chunkBytes,
    );
    this.bytes = this.regions.reduce((sum, region) => sum + region.bytes, 0);
    this.chunkCount = this.regions.reduce((sum, region) => sum + region.chunkCount, 0);
    this.memory = new Uint8Array(
      options.regions === undefined ? options.bytes : this.chunkCount * options.chunkBytes,
    );
    this.storedHashes = new Uint8Array(this.chunkCount * HASH_BYTES);
    this.#hashKey = options.hashKey;
    this.#present = new ChunkSet(this.chunkCount);
    if (options.present === "all") this.#present.addAll(ChunkSet.all(this.chunkCount));
    this.#gate = options.present === "all" ? "open" : "closed";
    this.#dirty = new ChunkSet(this.chunkCount);
  }

  get running(): boolean {
    return this.#gate === "open";
  }

  get fenced(): boolean {
    return this.#gate === "fenced";
  }

  /** A write by the workload; `false` if it is not let through now. */
  write(offset: number, bytes: Uint8Array): boolean {
    if (this.#gate !== "open") return false;
    const first = Math.floor(offset / this.chunkBytes);
    const last = Math.floor((offset + bytes.length - 1) / this.chunkBytes);
    for (let index = first; index <= last; index++) if (!this.#present.has(index)) return false;
    this.memory.set(bytes, offset);
    for (let index = first; index <= last; index++) this.#dirty.add(index);
    return true;
  }

  /** A read by the workload: waits for the chunk. */
  async readChunk(index: number): Promise<Uint8Array> {
    while (this.#gate !== "open" || !this.#present.has(index)) {
      if (this.#gate === "fenced") throw new Error("ESTALE");
      if (this.#gate === "open" && !this.#faulted.has(index)) {
        this.#faulted.add(index);
        this.onFault?.(Uint32Array.of(index));
      }
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    this.firstServedAtMs ||= 1;
    return this.#slot(index);
  }

  async read(
    indexes: Uint32Array,
    into: Uint8Array,
  ): Promise<{ hashes: Uint8Array; zero: Uint8Array }> {
    await this.pause();
    indexes.forEach((index, i) => into.set(this.#slot(index), i * this.chunkBytes));
    return await this.hash(indexes);
  }

  hash(indexes: Uint32Array): Promise<{ hashes: Uint8Array; zero: Uint8Array }> {
    const hashes = new Uint8Array(indexes.length * HASH_BYTES);
    const zero = new Uint8Array(indexes.length);
    indexes.forEach((index, i) => {
      const slot = this.#slot(index);
      hashes.set(this.#hash(slot), i * HASH_BYTES);
      zero[i] = slot.every((byte) => byte === 0) ? 1 : 0;
    });
    return Promise.resolve({ hashes, zero });
  }

  async store(request: StoreRequest): Promise<Uint8Array> {
    const outcomes = new Uint8Array(request.indexes.length);
    // As in the addon, calls that name the same chunk take effect in their order: so nothing is awaited before.
    request.indexes.forEach((index, i) => {
      const slot = this.#slot(index);
      const offset = request.offsets[i] ?? 0;
      const bytes =
        offset === ZERO_CHUNK
          ? new Uint8Array(slot.length)
          : request.bytes.subarray(offset, offset + slot.length);
      const promised = request.hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
      if (Buffer.compare(this.#hash(bytes), promised) !== 0) {
        outcomes[i] = StoreOutcome.mismatch;
      } else if (request.ifAbsent && this.#present.has(index)) {
        outcomes[i] = StoreOutcome.skipped;
      } else {
        slot.set(bytes);
        this.storedHashes.set(promised, index * HASH_BYTES);
        if (request.ifAbsent) this.#present.add(index);
      }
    });
    this.#wake();
    await this.pause();
    return outcomes;
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  checkpoint(): Promise<void> {
    return this.sync();
  }

  chunkLength(index: number): number {
    return lengthOfChunk(this.regions, this.chunkBytes, index);
  }

  get presence(): Uint8Array {
    return this.#present.toBits();
  }

  setPresent(bitmap: Uint8Array): void {
    this.#present.addPage({ first: 0, bits: bitmap });
    this.#wake();
  }

  setGate(gate: "open" | "closed" | "fenced" | "draining"): void {
    this.#gate = gate;
    this.#wake();
  }

  quiesce(): Promise<void> {
    return Promise.resolve();
  }

  retryFaults(): void {
    this.#faulted.clear();
    this.#wake();
  }

  stats(): ReturnType<ChunkStore["stats"]> {
    return {
      reads: 0,
      writes: 0,
      syncs: 0,
      misses: 0,
      bytesRead: 0,
      bytesWritten: 0,
      parked: 0,
      presentChunks: this.#present.size,
      dirtyChunks: this.#dirty.size,
      firstServedAtMs: this.firstServedAtMs,
    };
  }

  begin(): Promise<void> {
    this.#dirty.clear();
    return Promise.resolve();
  }

  async collect(): Promise<Uint8Array> {
    await this.pause();
    const bits = this.#dirty.toBits();
    this.#dirty.clear();
    return bits;
  }

  async freeze(): Promise<void> {
    await this.pause();
    this.#gate = "closed";
  }

  thaw(): void {
    this.setGate("open");
  }

  fence(): void {
    this.setGate("fenced");
  }

  #slot(index: number): Uint8Array {
    const start = index * this.chunkBytes;
    return this.memory.subarray(start, start + this.chunkLength(index));
  }

  #hash(bytes: Uint8Array): Uint8Array {
    return loadNative().blake3(bytes, this.#hashKey);
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}
