/**
 * The epochs of dirty tracking at the source, and the dirty set of each until the leecher has acknowledged it.
 *
 * @module
 */
import type { ChunkStore, DirtySource } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";
import type { Manifest } from "./manifest.ts";

export interface DirtyHistoryOptions {
  readonly region: ChunkStore;
  readonly dirty: DirtySource;
  readonly manifest: Manifest;
  /** Chunks that are being read to be sent. */
  readonly reading: ChunkSet;
}

export class DirtyHistory {
  readonly #options: DirtyHistoryOptions;
  readonly #unacknowledged = new Map<number, ChunkSet>();
  #turn: Promise<void> = Promise.resolve();
  #epoch = 0;
  #collectedAtMs = 0;
  #dirtyBytesPerS = 0;

  constructor(options: DirtyHistoryOptions) {
    this.#options = options;
  }

  /** 0 until tracking begins. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Measured over the last round. */
  get dirtyBytesPerS(): number {
    return this.#dirtyBytesPerS;
  }

  /** Tracking goes on in `epoch`. */
  begin(epoch: number): void {
    this.#epoch = epoch;
    this.#collectedAtMs = performance.now();
  }

  /** In which state chunks are at the leecher is forgotten: as of `epoch` all count as written. */
  fold(epoch: number): void {
    this.#unacknowledged.set(epoch, ChunkSet.all(this.#options.region.chunkCount));
  }

  /** Dirty sets that a leecher which merged `mergedEpoch` last may have missed, oldest first. */
  *missedSince(mergedEpoch: number): Generator<readonly [epoch: number, dirty: ChunkSet]> {
    for (const entry of this.#unacknowledged) if (entry[0] > mergedEpoch) yield entry;
  }

  dirtyOf(epoch: number): ChunkSet | undefined {
    return this.#unacknowledged.get(epoch);
  }

  acknowledged(mergedEpoch: number): void {
    for (const epoch of this.#unacknowledged.keys()) {
      if (epoch <= mergedEpoch) this.#unacknowledged.delete(epoch);
    }
  }

  /**
   * Runs what closes an epoch, one at a time: a dirty set that was collected is recorded, whatever becomes of
   * the channel that it was meant for, and no other epoch is closed before it is on its way.
   */
  inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** What was written since the last call. */
  async collect(): Promise<ChunkSet> {
    const { dirty, region } = this.#options;
    const set = ChunkSet.from(await dirty.collect(this.#sentHash), region.chunkCount);
    const now = performance.now();
    const seconds = Math.max(1, now - this.#collectedAtMs) / 1000;
    this.#collectedAtMs = now;
    this.#dirtyBytesPerS = (set.size * region.chunkBytes) / seconds;
    return set;
  }

  /** What was sent of `dirty` so far is stale. @returns The epoch that is closed. */
  close(dirty: ChunkSet): number {
    const closed = this.#epoch++;
    this.#unacknowledged.set(closed, dirty);
    for (const index of dirty) this.#options.manifest.invalidate(index, closed);
    return closed;
  }

  readonly #sentHash = (index: number): Uint8Array | undefined => {
    const { reading, manifest } = this.#options;
    return reading.has(index) || !manifest.isKnown(index) ? undefined : manifest.hash(index);
  };
}
