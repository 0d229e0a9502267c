/**
 * The caller's hooks, one at a time.
 *
 * @module
 */

/** How long a hook that was told to stop may take before the next one runs all the same. */
const STOP_GRACE_MS = 5_000;

export type LibraryHook = (signal: AbortSignal) => void | Promise<void>;

export class HookRunner {
  #turn: Promise<void> = Promise.resolve();

  /**
   * After the hooks before it: a rollback that overtook its suspend would start a workload that is being stopped.
   *
   * @throws what the hook throws
   */
  async run(hook: LibraryHook, signal: AbortSignal): Promise<void> {
    const before = this.#turn;
    const own = before.then(async () => {
      signal.throwIfAborted();
      await hook(signal);
    });
    this.#turn = Promise.race([own.catch(() => undefined), gaveUp(signal)]);
    await own;
  }
}

function gaveUp(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wait = (): void => {
      setTimeout(resolve, STOP_GRACE_MS).unref();
    };
    if (signal.aborted) wait();
    else signal.addEventListener("abort", wait, { once: true });
  });
}
