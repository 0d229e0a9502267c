/**
 * How often something may happen: at a steady rate, and some at once.
 *
 * @module
 */
export class TokenBucket {
  readonly #perSecond: number;
  readonly #atOnce: number;
  readonly #clock: () => number;
  #tokens: number;
  #atMs: number;

  /** @param clock Milliseconds, monotone. */
  constructor(perSecond: number, atOnce: number, clock = (): number => performance.now()) {
    this.#perSecond = perSecond;
    this.#atOnce = atOnce;
    this.#clock = clock;
    this.#tokens = atOnce;
    this.#atMs = clock();
  }

  /** Whether it may happen now; then it counts. */
  take(): boolean {
    if (this.waitS() > 0) return false;
    this.#tokens--;
    return true;
  }

  /** Seconds to wait before `take` would succeed; takes nothing. */
  waitS(): number {
    const nowMs = this.#clock();
    const grown = ((nowMs - this.#atMs) / 1_000) * this.#perSecond;
    this.#tokens = Math.min(this.#atOnce, this.#tokens + grown);
    this.#atMs = nowMs;
    return this.#tokens >= 1 ? 0 : (1 - this.#tokens) / this.#perSecond;
  }
}
