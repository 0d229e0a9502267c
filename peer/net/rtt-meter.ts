/**
 * Smoothed round trip of pings that are answered one at a time (RFC 6298, with its 1/8 gain).
 *
 * @module
 */
const GAIN = 0.125;

export class RttMeter {
  #sentAtMs: number | undefined;
  #rttMs = 0;

  /** 0 until it is measured. */
  get rttMs(): number {
    return this.#rttMs;
  }

  /** Whether an answer is due. */
  get isWaiting(): boolean {
    return this.#sentAtMs !== undefined;
  }

  sent(): void {
    this.#sentAtMs = performance.now();
  }

  /** The path that an answer was due on is gone. */
  reset(): void {
    this.#sentAtMs = undefined;
  }

  /** @returns The round trip that was measured; `undefined` if nothing was asked. */
  answered(): number | undefined {
    if (this.#sentAtMs === undefined) return undefined;
    const sampleMs = performance.now() - this.#sentAtMs;
    this.#sentAtMs = undefined;
    this.#rttMs = this.#rttMs === 0 ? sampleMs : this.#rttMs * (1 - GAIN) + sampleMs * GAIN;
    return sampleMs;
  }
}
