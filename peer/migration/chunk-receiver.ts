/**
 * Takes chunks in at the destination: decides which copy is current, has it verified and stored, and knows what
 * is still missing.
 *
 * A chunk is *ready* when the copy stored here was read at the source in an epoch not older than the chunk's
 * last known write. Copies come on several streams at once, so an older one may come later: it is dropped.
 *
 * @module
 */
import { StoreOutcome } from "../../native/index.ts";
import type { Progress } from "../../relay/protocol/frame.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { MigrationError } from "../errors.ts";
import type { ChunkStore, RegionSlice } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";
import { Latch } from "./latch.ts";
import type { Manifest } from "./manifest.ts";
import { BATCH_BYTES, KNOWS_CHUNKS_MAX } from "./limits.ts";
import {
  SAME_OFFSET,
  ZERO_OFFSET,
  type BitmapPage,
  type ChunksMessage,
  type KnowsMessage,
} from "./messages.ts";
import type { KeptChunks } from "./destination.ts";
import { RateMeter } from "./rate-meter.ts";

export class ChunkReceiver {
  readonly #region: ChunkStore;
  readonly #manifest: Manifest;
  /** The epoch of the newest copy that was handed to the store, per chunk; 0: none. */
  readonly #submitted: Uint32Array;
  /** A copy must be of this epoch or a later one to be ready, per chunk. */
  readonly #needed: Uint32Array;
  readonly #ready: ChunkSet;
  /** Chunks of which some copy is stored, current or not. */
  readonly #received: ChunkSet;
  readonly #mismatched: ChunkSet;
  readonly #rate = new RateMeter();
  readonly #settled = new Latch();
  /** What stood in chunks at the start, 32 bytes each; all zeros: unknown. Empty: nothing was here. */
  #heldHashes: Uint8Array = new Uint8Array(0);
  #storesInFlight = 0;
  #ifAbsent = false;
  #switching: Promise<void> | undefined;
  #payloadBytes = 0;
  #zeroChunks = 0;
  #reusedChunks = 0;
  #mismatches = 0;

  constructor(region: ChunkStore, manifest: Manifest) {
    this.#region = region;
    this.#manifest = manifest;
    this.#submitted = new Uint32Array(region.chunkCount);
    this.#needed = new Uint32Array(region.chunkCount).fill(1);
    this.#ready = new ChunkSet(region.chunkCount);
    this.#received = new ChunkSet(region.chunkCount);
    this.#mismatched = new ChunkSet(region.chunkCount);
  }

  get readyCount(): number {
    return this.#ready.size;
  }

  get complete(): boolean {
    return this.#ready.size === this.#region.chunkCount;
  }

  /** Copies that did not hash to what was promised, and were asked for again. */
  get mismatches(): number {
    return this.#mismatches;
  }

  /** Copies that were here already, and were not sent. */
  get reusedChunks(): number {
    return this.#reusedChunks;
  }

  get bytesPerS(): number {
    return this.#rate.bytesPerS;
  }

  /** The most of late. */
  get peakBytesPerS(): number {
    return this.#rate.peakBytesPerS;
  }

  get bytesReceived(): number {
    return this.#rate.total;
  }

  /** Payload bytes that are stored or passed over: what credit is given for. */
  get payloadBytes(): number {
    return this.#payloadBytes;
  }

