/**
 * How long a workload waits for a chunk that is missing, from its touch to the chunk being there.
 *
 * @module
 */

/** The last of so many are counted. */
const SAMPLES_MAX = 1_024;
/** Chunks that are waited for at once, and more are not measured. */
const WAITING_MAX = 4_096;

export class FaultMeter {
  readonly #clock: () => number;
  /** Since when a chunk is waited for. */
  readonly #waiting = new Map<number, number>();
  readonly #samplesMs: number[] = [];
  #next = 0;

  /** @param clock Milliseconds, monotone. */
  constructor(clock: () => number = () => performance.now()) {
    this.#clock = clock;
  }

  asked(indexes: Iterable<number>): void {
    const nowMs = this.#clock();
    for (const index of indexes) {
      if (this.#waiting.size >= WAITING_MAX) return;
      if (!this.#waiting.has(index)) this.#waiting.set(index, nowMs);
    }
  }

  /** Chunks were stored. */
  stored(isReady: (index: number) => boolean): void {
    const nowMs = this.#clock();
    for (const [index, sinceMs] of this.#waiting) {
      if (!isReady(index)) continue;
      this.#waiting.delete(index);
      this.#samplesMs[this.#next] = nowMs - sinceMs;
      this.#next = (this.#next + 1) % SAMPLES_MAX;
    }
  }

  /** @param share 0.5 for the median. @returns Milliseconds; 0 if there was none. */
  quantileMs(share: number): number {
    const sorted = this.#samplesMs.toSorted((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  }
}
