/**
 * Virtual time: nothing waits, events happen in the order of their times.
 *
 * One event runs, then everything that follows from it at the same instant, then the next. The globals by which
 * programs tell time, wait and throw dice are replaced once per process; what is set through them belongs to the
 * actor that set it, and dies with it.
 *
 * @module
 */
import { currentActor, type Actor } from "./actor.ts";
import type { Random } from "./random.ts";

/** What `Date.now` says at the start. */
const EPOCH_MS = Date.UTC(2030, 0, 1);

interface Timer {
  readonly atMs: number;
  readonly sequence: number;
  readonly owner: Actor | undefined;
  action: (() => void) | undefined;
}

export class Clock {
  #nowMs = 0;
  #sequence = 0;
  readonly #heap: Timer[] = [];

  get nowMs(): number {
    return this.#nowMs;
  }

  /** @param owner If it is dead by then, nothing happens. @returns Cancels it. */
  after(delayMs: number, owner: Actor | undefined, action: () => void): () => void {
    const atMs = this.#nowMs + Math.max(0, Number.isFinite(delayMs) ? delayMs : 0);
    const timer: Timer = { atMs, sequence: this.#sequence++, owner, action };
    this.#push(timer);
    return () => {
      timer.action = undefined;
    };
  }

  /** Answers after a delay, unless the asker is dead by then. */
  answer<T>(delayMs: number, asker: Actor | undefined, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.after(delayMs, asker, () => {
        try {
          resolve(effect());
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  }

  /**
   * Runs events until `over`.
   *
   * @param over Looked at after each event and all that follows from it.
   * @returns `false` if nothing is left to happen.
   */
  async run(over: () => boolean): Promise<boolean> {
    for (;;) {
      await new Promise((resolve) => hop(resolve));
      if (over()) return true;
      const timer = this.#pop();
      if (timer === undefined) return false;
      this.#nowMs = Math.max(this.#nowMs, timer.atMs);
      const action = timer.action;
      if (action === undefined) continue;
      if (timer.owner === undefined) action();
      else timer.owner.run(action);
    }
  }

  #push(timer: Timer): void {
    const heap = this.#heap;
    let at = heap.push(timer) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || !before(timer, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = timer;
  }

  /** The next one that is still wanted. */
  #pop(): Timer | undefined {
    for (;;) {
      const first = this.#take();
      if (first === undefined) return undefined;
      if (first.action !== undefined && first.owner?.alive !== false) return first;
    }
  }

  #take(): Timer | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || first === last) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      const [left, right] = [heap[child], heap[child + 1]];
      if (left === undefined) break;
      if (right !== undefined && before(right, left)) child++;
      const least = heap[child];
      if (least === undefined || !before(least, last)) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function before(a: Timer, b: Timer): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence);
}

/** A turn of the real event loop: every microtask is done, and a rejection that nobody handles is reported. */
const hop = globalThis.setImmediate;

let active: { readonly clock: Clock; readonly random: Random } | undefined;

/** The clock and the dice of the run that begins; `undefined` between runs. */
export function useClock(
  run: { readonly clock: Clock; readonly random: Random } | undefined,
): void {
  active = run;
}

function nowMs(): number {
  return active?.clock.nowMs ?? 0;
}

/** Replaces the globals of this process, for good. */
export function installVirtualTime(): void {
  class Handle {
    readonly cancel: () => void;
    constructor(cancel: () => void) {
      this.cancel = cancel;
    }
    ref(): this {
      return this;
    }
    unref(): this {
      return this;
    }
  }
  const real = { setTimeout, setInterval, clearTimeout, clearInterval };
  const set = (action: (...args: unknown[]) => void, delayMs = 0, ...args: unknown[]): unknown => {
    if (active === undefined) return real.setTimeout(action, delayMs, ...args);
    // As the real ones, which never fire within the same turn.
    return new Handle(
      active.clock.after(Math.max(1, delayMs), currentActor(), () => action(...args)),
    );
  };
  const repeat = (
    action: (...args: unknown[]) => void,
    delayMs = 0,
    ...args: unknown[]
  ): unknown => {
    if (active === undefined) return real.setInterval(action, delayMs, ...args);
    const { clock } = active;
    const owner = currentActor();
    let cancel = (): void => undefined;
    const again = (): void => {
      cancel = clock.after(Math.max(1, delayMs), owner, () => {
        again();
        action(...args);
      });
    };
    again();
    return new Handle(() => cancel());
  };
  const clear = (handle: unknown): void => {
    if (handle instanceof Handle) handle.cancel();
    else real.clearTimeout(handle as NodeJS.Timeout | undefined);
  };
  Object.assign(globalThis, {
    setTimeout: set,
    setInterval: repeat,
    clearTimeout: clear,
    clearInterval: clear,
  });
  Object.assign(Date, {
    now: () => Math.floor(EPOCH_MS + nowMs() + (currentActor()?.host.wallAheadMs ?? 0)),
  });
  Object.defineProperty(performance, "now", { value: nowMs });
  Object.defineProperty(process, "hrtime", {
    value: () => [Math.floor(nowMs() / 1000), Math.floor((nowMs() % 1000) * 1e6)],
  });
  Math.random = () => active?.random.unit() ?? 0.5;
  AbortSignal.timeout = (delayMs) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new DOMException("timed out", "TimeoutError")), delayMs);
    return controller.signal;
  };
}
