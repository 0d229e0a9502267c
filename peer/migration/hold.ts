/**
 * A migration that rests because somebody asked for it.
 *
 * While it is held the source sends only what a workload waits for, and neither side hands over of its own accord.
 * Writes are tracked all the time, so nothing is lost by it but time.
 *
 * @module
 */
import { Latch } from "./latch.ts";

export class Hold {
  #held = false;
  readonly #changed = new Latch();
  readonly #listeners = new Set<() => void>();

  get held(): boolean {
    return this.#held;
  }

  set held(value: boolean) {
    if (this.#held === value) return;
    this.#held = value;
    this.#changed.notify();
    for (const listener of this.#listeners) listener();
  }

  /** Resolves at once unless it is held. @throws the signal's reason */
  released(signal: AbortSignal): Promise<void> {
    return this.#changed.until(() => !this.#held, signal);
  }

  /** Does it now, or when it is no longer held, unless the signal aborts before. */
  whenReleased(work: () => void, signal: AbortSignal): void {
    if (!this.#held) return work();
    this.released(signal).then(work, () => {
      // It is over: there is nothing left to do.
    });
  }

  /** @returns Stops it. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