  /** @throws MigrationError `MESSAGE_MALFORMED` if there is no such chunk */
  chunkLength(index: number): number {
    if (index < this.#region.chunkCount) return this.#region.chunkLength(index);
    throw new MigrationError("MESSAGE_MALFORMED", `chunk ${index} is past the region's end`);
  }

  isReady(index: number): boolean {
    return this.#ready.has(index);
  }

  /** So many payload bytes came and are not stored, or not yet. */
  passOver(payloadBytes: number): void {
    this.#payloadBytes += payloadBytes;
  }

  /** Wakes whoever waits for `complete`. */
  get settled(): Latch {
    return this.#settled;
  }

  /** What an earlier process left in chunks that are not the workload's: the source may say that it is current. */
  hold(hashes: Uint8Array): void {
    this.#heldHashes = hashes;
  }

  /** Takes up where an earlier receiver ended, after the commit at `epoch`: present chunks are the workload's. */
  restore(kept: KeptChunks, epoch: number): void {
    const present = ChunkSet.from(kept.present, this.#region.chunkCount);
    this.#needed.fill(epoch + 1);
    for (const index of present) {
      this.#submitted[index] = epoch + 1;
      this.#ready.add(index);
      this.#received.add(index);
      this.#manifest.set(index, epoch + 1, hashAt(kept.presentHashes, index));
    }
    this.hold(kept.heldHashes);
    this.#region.setPresent(kept.present);
    this.#ifAbsent = true;
  }

  /** The source was started again: no copy of `epoch` or before counts any more. */
  fold(epoch: number): void {
    for (let index = 0; index < this.#region.chunkCount; index++) this.#stale(index, epoch);
  }

  /** Content of chunks that are not ready, as far as it is known. */
  *knowsPages(): Generator<KnowsMessage> {
    const { chunkCount } = this.#region;
    for (let first = 0; first < chunkCount; first += KNOWS_CHUNKS_MAX) {
      const count = Math.min(KNOWS_CHUNKS_MAX, chunkCount - first);
      const hashes = new Uint8Array(count * HASH_BYTES);
      for (let i = 0; i < count; i++) {
        if (this.#ready.has(first + i)) continue;
        const hash = this.#contentHash(first + i);
        if (hash !== undefined) hashes.set(hash, i * HASH_BYTES);
      }
      if (hashes.some((byte) => byte !== 0)) yield { kind: "knows", first, hashes };
    }
  }

  /** What was stored last, or else held; it may have been replaced since, so whoever relies on it reads it. */
  #contentHash(index: number): Uint8Array | undefined {
    if (this.#received.has(index)) return this.#manifest.hash(index);
    return this.#heldHashes.length === 0 ? undefined : hashAt(this.#heldHashes, index);
  }

  /** Resolves when no store is under way. */
  idle(signal: AbortSignal): Promise<void> {
    return this.#settled.until(() => this.#storesInFlight === 0, signal);
  }

  get missingCount(): number {
    return this.#region.chunkCount - this.#ready.size;
  }

  missingIn(slice: RegionSlice): number {
    return slice.chunkCount - this.#ready.count(slice.firstChunk, slice.chunkCount);
  }

  get bytesReady(): number {
    return Math.min(this.#region.bytes, this.#ready.size * this.#region.chunkBytes);
  }

  /** For people. */
  counts(): Pick<
    Progress,
    | "chunksTotal"
    | "chunksSent"
    | "chunksReady"
    | "chunksDirty"
    | "chunksZero"
    | "bytesSent"
    | "bytesRemaining"
    | "sendBytesPerS"
  > {
    const { chunkCount, bytes } = this.#region;
    const ready = this.#ready.size;
    return {
      chunksTotal: chunkCount,
      chunksSent: this.#received.size,
      chunksReady: ready,
      chunksDirty: this.#received.size - ready,
      chunksZero: this.#zeroChunks,
      bytesSent: this.#rate.total,
      bytesRemaining: bytes - this.bytesReady,
      sendBytesPerS: this.#rate.bytesPerS,
    };
  }

  readyPages(): Generator<BitmapPage> {
    return this.#ready.pages();
  }

  /** These chunks were written during `epoch`: copies of it and of earlier epochs are stale. */
  markDirty(page: BitmapPage, epoch: number): void {
    const { chunkCount } = this.#region;
    const dirty = new ChunkSet(chunkCount);
    dirty.addPage(page);
    for (const index of dirty) this.#stale(index, epoch);
  }

  #stale(index: number, epoch: number): void {
    if ((this.#needed[index] ?? 0) > epoch) return;
    this.#needed[index] = epoch + 1;
    this.#manifest.invalidate(index, epoch);
    // Whatever is under way: a newer copy that turns out to be damaged would leave this one in its place.
    if (!this.#manifest.isKnown(index)) this.#ready.delete(index);
  }

  /**
   * Stores what is current of a message.
   *
   * @param options.counted Its payload was passed over when it came.
   * @returns Chunks to ask for again, because their bytes did not hash to what was promised.
   * @throws MigrationError `MESSAGE_MALFORMED`, `CHUNK_MISMATCH`, `STORE_FULL`, `STORE_FAILED`
   */
  async receive(message: ChunksMessage, { counted = false } = {}): Promise<number[]> {
    while (this.#switching !== undefined) await this.#switching;
    const tag = message.epoch;
    const kept: number[] = [];
    const same: number[] = [];
    for (let i = 0; i < message.indexes.length; i++) {
      const index = message.indexes[i] ?? 0;
      const offset = message.offsets[i] ?? 0;
      const chunkLength = this.chunkLength(index);
      const hasBytes = offset !== ZERO_OFFSET && offset !== SAME_OFFSET;
      if (hasBytes && offset + chunkLength > message.payload.length) {
        throw new MigrationError("MESSAGE_MALFORMED", `chunk ${index} is not in its message`);
      }
      const [needed, submitted] = [this.#needed[index] ?? 0, this.#submitted[index] ?? 0];
      if (tag < needed || tag <= submitted) continue;
      // After the commit nothing changes at the source: the first sufficient copy is the one, and another, newer
      // by its tag alone, must not take its place while it is being stored.
      if (this.#ifAbsent && submitted >= needed) continue;
      this.#submitted[index] = tag;
      (offset === SAME_OFFSET ? same : kept).push(i);
    }
    this.#rate.add(message.payload.length);
    const again: number[] = [];
    try {
      if (kept.length > 0) again.push(...(await this.#store(message, kept, tag)));
      if (same.length > 0) again.push(...(await this.#takeSame(message, same)));
    } catch (error) {
      // If its channel is lost meanwhile nobody hears of this, and the next copies must not seem to be here.
      for (const i of [...kept, ...same]) {
        const index = message.indexes[i] ?? 0;
        if (this.#submitted[index] === tag) this.#withdraw(index);
      }
      throw error;
    }
    if (!counted) this.#payloadBytes += message.payload.length;
    return again;
  }

  /**
   * From now on this region is the workload's: stores only fill what is missing.
   *
   * Waits for the stores under way, marks what is ready as present, and lets stores go on.
   */
  async switchOver(): Promise<void> {
    if (this.#ifAbsent) return;
    this.#switching = this.idle(new AbortController().signal);
    await this.#switching;
    this.#region.setPresent(this.#ready.toBits());
    this.#ifAbsent = true;
    this.#switching = undefined;
  }

  /** In flight as a whole: the switch-over must not fall between its reads and its stores. */
  async #takeSame(message: ChunksMessage, same: readonly number[]): Promise<number[]> {
    this.#storesInFlight++;
    try {
      return await this.#storeSame(message, same);
    } finally {
      this.#storesInFlight--;
      this.#settled.notify();
    }
  }

  /**
   * Stores again what is here already, so that it is verified, marked and recorded like every other copy.
   *
   * @returns Chunks whose bytes are others by now: to be asked for.
   */
  async #storeSame(message: ChunksMessage, same: readonly number[]): Promise<number[]> {
    const region = this.#region;
    const batchChunks = Math.max(1, Math.floor(BATCH_BYTES / region.chunkBytes));
    const again: number[] = [];
    for (let start = 0; start < same.length; start += batchChunks) {
      const batch = same.slice(start, start + batchChunks);
      const indexes = Uint32Array.from(batch, (i) => message.indexes[i] ?? 0);
      const offsets = Uint32Array.from(batch, (_, slot) => slot * region.chunkBytes);
      const hashes = gatherHashes(message, batch);
      const payload = new Uint8Array(batch.length * region.chunkBytes);
      const found = await region.read(indexes, payload).catch((error: unknown) => {
        throw storeError(error);
      });
      const equal: number[] = [];
      for (let slot = 0; slot < batch.length; slot++) {
        const index = indexes[slot] ?? 0;
        // A newer copy was handed in during the read: it decides.
        if (this.#submitted[index] !== message.epoch) continue;
        if (Buffer.compare(hashAt(found.hashes, slot), hashAt(hashes, slot)) === 0) {
          equal.push(slot);
          continue;
        }
        this.#withdraw(index);
        again.push(index);
      }
      if (equal.length === 0) continue;
      this.#reusedChunks += equal.length;
      const copy: ChunksMessage = { ...message, indexes, offsets, hashes, payload };
      again.push(...(await this.#store(copy, equal, message.epoch)));
    }
    return again;
  }

  /** The newest copy was none: what is stored is the newest again. */
  #withdraw(index: number): void {
    this.#submitted[index] = this.#manifest.epochOf(index);
  }

  async #store(message: ChunksMessage, kept: readonly number[], tag: number): Promise<number[]> {
    const indexes = Uint32Array.from(kept, (i) => message.indexes[i] ?? 0);
    const offsets = Uint32Array.from(kept, (i) => message.offsets[i] ?? 0);
    const hashes = gatherHashes(message, kept);
    this.#storesInFlight++;
    try {
      const outcomes = await this.#region.store({
        indexes,
        offsets,
        bytes: message.payload,
        hashes,
        ifAbsent: this.#ifAbsent,
      });
      return this.#settle(indexes, offsets, hashes, outcomes, tag);
    } catch (error) {
      throw storeError(error);
    } finally {
      this.#storesInFlight--;
      this.#settled.notify();
    }
  }

  #settle(
    indexes: Uint32Array,
    offsets: Uint32Array,
    hashes: Uint8Array,
    outcomes: Uint8Array,
    tag: number,
  ): number[] {
    const again: number[] = [];
    for (let i = 0; i < indexes.length; i++) {
      const index = indexes[i] ?? 0;
      if (outcomes[i] === StoreOutcome.mismatch) {
        if (this.#submitted[index] === tag) this.#withdraw(index);
        this.#mismatches++;
        if (!this.#mismatched.add(index)) {
          throw new MigrationError(
            "CHUNK_MISMATCH",
            `chunk ${index} came twice with bytes that are not what the source hashed: check the memory of both hosts`,
          );
        }
        again.push(index);
        continue;
      }
      // Present already: of a call that failed later on, so nobody has counted it. Nothing has changed at the source
      // since, so its hash is this one.
      if (outcomes[i] === StoreOutcome.skipped && !this.#ifAbsent) continue;
      // A newer copy was handed in meanwhile: it decides.
      if (this.#submitted[index] !== tag) continue;
      this.#manifest.set(index, tag, hashAt(hashes, i));
      if (offsets[i] === ZERO_OFFSET) this.#zeroChunks++;
      this.#received.add(index);
      if (tag >= (this.#needed[index] ?? 0)) this.#ready.add(index);
    }
    return again;
  }
}

function hashAt(hashes: Uint8Array, position: number): Uint8Array {
  return hashes.subarray(position * HASH_BYTES, (position + 1) * HASH_BYTES);
}

function gatherHashes(message: ChunksMessage, kept: readonly number[]): Uint8Array {
  if (kept.length === message.indexes.length) return message.hashes;
  const hashes = new Uint8Array(kept.length * HASH_BYTES);
  kept.forEach((i, at) => hashes.set(hashAt(message.hashes, i), at * HASH_BYTES));
  return hashes;
}

function storeError(error: unknown): unknown {
  if (!(error instanceof Error) || !("code" in error)) return error;
  if (error.code === "ENOSPC" || error.code === "EDQUOT") {
    return new MigrationError(
      "STORE_FULL",
      "the destination's disk is full: free space there, or give another --file",
      { cause: error },
    );
  }
  return new MigrationError("STORE_FAILED", `the destination cannot store: ${error.message}`, {
    cause: error,
  });
}
