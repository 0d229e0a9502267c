/**
 * A region as one process serves it: the addon's promises over an image on a simulated disk.
 *
 * @module
 */
import { StoreOutcome, ZERO_CHUNK, type Gate, type StoreRequest } from "../../native/index.ts";
import { ChunkSet } from "../../peer/migration/bitmap.ts";
import type { ChunkStore, DirtySource, RegionSlice } from "../../peer/region/region.ts";
import type { Actor } from "./actor.ts";
import { DiskError, type Image } from "./disk.ts";

const HASH_BYTES = 32;

export interface SimRegionOptions {
  readonly image: Image;
  readonly actor: Actor;
  readonly gate: Gate;
  /** Damages what was read, after it was hashed: a bit of memory that flips. */
  readonly damage?: (index: number, bytes: Uint8Array) => void;
  readonly onGate: (gate: Gate) => void;
  readonly trace: (actor: string, what: string) => void;
}

export class SimRegion implements ChunkStore, DirtySource {
  readonly actor: Actor;
  readonly bytes: number;
  readonly chunkBytes: number;
  readonly chunkCount: number;
  readonly regions: readonly RegionSlice[];
  onFault: ((indexes: Uint32Array) => void) | undefined;
  readonly #options: SimRegionOptions;
  readonly #image: Image;
  readonly #dirty: ChunkSet;
  readonly #faulted = new Set<number>();
  #gate: Gate;
  /** Stores whose bytes are not in the page cache yet. */
  readonly #storing = new Set<StoreRequest>();
  #lastStoreMs = 0;
  #firstServedAtMs = 0;
  #operations = 0;

