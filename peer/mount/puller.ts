/**
 * Brings chunks from a store into a region: those that somebody waits for at once, the others in the background in the
 * order that was asked for.
 *
 * @module
 */
import { StoreOutcome, ZERO_CHUNK, type NativeRegion } from "../../native/index.ts";
import type { AlignedStore } from "../store/aligned-store.ts";
import { isPassing, StoreError, type StoreTraits } from "../store/store.ts";
import { ChunkSet, hasBit } from "./chunk-set.ts";
import { PullWindow } from "./pull-window.ts";
import type { StoreHealth } from "./store-health.ts";

/** A background read is of this many bytes at most: what is waited for must not stand long behind it. */
const PULL_BYTES_MAX = 1 << 20;

export interface PullerOptions {
  readonly region: NativeRegion;
  readonly store: AlignedStore;
  readonly traits: StoreTraits;
  readonly health: StoreHealth;
  /** Chunks in the order in which they are wanted; may name some twice, and not all. */
  readonly order: Iterable<number>;
  /** Background reads under way at most; `auto`: as many as make it faster; 0: none. */
  readonly pull: number | "auto";
  /** For each chunk that somebody waited for, in that order. */
  readonly onFault?: (chunk: number) => void;
  /** Chunks that have become present. */
  readonly onArrival?: (chunks: readonly number[]) => void;
}

export interface PullerCounters {
  bytesPulled: number;
  faults: number;
  readsFailed: number;
}

export class Puller {
  readonly counters: PullerCounters = { bytesPulled: 0, faults: 0, readsFailed: 0 };
  readonly #options: PullerOptions;
  readonly #abort = new AbortController();
  /** Being read now, or about to be tried again. */
  readonly #under: ChunkSet;
  readonly #urgent: number[] = [];
  readonly #background: Iterator<number>;
  readonly #window: PullWindow;
  /** Taken from the order, and not fitting the run that it was taken for. */
  #next: number | undefined;
  #urgentUnder = 0;
  #backgroundUnder = 0;
  #backgroundDone: boolean;
  readonly #idle = new Set<() => void>();

  constructor(options: PullerOptions) {
    this.#options = options;
    this.#under = new ChunkSet(options.region.chunkCount);
    this.#background = options.order[Symbol.iterator]();
    this.#backgroundDone = options.pull === 0;
    this.#window = new PullWindow(options.pull, options.traits.concurrency);
  }

  /** Every chunk of the order has been brought here. */
  get complete(): boolean {
    return this.#backgroundDone && this.#backgroundUnder === 0;
  }

  /** Reads under way in the background that the store is given at most, at present. */
  get window(): number {
    return this.#window.size;
  }

  start(): void {
    this.#options.health.onBack(() => this.#fill());
    this.#fill();
  }

