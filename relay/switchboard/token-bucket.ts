/**
 * How often something may happen: at a steady rate, and some at once.
 *
 * @module
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #atOnce: number;
  #tokens: number;
  #atMs = Date.now();

  constructor(perSecond: number, atOnce: number) {
    this.#perMs = perSecond / 1_000;
    this.#atOnce = atOnce;
    this.#tokens = atOnce;
  }

  /** Whether it may happen now. */
  take(): boolean {
    const now = Date.now();
    // A clock that is set back gives nothing.
    const passedMs = Math.max(0, now - this.#atMs);
    this.#atMs = now;
    this.#tokens = Math.min(this.#atOnce, this.#tokens + passedMs * this.#perMs);
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}