  constructor(options: SimRegionOptions) {
    this.#options = options;
    this.#image = options.image;
    const { slices, chunkBytes } = options.image.options;
    this.actor = options.actor;
    this.regions = slices;
    this.chunkBytes = chunkBytes;
    this.bytes = slices.reduce((sum, slice) => sum + slice.bytes, 0);
    this.chunkCount = options.image.chunkCount;
    this.#dirty = new ChunkSet(this.chunkCount);
    this.#gate = options.gate;
    this.#image.server = this;
    this.actor.onDeath(() => this.#died());
    options.onGate(options.gate);
    this.#image.serve();
  }

  get gate(): Gate {
    return this.#gate;
  }

  /** Calls that have not answered. */
  get operations(): number {
    return this.#operations;
  }

  chunkLength(index: number): number {
    return this.#image.chunkLength(index);
  }

  read(indexes: Uint32Array, into: Uint8Array): Promise<{ hashes: Uint8Array; zero: Uint8Array }> {
    const asked = Uint32Array.from(indexes);
    return this.#answer(`read ${asked.join(" ")}`, this.#delayMs(), () => {
      this.#mayFail();
      asked.forEach((index, i) => into.set(this.#image.slot(index), i * this.chunkBytes));
      const result = this.#hash(asked);
      asked.forEach((index, i) => {
        const start = i * this.chunkBytes;
        this.#options.damage?.(index, into.subarray(start, start + this.chunkLength(index)));
      });
      return result;
    });
  }

  hash(indexes: Uint32Array): Promise<{ hashes: Uint8Array; zero: Uint8Array }> {
    const asked = Uint32Array.from(indexes);
    return this.#answer(`hash ${asked.join(" ")}`, this.#delayMs(), () => {
      this.#mayFail();
      return this.#hash(asked);
    });
  }

  store(request: StoreRequest): Promise<Uint8Array> {
    const { clock, random, trouble } = this.#image.options;
    if (!this.actor.alive) return new Promise(() => undefined);
    const full = trouble.full;
    // Calls that name the same chunk take effect in their order.
    const atMs = Math.max(this.#lastStoreMs, clock.nowMs + this.#delayMs());
    this.#lastStoreMs = atMs;
    this.#storing.add(request);
    return this.#answer(`store ${request.indexes.join(" ")}`, atMs - clock.nowMs, () => {
      this.#storing.delete(request);
      const count = full ? random.below(request.indexes.length + 1) : request.indexes.length;
      const outcomes = new Uint8Array(request.indexes.length);
      for (let i = 0; i < count; i++) outcomes[i] = this.#storeOne(request, i);
      if (full) throw new DiskError("ENOSPC");
      this.#image.serve();
      return outcomes;
    });
  }

  sync(): Promise<void> {
    const { random, trouble } = this.#image.options;
    const chunks = [...this.#image.unsynced];
    return this.#answer("sync", 4 * this.#delayMs(), () => {
      if (random.chance(trouble.syncFails)) throw new DiskError("EIO");
      this.#image.flush(chunks);
    });
  }

  async checkpoint(): Promise<void> {
    const present = ChunkSet.from(this.#image.present.toBits(), this.chunkCount);
    await this.sync();
    await this.#answer("checkpoint", this.#delayMs(), () => this.#image.checkpoint(present));
  }

  setPresent(bitmap: Uint8Array): void {
    if (!this.actor.alive) return;
    this.#image.present.addPage({ first: 0, bits: bitmap });
    this.#image.version++;
    this.#image.serve();
  }

  setGate(gate: Gate): void {
    if (!this.actor.alive || this.#gate === gate) return;
    this.#gate = gate;
    this.#options.trace(this.actor.name, `gate ${gate}`);
    this.#options.onGate(gate);
    if (gate === "open") this.#firstServedAtMs = 0;
    this.#image.serve();
  }

  quiesce(): Promise<void> {
    return this.#answer("quiesce", this.#delayMs(), () => undefined);
  }

  retryFaults(): void {
    this.#faulted.clear();
    this.#image.serve();
  }

  stats(): ReturnType<ChunkStore["stats"]> {
    return {
      reads: 0,
      writes: 0,
      syncs: 0,
      misses: 0,
      bytesRead: 0,
      bytesWritten: 0,
      parked: this.#image.parked.length,
      presentChunks: this.#image.present.size,
      dirtyChunks: this.#dirty.size,
      firstServedAtMs: this.#firstServedAtMs,
    };
  }

  begin(): Promise<void> {
    return this.#answer("begin", this.#delayMs(), () => {
      this.#image.writeBack();
      this.#dirty.clear();
    });
  }

  collect(): Promise<Uint8Array> {
    return this.#answer("collect", this.#delayMs(), () => {
      if (this.#gate === "open") this.#image.writeBack();
      const bits = this.#dirty.toBits();
      this.#dirty.clear();
      return bits;
    });
  }

  freeze(): Promise<void> {
    return this.#answer("freeze", this.#delayMs(), () => {
      // Reads stop, the cache is flushed and dropped, then writes stop.
      this.#image.writeBack();
      this.setGate("closed");
    });
  }

  thaw(): void {
    this.setGate("open");
  }

  fence(): void {
    this.setGate("fenced");
  }

  /** A program waits for a chunk that is not here. */
  fault(index: number): void {
    if (this.#faulted.has(index)) return;
    this.#faulted.add(index);
    this.#image.options.clock.after(0.05, this.actor, () => this.onFault?.(Uint32Array.of(index)));
  }

  wrote(index: number): void {
    this.#dirty.add(index);
  }

  servedOne(): void {
    if (this.#firstServedAtMs === 0) this.#firstServedAtMs = this.#image.options.clock.nowMs;
  }

  #mayFail(): void {
    const { random, trouble } = this.#image.options;
    if (random.chance(trouble.readFails)) throw new DiskError("EIO");
  }

  #hash(indexes: Uint32Array): { hashes: Uint8Array; zero: Uint8Array } {
    const hashes = new Uint8Array(indexes.length * HASH_BYTES);
    const zero = new Uint8Array(indexes.length);
    indexes.forEach((index, i) => {
      const slot = this.#image.slot(index);
      hashes.set(this.#image.hash(slot), i * HASH_BYTES);
      zero[i] = isZero(slot) ? 1 : 0;
    });
    return { hashes, zero };
  }

  #storeOne(request: StoreRequest, i: number): number {
    const index = request.indexes[i] ?? 0;
    const image = this.#image;
    const promised = request.hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
    const bytes = this.#bytesOf(request, i);
    if (Buffer.compare(image.hash(bytes), promised) !== 0) {
      this.#options.trace(this.actor.name, `mismatch of ${index}`);
      return StoreOutcome.mismatch;
    }
    if (request.ifAbsent && image.present.has(index)) return StoreOutcome.skipped;
    image.put(index, bytes);
    image.storedHashes.set(promised, index * HASH_BYTES);
    if (request.ifAbsent) image.present.add(index);
    return StoreOutcome.stored;
  }

  #bytesOf(request: StoreRequest, i: number): Uint8Array {
    const length = this.chunkLength(request.indexes[i] ?? 0);
    const offset = request.offsets[i] ?? 0;
    if (offset === ZERO_CHUNK) return new Uint8Array(length);
    return request.bytes.subarray(offset, offset + length);
  }

  /** Of a store that was under way, any first part may be there, and half of a chunk. */
  #died(): void {
    const { random } = this.#image.options;
    for (const request of this.#storing) {
      const count = random.below(request.indexes.length + 1);
      for (let i = 0; i < count; i++) this.#storeOne(request, i);
      if (count === request.indexes.length || random.chance(0.7)) continue;
      const index = request.indexes[count] ?? 0;
      if (request.ifAbsent && this.#image.present.has(index)) continue;
      const bytes = this.#bytesOf(request, count);
      const promised = request.hashes.subarray(count * HASH_BYTES, (count + 1) * HASH_BYTES);
      if (Buffer.compare(this.#image.hash(bytes), promised) !== 0) continue;
      this.#image.put(index, bytes.subarray(0, bytes.length >> 1));
    }
    this.#storing.clear();
  }

  #delayMs(): number {
    const { random, trouble } = this.#image.options;
    return random.delay(trouble.meanMs);
  }

  /** The effect is at one instant, the answer comes later: what happens between them is what bugs are made of. */
  async #answer<T>(what: string, delayMs: number, effect: () => T): Promise<T> {
    if (!this.actor.alive) return await new Promise<T>(() => undefined);
    const { clock, random } = this.#image.options;
    this.#operations++;
    this.#options.trace(this.actor.name, what);
    try {
      const result = await clock.answer(delayMs, this.actor, effect);
      const restMs = delayMs * random.pick([0, 0.3, 1, 6]);
      if (restMs > 0) await clock.answer(restMs, this.actor, () => undefined);
      return result;
    } finally {
      this.#operations--;
    }
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
