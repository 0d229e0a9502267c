/**
 * Something that may have changed: waiters look again.
 *
 * @module
 */
import { sleep } from "../sleep.ts";

const BACKOFF_BASE_MS = 50;
const BACKOFF_MAX_MS = 5_000;

export class Latch {
  readonly #waiters = new Set<() => void>();

  /** Wakes everybody who waits now. */
  notify(): void {
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const wake of waiters) wake();
  }

  /** Resolves at the next `notify`, or when the signal aborts (the caller looks which). */
  wait(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted === true) {
        resolve();
        return;
      }
      const done = (): void => {
        this.#waiters.delete(done);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      this.#waiters.add(done);
      signal?.addEventListener("abort", done, { once: true });
    });
  }

  /** Waits until `condition` holds; looks again at each `notify`. @throws the signal's reason */
  async until(condition: () => boolean, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (condition()) return;
      await this.wait(signal);
    }
  }
}

/** Resolves when the signal aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/**
 * Runs something of the user's that must come to an end.
 *
 * @param over Ends it early.
 */
export async function withDeadline(
  deadlineMs: number,
  work: ((signal: AbortSignal) => Promise<void>) | undefined,
  over?: AbortSignal,
): Promise<void> {
  const deadline = AbortSignal.timeout(deadlineMs);
  await work?.(over === undefined ? deadline : AbortSignal.any([deadline, over]));
}

/** The wait before the next channel, longer with each failure in a row; ends early with the migration. */
export async function backOff(failures: number, over: AbortSignal): Promise<void> {
  const delayMs = Math.min(BACKOFF_BASE_MS * 2 ** failures, BACKOFF_MAX_MS);
  // Whoever waits looks at the signal next.
  await sleep(delayMs, over).catch(() => undefined);
}
