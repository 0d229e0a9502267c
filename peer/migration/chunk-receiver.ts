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
import type { ChunkStore } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";
import { chunkLength } from "./chunk-sender.ts";
import { Latch } from "./latch.ts";
import type { Manifest } from "./manifest.ts";
import { ZERO_OFFSET, type BitmapPage, type ChunksMessage } from "./messages.ts";
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
  #storesInFlight = 0;
  #ifAbsent = false;
  #switching: Promise<void> | undefined;
  #payloadBytes = 0;
  #zeroChunks = 0;
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

  get bytesPerS(): number {
    return this.#rate.bytesPerS;
  }

  get bytesReceived(): number {
    return this.#rate.total;
  }

  /** Payload bytes that are stored: what credit is given for. */
  get payloadBytes(): number {
    return this.#payloadBytes;
  }

  /** Wakes whoever waits for `complete`. */
  get settled(): Latch {
    return this.#settled;
  }

  /** Takes up where an earlier receiver ended, after the commit: these chunks are here and the workload's. */
  restore(ready: ChunkSet, hashes: Uint8Array, epoch: number): void {
    this.#needed.fill(epoch + 1);
    for (const index of ready) {
      this.#submitted[index] = epoch + 1;
      this.#ready.add(index);
      this.#received.add(index);
      const hash = hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
      this.#manifest.set(index, epoch + 1, hash);
    }
    this.#region.setPresent(ready.toBits());
    this.#ifAbsent = true;
  }

  /** Resolves when no store is under way. */
  idle(signal: AbortSignal): Promise<void> {
    return this.#settled.until(() => this.#storesInFlight === 0, signal);
  }

  get readyBits(): Uint8Array {
    return this.#ready.toBits();
  }

  get missingCount(): number {
    return this.#region.chunkCount - this.#ready.size;
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
    for (const index of dirty) {
      if ((this.#needed[index] ?? 0) > epoch) continue;
      this.#needed[index] = epoch + 1;
      if ((this.#submitted[index] ?? 0) <= epoch) this.#ready.delete(index);
      this.#manifest.invalidate(index, epoch);
    }
  }

  /**
   * Stores what is current of a message.
   *
   * @returns Chunks to ask for again, because their bytes did not hash to what was promised.
   * @throws MigrationError `MESSAGE_MALFORMED`, `CHUNK_MISMATCH`, `STORE_FULL`, `STORE_FAILED`
   */
  async receive(message: ChunksMessage): Promise<number[]> {
    while (this.#switching !== undefined) await this.#switching;
    const region = this.#region;
    const tag = message.epoch;
    const kept: number[] = [];
    for (let i = 0; i < message.indexes.length; i++) {
      const index = message.indexes[i] ?? 0;
      const offset = message.offsets[i] ?? 0;
      if (index >= region.chunkCount) {
        throw new MigrationError("MESSAGE_MALFORMED", `chunk ${index} is past the region's end`);
      }
      const length = offset === ZERO_OFFSET ? 0 : chunkLength(region, index);
      if (offset !== ZERO_OFFSET && offset + length > message.payload.length) {
        throw new MigrationError("MESSAGE_MALFORMED", `chunk ${index} is not in its message`);
      }
      const [needed, submitted] = [this.#needed[index] ?? 0, this.#submitted[index] ?? 0];
      if (tag < needed || tag <= submitted) continue;
      // After the commit nothing changes at the source: the first sufficient copy is the one, and another, newer
      // by its tag alone, must not take its place while it is being stored.
      if (this.#ifAbsent && submitted >= needed) continue;
      this.#submitted[index] = tag;
      kept.push(i);
    }
    this.#rate.add(message.payload.length);
    const again = kept.length === 0 ? [] : await this.#store(message, kept, tag);
    this.#payloadBytes += message.payload.length;
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
      for (const index of indexes) {
        if (this.#submitted[index] === tag) this.#submitted[index] = 0;
      }
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
        if (this.#submitted[index] === tag) this.#submitted[index] = 0;
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
      if (outcomes[i] === StoreOutcome.skipped) continue;
      // A newer copy was handed in meanwhile: it decides.
      if (this.#submitted[index] !== tag) continue;
      this.#manifest.set(index, tag, hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES));
      if (offsets[i] === ZERO_OFFSET) this.#zeroChunks++;
      this.#received.add(index);
      if (tag >= (this.#needed[index] ?? 0)) this.#ready.add(index);
    }
    return again;
  }
}

function gatherHashes(message: ChunksMessage, kept: readonly number[]): Uint8Array {
  if (kept.length === message.indexes.length) return message.hashes;
  const hashes = new Uint8Array(kept.length * HASH_BYTES);
  kept.forEach((i, at) => {
    hashes.set(message.hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES), at * HASH_BYTES);
  });
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
