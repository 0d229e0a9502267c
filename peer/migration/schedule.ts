/**
 * In which order chunks are sent: one place, four classes.
 *
 * - `fault`: somebody at the destination waits for it. Goes on a stream of its own, many at a time.
 * - `dirty`: written since it was sent. Hot at the source, so it will soon be asked for.
 * - `workingSet`: follows a chunk that somebody waited for.
 * - `background`: all the rest.
 *
 * Within a class the regions take turns, batch by batch, so that none waits for another to be finished; within a
 * region it goes by index from where the last batch ended, so that a pass reads its store sequentially.
 *
 * @module
 */
import type { RegionSlice } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";
import { BATCH_BYTES, BATCH_CHUNKS_MAX } from "./limits.ts";

/** First come first. */
export const PRIORITIES = ["fault", "dirty", "workingSet", "background"] as const;
/** Those whose regions take turns. */
type PulledInTurn = Extract<(typeof PRIORITIES)[number], "dirty" | "background">;

/** Older guesses about what comes next are dropped: they go as background. */
const WORKING_SET_CHUNKS_MAX = 4_096;

export class Schedule {
  readonly #regions: readonly RegionSlice[];
  readonly #chunkBytes: number;
  readonly #batchChunks: number;
  /** Everything that is still to be sent, whatever its class. */
  readonly #wanted: ChunkSet;
  readonly #dirty: ChunkSet;
  /** In the order in which they were guessed; some have been sent since. */
  #workingSet: number[] = [];
  /** Not a part of `wanted`: somebody waits, whatever was sent before. */
  readonly #faulted: ChunkSet;
  #faults: number[] = [];
  /** Where the last batch ended, per region. */
  readonly #cursors: Record<PulledInTurn, number[]>;
  #turn = 0;

  constructor(regions: readonly RegionSlice[], chunkCount: number, chunkBytes: number) {
    this.#regions = regions;
    this.#chunkBytes = chunkBytes;
    this.#batchChunks = Math.min(
      BATCH_CHUNKS_MAX,
      Math.max(1, Math.floor(BATCH_BYTES / chunkBytes)),
    );
    this.#wanted = new ChunkSet(chunkCount);
    this.#dirty = new ChunkSet(chunkCount);
    this.#faulted = new ChunkSet(chunkCount);
    const starts = (): number[] => regions.map(({ firstChunk }) => firstChunk);
    this.#cursors = { dirty: starts(), background: starts() };
  }

  /** The most chunks that `take` gives at once. */
  get batchChunks(): number {
    return this.#batchChunks;
  }

  /** Chunks that are to be sent, but for faults. */
  get size(): number {
    return this.#wanted.size;
  }

  /** How many of a region are to be sent. */
  count({ firstChunk, chunkCount }: RegionSlice): number {
    return this.#wanted.count(firstChunk, chunkCount);
  }

  add(index: number): void {
    this.#wanted.add(index);
  }

  addDirty(chunks: ChunkSet): void {
    this.#wanted.addAll(chunks);
    this.#dirty.addAll(chunks);
  }

  /** Nothing is to be sent any more. Faults stay: they come on another stream, and may be ahead of all this. */
  clear(): void {
    this.#wanted.clear();
    this.#dirty.clear();
    this.#workingSet = [];
  }

  /** Somebody waits for these. Those that wait already change nothing. */
  addFaults(indexes: Uint32Array): void {
    for (const index of indexes) if (this.#faulted.add(index)) this.#faults.push(index);
  }

  /** A channel is new: who waits is said anew. */
  clearFaults(): void {
    this.#faulted.clear();
    this.#faults = [];
  }

  /** Takes the chunk that somebody has waited longest for. */
  takeFault(): number | undefined {
    const index = this.#faults.shift();
    if (index === undefined) return undefined;
    this.#faulted.delete(index);
    this.#remove(index);
    this.#guess(index);
    return index;
  }

  /**
   * Takes the next chunks that nobody waits for; none if there are none.
   *
   * @param bytesMax What there is room for; one chunk is taken in any case.
   */
  take(bytesMax = Infinity): Uint32Array {
    const room = Math.max(1, Math.floor(bytesMax / this.#chunkBytes));
    const count = Math.min(this.#batchChunks, room);
    let taken: number[] = [];
    if (this.#dirty.size > 0) taken = this.#takeInTurn("dirty", this.#dirty, count);
    if (taken.length === 0) taken = this.#takeWorkingSet(count);
    if (taken.length === 0 && this.#wanted.size > 0) {
      taken = this.#takeInTurn("background", this.#wanted, count);
    }
    return Uint32Array.from(taken);
  }

  #takeInTurn(priority: PulledInTurn, from: ChunkSet, count: number): number[] {
    const cursors = this.#cursors[priority];
    for (let i = 0; i < this.#regions.length; i++) {
      const at = (this.#turn + i) % this.#regions.length;
      const slice = this.#regions[at];
      if (slice === undefined) continue;
      const end = slice.firstChunk + slice.chunkCount;
      const within = (index: number): boolean => index >= 0 && index < end;
      let index = from.next(cursors[at] ?? 0);
      if (!within(index)) index = from.next(slice.firstChunk);
      const taken: number[] = [];
      for (; within(index) && taken.length < count; index = from.next(index + 1)) {
        this.#remove(index);
        taken.push(index);
      }
      const last = taken.at(-1);
      if (last === undefined) continue;
      cursors[at] = last + 1;
      this.#turn = at + 1;
      return taken;
    }
    return [];
  }

  #takeWorkingSet(count: number): number[] {
    const taken: number[] = [];
    let looked = 0;
    for (; looked < this.#workingSet.length && taken.length < count; looked++) {
      const index = this.#workingSet[looked] ?? 0;
      if (!this.#wanted.has(index)) continue;
      this.#remove(index);
      taken.push(index);
    }
    this.#workingSet.splice(0, looked);
    return taken;
  }

  /** Who waited for a chunk is likely to come for those after it. */
  #guess(index: number): void {
    const slice = this.#regions.find(
      ({ firstChunk, chunkCount }) => index >= firstChunk && index < firstChunk + chunkCount,
    );
    if (slice === undefined) return;
    const end = Math.min(slice.firstChunk + slice.chunkCount, index + 1 + this.#batchChunks);
    for (let next = index + 1; next < end; next++) {
      if (this.#wanted.has(next)) this.#workingSet.push(next);
    }
    const excess = this.#workingSet.length - WORKING_SET_CHUNKS_MAX;
    if (excess > 0) this.#workingSet.splice(0, excess);
  }

  #remove(index: number): void {
    this.#wanted.delete(index);
    this.#dirty.delete(index);
  }
}
