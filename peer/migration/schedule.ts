/**
 * In which order chunks are sent.
 *
 * Faults do not come here: they have their own stream. What is left goes by index, from where the last batch
 * ended, so that a pass reads its store sequentially.
 *
 * @module
 */
import type { ChunkSet } from "./bitmap.ts";
import { BATCH_BYTES, BATCH_CHUNKS_MAX } from "./limits.ts";

export class PullSchedule {
  readonly #wanted: ChunkSet;
  readonly #batchChunks: number;
  #cursor = 0;

  /** @param wanted Shared with the owner: chunks are added by it, and leave as they are taken. */
  constructor(wanted: ChunkSet, chunkBytes: number) {
    this.#wanted = wanted;
    this.#batchChunks = Math.min(
      BATCH_CHUNKS_MAX,
      Math.max(1, Math.floor(BATCH_BYTES / chunkBytes)),
    );
  }

  /** The most chunks that `take` gives at once. */
  get batchChunks(): number {
    return this.#batchChunks;
  }

  /** Takes the next chunks out of the set; none if it is empty. */
  take(): Uint32Array {
    const indexes: number[] = [];
    if (this.#wanted.size > 0) {
      let index = this.#wanted.next(this.#cursor);
      if (index < 0) index = this.#wanted.next(0);
      while (index >= 0 && indexes.length < this.#batchChunks) {
        this.#wanted.delete(index);
        indexes.push(index);
        this.#cursor = index + 1;
        index = this.#wanted.next(this.#cursor);
      }
    }
    return Uint32Array.from(indexes);
  }
}
