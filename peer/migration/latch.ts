/**
 * Something that may have changed: waiters look again.
 *
 * @module
 */
export class Latch {
  #waiters: (() => void)[] = [];

  /** Wakes everybody who waits now. */
  notify(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** Resolves at the next `notify`, or when the signal aborts (the caller looks which). */
  wait(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted === true) {
        resolve();
        return;
      }
      const done = (): void => {
        signal?.removeEventListener("abort", done);
        resolve();
      };
      this.#waiters.push(done);
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

/** @throws the signal's reason */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
  });
  signal.throwIfAborted();
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
