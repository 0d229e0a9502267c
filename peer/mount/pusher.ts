/**
 * Brings what programs write to a region to its store.
 *
 * A chunk is sent once it has rested, or is due: written again and again, it travels once an interval. What a program
 * asked to be durable is sent at once, with all that was written before it.
 *
 * @module
 */
import type { NativeRegion } from "../../native/index.ts";
import type { AlignedStore } from "../store/aligned-store.ts";
import { StoreError, type StoreTraits } from "../store/store.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { ChunkSet, runs, setBits } from "./chunk-set.ts";
import type { StoreHealth } from "./store-health.ts";

/** A write is of this many bytes at most. */
const PUSH_BYTES_MAX = 1 << 20;
const LOOKS_PER_INTERVAL = 4;
const LOOK_MAX_MS = 1_000;

export interface PusherOptions {
  readonly region: NativeRegion;
  readonly store: AlignedStore;
  readonly traits: StoreTraits;
  readonly health: StoreHealth;
  /** A chunk waits this long at most. */
  readonly intervalMs: number;
  /** More than this is not kept back, whatever its age. */
  readonly heldBytesMax: number;
  /** What was written could not be stored, and cannot be by trying again. */
  readonly onFailure: (error: unknown) => void;
}

export interface PusherCounters {
  bytesPushed: number;
  /** Chunks that were found to be all zeros, and were not sent. */
  zeroChunks: number;
  flushes: number;
  writesFailed: number;
}

export class Pusher {
  readonly counters: PusherCounters = {
    bytesPushed: 0,
    zeroChunks: 0,
    flushes: 0,
    writesFailed: 0,
  };
  readonly #options: PusherOptions;
  readonly #abort = new AbortController();
  /** Written and not sent, by when that was first seen; in that order. */
  readonly #dirty = new Map<number, number>();
  /** Being sent: a chunk never twice at once, or the older bytes might come last. */
  readonly #sending = new Set<number>();
  /** Sent, and not known to be durable at the store. */
  #sent: ChunkSet;
  #timer: ReturnType<typeof setInterval> | undefined;
  #round: Promise<void> | undefined;

  constructor(options: PusherOptions) {
    this.#options = options;
    this.#sent = new ChunkSet(options.region.chunkCount);
  }

