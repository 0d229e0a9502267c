/**
 * Takes chunks away again where only so many may be kept: those that came first, unless they hold what is not at the
 * store yet.
 *
 * @module
 */
import type { NativeRegion } from "../../native/index.ts";
import { hasBit } from "./chunk-set.ts";

/** Who waited for a chunk finds it for this long at least. */
const STAY_MS = 20;

export class Residents {
  readonly #region: NativeRegion;
  readonly #most: number;
  /** By when they came; in that order. */
  readonly #arrived = new Map<number, number>();
  #timer: ReturnType<typeof setInterval> | undefined;
  #round: Promise<void> | undefined;

  /** @param bytes How much is kept, beside what was written. */
  constructor(region: NativeRegion, bytes: number) {
    this.#region = region;
    this.#most = Math.max(1, Math.floor(bytes / region.chunkBytes));
  }

  start(): void {
    // Of a mount before this one.
    for (const [index, byte] of this.#region.presence().entries()) {
      for (let bit = 0; byte >> bit !== 0; bit++) {
        if (((byte >> bit) & 1) === 1) this.#arrived.set(index * 8 + bit, 0);
      }
    }
    this.#timer = setInterval(() => {
      if (this.#arrived.size > this.#most) void this.evict();
    }, STAY_MS);
  }

  arrived(chunks: readonly number[]): void {
    const now = performance.now();
    for (const chunk of chunks) {
      this.#arrived.delete(chunk);
      this.#arrived.set(chunk, now);
    }
  }

  async evict(): Promise<void> {
    if (this.#round !== undefined) return await this.#round;
    const before = performance.now() - STAY_MS;
    const chosen: number[] = [];
    for (const [chunk, at] of this.#arrived) {
      if (at > before || this.#arrived.size - chosen.length <= this.#most) break;
      chosen.push(chunk);
    }
    if (chosen.length === 0) return;
    this.#round = this.#evict(chosen).finally(() => (this.#round = undefined));
    await this.#round;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#round;
  }

  async #evict(chosen: readonly number[]): Promise<void> {
    // What has been written and is not at the store is not given up. It comes to the end of the queue.
    const held = this.#region.written();
    const leaving = chosen.filter((chunk) => !hasBit(held, chunk));
    const gone = new Set(await this.#region.evict(Uint32Array.from(leaving)));
    const now = performance.now();
    for (const chunk of chosen) {
      this.#arrived.delete(chunk);
      if (!gone.has(chunk)) this.#arrived.set(chunk, now);
    }
  }
}
