/**
 * Bytes per second over a sliding window.
 *
 * @module
 */

const WINDOW_MS = 3_000;
const SAMPLE_MS = 100;
const PEAK_MS = 300;

export class RateMeter {
  readonly #nowMs: () => number;
  /** Totals at sample times, oldest first; one older than the window stays as the base. */
  #samples: { atMs: number; total: number }[] = [];
  #total = 0;

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
    this.#samples.push({ atMs: nowMs(), total: 0 });
  }

  get total(): number {
    return this.#total;
  }

  add(bytes: number): void {
    this.#sample();
    this.#total += bytes;
  }

  /** 0 until there is something to measure. */
  get bytesPerS(): number {
    this.#sample();
    const base = this.#samples[0];
    if (base === undefined) return 0;
    const spanMs = this.#nowMs() - base.atMs;
    return spanMs <= 0 ? 0 : ((this.#total - base.total) / spanMs) * 1000;
  }

  /** The most in any `PEAK_MS` of the window: what the path carries when nothing holds it up. 0 until that long. */
  get peakBytesPerS(): number {
    this.#sample();
    let peak = 0;
    let first = 0;
    for (const { atMs, total } of this.#samples) {
      for (;;) {
        const base = this.#samples[first];
        if (base === undefined || atMs - base.atMs < PEAK_MS) break;
        peak = Math.max(peak, ((total - base.total) / (atMs - base.atMs)) * 1000);
        first++;
      }
    }
    return peak;
  }

  #sample(): void {
    const atMs = this.#nowMs();
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < SAMPLE_MS) return;
    this.#samples.push({ atMs, total: this.#total });
    while (this.#samples.length > 2 && atMs - (this.#samples[1]?.atMs ?? atMs) > WINDOW_MS) {
      this.#samples.shift();
    }
  }
}