  /** Bytes that are here only. */
  get heldBytes(): number {
    return (this.#dirty.size + this.#sending.size) * this.#options.region.chunkBytes;
  }

  /** How long ago the oldest of them was written, milliseconds. */
  get oldestMs(): number {
    const [first] = this.#dirty.values();
    return first === undefined ? 0 : performance.now() - first;
  }

  start(): void {
    const everyMs = Math.min(
      Math.max(this.#options.intervalMs / LOOKS_PER_INTERVAL, 10),
      LOOK_MAX_MS,
    );
    this.#timer = setInterval(() => {
      this.#collect();
      if (this.#due().length > 0) void this.push().catch(() => undefined);
    }, everyMs);
  }

  /**
   * What is due is at the store when this resolves; with `all`, everything that was written before the call, durably.
   *
   * @throws StoreError What was not sent stays here, and is sent later.
   */
  async push({ all = false } = {}): Promise<void> {
    if (all) this.#collect();
    const wanted = all ? new Set([...this.#dirty.keys(), ...this.#sending]) : undefined;
    do {
      // One round at a time: what it sends is flushed by it.
      while (this.#round !== undefined) await this.#round.catch(() => undefined);
      this.#abort.signal.throwIfAborted();
      const due =
        wanted === undefined ? this.#due() : [...wanted].filter((chunk) => this.#dirty.has(chunk));
      if (due.length === 0 && !all) return;
      this.#round = this.#send(due).finally(() => (this.#round = undefined));
      await this.#round;
    } while (wanted !== undefined && [...wanted].some((chunk) => this.#sending.has(chunk)));
  }

  /** Ends without sending what is left. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#abort.abort(new StoreError("STORE_CLOSED", "the mount ends"));
    await this.#round?.catch(() => undefined);
  }

  #collect(): void {
    const now = performance.now();
    for (const chunk of setBits(this.#options.region.takeDirty())) {
      if (!this.#dirty.has(chunk)) this.#dirty.set(chunk, now);
    }
  }

  #due(): number[] {
    const { intervalMs, heldBytesMax, region } = this.#options;
    const before = performance.now() - intervalMs;
    let over = Math.ceil((this.#dirty.size * region.chunkBytes - heldBytesMax) / region.chunkBytes);
    const due: number[] = [];
    // The oldest stand first.
    for (const [chunk, since] of this.#dirty) {
      if (since > before && over <= 0) break;
      over--;
      due.push(chunk);
    }
    return due;
  }

  async #send(chunks: readonly number[]): Promise<void> {
    const { region, store, traits, health, onFailure } = this.#options;
    const most = Math.max(
      1,
      Math.floor(Math.min(PUSH_BYTES_MAX, traits.maxBytes) / region.chunkBytes),
    );
    const pending = [
      ...runs(
        [...chunks].sort((a, b) => a - b),
        most,
      ),
    ];
    const failures: unknown[] = [];
    const lane = async (): Promise<void> => {
      for (let run = pending.shift(); run !== undefined; run = pending.shift()) {
        try {
          await this.#sendRun(run);
        } catch (error) {
          failures.push(error);
          this.counters.writesFailed++;
          return;
        }
      }
    };
    await Promise.all(Array.from({ length: Math.max(1, traits.concurrency) }, lane));
    if (failures.length === 0) {
      try {
        const sent = this.#sent;
        this.#sent = new ChunkSet(region.chunkCount);
        await health
          .patiently(async () => await store.flush(this.#abort.signal), this.#abort.signal)
          .catch((error: unknown) => {
            for (const chunk of sent) this.#sent.add(chunk);
            throw error;
          });
        this.counters.flushes++;
        region.settleWritten(sent.bits);
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length === 0) return;
    if (!this.#abort.signal.aborted) onFailure(failures[0]);
    throw failures[0] instanceof Error ? failures[0] : new Error(messageOf(failures[0]));
  }

  async #sendRun({
    first,
    count,
  }: {
    readonly first: number;
    readonly count: number;
  }): Promise<void> {
    const { region, health } = this.#options;
    const chunks = Array.from({ length: count }, (_, k) => first + k);
    const since = chunks.map((chunk) => this.#dirty.get(chunk) ?? performance.now());
    for (const chunk of chunks) {
      this.#dirty.delete(chunk);
      this.#sending.add(chunk);
    }
    try {
      const bytes = new Uint8Array(count * region.chunkBytes);
      // Read after the marks were taken: writes that come in between are marked anew.
      const { zero } = await region.read(Uint32Array.from(chunks), bytes);
      await health.patiently(() => this.#write(first, zero, bytes), this.#abort.signal);
      for (const chunk of chunks) this.#sent.add(chunk);
    } catch (error) {
      // Older than what was written since.
      const later = [...this.#dirty];
      this.#dirty.clear();
      for (const [k, chunk] of chunks.entries()) this.#dirty.set(chunk, since[k] ?? 0);
      for (const [chunk, at] of later) if (!this.#dirty.has(chunk)) this.#dirty.set(chunk, at);
      throw error;
    } finally {
      for (const chunk of chunks) this.#sending.delete(chunk);
    }
  }

  /** Neighbours that are zeros are said to be, the others are sent. */
  async #write(first: number, zero: Uint8Array, bytes: Uint8Array): Promise<void> {
    const { region, store } = this.#options;
    const signal = this.#abort.signal;
    for (let k = 0; k < zero.length;) {
      const isZero = zero[k] === 1;
      let end = k + 1;
      while (end < zero.length && (zero[end] === 1) === isZero) end++;
      const offset = (first + k) * region.chunkBytes;
      const length = Math.min((first + end) * region.chunkBytes, region.bytes) - offset;
      if (isZero) {
        await store.writeZeroes(offset, length, signal);
        this.counters.zeroChunks += end - k;
      } else {
        const from = k * region.chunkBytes;
        await store.write(offset, bytes.subarray(from, from + length), signal);
        this.counters.bytesPushed += length;
      }
      k = end;
    }
  }
}
