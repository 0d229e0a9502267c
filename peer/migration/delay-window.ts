/**
 * How much may be under way to the destination while somebody may wait there.
 *
 * A fault shares the path with everything else that is under way, and waits in the same queue at its narrowest
 * point. So the window grows only as long as the round trip stays near the shortest one that was seen: enough to
 * fill the path, too little to fill its queue. (The idea is Vegas's, Brakmo and Peterson 1995, and LEDBAT's, RFC
 * 6817; here the window is the credit of all streams together.)
 *
 * @module
 */
import { WINDOW_BYTES_MAX } from "./limits.ts";

export const DELAY_WINDOW_BYTES_MIN = 256 * 1024;
/** Of the shortest round trip: what may be spent in queues. */
const QUEUE_RATIO = 0.03;
/** Below this a delay says more about this host than about the path. */
const QUEUE_MS_MIN = 1.5;
/** The shortest round trip is forgotten after one to two of these: the path may have become longer. */
const BASE_SPAN_MS = 30_000;
/** A single late answer says little: the best of this many counts. */
const SAMPLES = 3;
/** Per round trip that was measured: little, because a queue shows only after several. */
const GROWTH = 1.05;

export class DelayWindow {
  #bytes = DELAY_WINDOW_BYTES_MIN;
  /** Until the queue was seen once, the window doubles. */
  #probing = true;
  #recent: number[] = [];
  #base: readonly [number, number] = [Infinity, Infinity];
  #baseSinceMs = -Infinity;
  #last = { bytesTotal: 0, atMs: 0 };

  get bytes(): number {
    return this.#bytes;
  }

  /** Begins with what the path carries, if that is known. */
  begin(bytesPerS: number): void {
    const baseMs = Math.min(...this.#base);
    if (bytesPerS === 0 || !Number.isFinite(baseMs)) return;
    this.#bytes = bounded((bytesPerS * (baseMs + queueMs(baseMs))) / 1_000);
    this.#probing = false;
  }

  /**
   * @param rttMs As it was just measured.
   * @param bytesTotal What has come in so far.
   */
  sample(rttMs: number, bytesTotal: number, nowMs = performance.now()): void {
    const bytesPerMs = (bytesTotal - this.#last.bytesTotal) / Math.max(1, nowMs - this.#last.atMs);
    this.#last = { bytesTotal, atMs: nowMs };
    if (nowMs - this.#baseSinceMs > BASE_SPAN_MS) {
      this.#base = [this.#base[1], Infinity];
      this.#baseSinceMs = nowMs;
    }
    this.#base = [this.#base[0], Math.min(this.#base[1], rttMs)];
    this.#recent = [...this.#recent, rttMs].slice(-SAMPLES);
    const baseMs = Math.min(...this.#base);
    const mostMs = baseMs + queueMs(baseMs);
    const currentMs = Math.min(...this.#recent);
    if (rttMs > mostMs) {
      if (currentMs <= mostMs || this.#recent.length < SAMPLES) return;
      this.#probing = false;
      // What is under way is rate times round trip: so much less of it takes the queue away.
      this.#bytes = bounded((this.#bytes * mostMs) / currentMs);
      // Judged again by what is measured from now on.
      this.#recent = [];
      return;
    }
    const isUsed = bytesPerMs * rttMs > this.#bytes / 4;
    if (isUsed) this.#bytes = bounded(this.#bytes * (this.#probing ? 2 : GROWTH));
  }
}

function queueMs(baseMs: number): number {
  return Math.max(QUEUE_MS_MIN, baseMs * QUEUE_RATIO);
}

function bounded(bytes: number): number {
  return Math.min(WINDOW_BYTES_MAX, Math.max(DELAY_WINDOW_BYTES_MIN, Math.ceil(bytes)));
}