  /** Somebody waits for these. */
  fault(chunks: Iterable<number>): void {
    for (const chunk of chunks) {
      this.counters.faults++;
      this.#options.onFault?.(chunk);
      if (this.#under.add(chunk)) this.#urgent.push(chunk);
    }
    this.#fill();
  }

  /** What is under way is given up. */
  async stop(): Promise<void> {
    this.#backgroundDone = true;
    this.#urgent.length = 0;
    this.#abort.abort(new StoreError("STORE_CLOSED", "the mount ends"));
    if (this.#urgentUnder + this.#backgroundUnder === 0) return;
    await new Promise<void>((resolve) => this.#idle.add(resolve));
  }

  #fill(): void {
    const { traits, health } = this.#options;
    if (this.#abort.signal.aborted) return;
    while (this.#urgent.length > 0 && this.#urgentUnder < traits.concurrency) {
      const run = this.#urgentRun();
      this.#urgentUnder++;
      void this.#bring(run, true).finally(() => {
        this.#urgentUnder--;
        this.#goOn();
      });
    }
    // A store that does not answer is asked by those that are wanted, and by no others.
    while (!this.#backgroundDone && health.good && this.#backgroundUnder < this.#window.size) {
      const run = this.#backgroundRun();
      if (run.length === 0) break;
      this.#backgroundUnder++;
      void this.#bring(run, false).finally(() => {
        this.#backgroundUnder--;
        this.#goOn();
      });
    }
  }

  #goOn(): void {
    this.#fill();
    if (this.#urgentUnder + this.#backgroundUnder > 0) return;
    for (const resolve of this.#idle) resolve();
    this.#idle.clear();
  }

  /** The oldest, and its neighbours if they are waited for too. */
  #urgentRun(): number[] {
    const { region } = this.#options;
    const most = Math.max(1, Math.floor(PULL_BYTES_MAX / region.chunkBytes));
    const run: number[] = [];
    for (const chunk of this.#urgent) {
      if (run.length === most || (run.length > 0 && chunk !== (run.at(-1) ?? 0) + 1)) break;
      run.push(chunk);
    }
    this.#urgent.splice(0, run.length);
    return run;
  }

  #backgroundRun(): number[] {
    const { region, traits } = this.#options;
    const most = Math.max(
      1,
      Math.floor(Math.min(PULL_BYTES_MAX, traits.maxBytes) / region.chunkBytes),
    );
    const presence = region.presence();
    const run: number[] = [];
    while (run.length < most) {
      const chunk = this.#next ?? this.#takeNext();
      this.#next = undefined;
      if (chunk === undefined) break;
      if (hasBit(presence, chunk) || this.#under.has(chunk)) continue;
      if (run.length > 0 && chunk !== (run.at(-1) ?? 0) + 1) {
        this.#next = chunk;
        break;
      }
      this.#under.add(chunk);
      run.push(chunk);
    }
    return run;
  }

  #takeNext(): number | undefined {
    for (;;) {
      const { done, value } = this.#background.next();
      if (done === true) {
        this.#backgroundDone = true;
        return undefined;
      }
      if (Number.isInteger(value) && value >= 0 && value < this.#options.region.chunkCount)
        return value;
    }
  }

  async #bring(chunks: readonly number[], urgent: boolean): Promise<void> {
    const { health, region } = this.#options;
    try {
      const skipped = await health.patiently(() => this.#read(chunks), this.#abort.signal);
      for (const chunk of chunks) this.#under.delete(chunk);
      // Somebody was taking them away just then.
      const presence = skipped.length === 0 ? NO_HASHES : region.presence();
      const missing = skipped.filter((chunk) => !hasBit(presence, chunk));
      if (missing.length > 0) this.#again(missing);
    } catch (error) {
      for (const chunk of chunks) this.#under.delete(chunk);
      if (this.#abort.signal.aborted) return;
      this.counters.readsFailed++;
      // Who waits is told; a later reader asks again.
      if (urgent || !isPassing(error)) region.failParked("EIO");
    }
  }

  #again(chunks: readonly number[]): void {
    for (const chunk of chunks) if (this.#under.add(chunk)) this.#urgent.push(chunk);
  }

  /** @returns Those that the region did not take. */
  async #read(chunks: readonly number[]): Promise<number[]> {
    const { region, store, onArrival } = this.#options;
    const first = chunks[0] ?? 0;
    const offset = first * region.chunkBytes;
    const length = Math.min(chunks.length * region.chunkBytes, region.bytes - offset);
    const bytes = new Uint8Array(length);
    const found = await store.read(offset, bytes, this.#abort.signal);
    const outcomes = await region.store({
      indexes: Uint32Array.from(chunks),
      offsets: Uint32Array.from(chunks, (_, k) => (found ? k * region.chunkBytes : ZERO_CHUNK)),
      bytes,
      hashes: NO_HASHES,
      ifAbsent: true,
    });
    this.#window.note(length);
    this.counters.bytesPulled += length;
    onArrival?.(chunks.filter((_, k) => outcomes[k] === StoreOutcome.stored));
    return chunks.filter((_, k) => outcomes[k] !== StoreOutcome.stored);
  }
}

const NO_HASHES = new Uint8Array(0);
