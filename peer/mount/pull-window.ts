/**
 * How many reads a store is given at once.
 *
 * More are under way until that brings nothing any more: a window that doubles as long as the rate grows by a tenth
 * at least, and that looks again from time to time, because paths change.
 *
 * @module
 */
const FIRST = 4;
const GROWTH_WORTH = 1.1;
/** A look at the rate takes this many reads for each that may be under way. */
const READS_PER_LOOK = 4;
/** After so many looks without a change, a larger window is tried again. */
const LOOKS_BETWEEN_TRIES = 50;

export class PullWindow {
  readonly #most: number;
  readonly #fixed: boolean;
  #size: number;
  /** The best rate, and the window that had it. */
  #best = { bytesPerMs: 0, size: 0 };
  #bytes = 0;
  #reads = 0;
  #since = performance.now();
  #calm = 0;

  constructor(wanted: number | "auto", most: number) {
    this.#most = Math.max(1, most);
    this.#fixed = wanted !== "auto";
    this.#size = wanted === "auto" ? Math.min(FIRST, this.#most) : wanted;
  }

  get size(): number {
    return this.#size;
  }

  /** A read has ended. */
  note(bytes: number, nowMs = performance.now()): void {
    if (this.#fixed) return;
    this.#bytes += bytes;
    this.#reads++;
    if (this.#reads < this.#size * READS_PER_LOOK) return;
    const bytesPerMs = this.#bytes / Math.max(nowMs - this.#since, 0.001);
    [this.#bytes, this.#reads, this.#since] = [0, 0, nowMs];
    this.#look(bytesPerMs);
  }

  #look(bytesPerMs: number): void {
    if (bytesPerMs >= this.#best.bytesPerMs * GROWTH_WORTH) {
      this.#best = { bytesPerMs, size: this.#size };
      this.#size = Math.min(this.#size * 2, this.#most);
      this.#calm = 0;
      return;
    }
    if (this.#size > this.#best.size) {
      this.#size = this.#best.size;
      return;
    }
    this.#calm++;
    if (this.#calm < LOOKS_BETWEEN_TRIES) return;
    // What was best is long ago: begin with what is.
    this.#calm = 0;
    this.#best = { bytesPerMs, size: this.#size };
    this.#size = Math.min(this.#size * 2, this.#most);
  }
}
