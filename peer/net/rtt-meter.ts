/**
 * Smoothed round trip of pings that are answered one at a time (RFC 6298, with its 1/8 gain).
 *
 * @module
 */
const GAIN = 0.125;

export class RttMeter {
  #sentAtMs = 0;
  #rttMs = 0;

  /** 0 until it is measured. */
  get rttMs(): number {
    return this.#rttMs;
  }

  sent(): void {
    this.#sentAtMs = performance.now();
  }

  answered(): void {
    const sampleMs = performance.now() - this.#sentAtMs;
    this.#rttMs = this.#rttMs === 0 ? sampleMs : this.#rttMs * (1 - GAIN) + sampleMs * GAIN;
  }
}
