/**
 * Whether a store answers, and how long what it cannot do now is tried again.
 *
 * @module
 */
import { sleep } from "../sleep.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { isPassing } from "../store/store.ts";

const FIRST_DELAY_MS = 50;
const DELAY_MAX_MS = 5_000;

export interface StoreHealthState {
  readonly good: boolean;
  /** Of the first failure since it was last good, milliseconds since the epoch. */
  readonly sinceMs?: number;
  readonly reason?: string;
}

export class StoreHealth {
  readonly #failAfterMs: number;
  readonly #onChange: (state: StoreHealthState) => void;
  readonly #onBack = new Set<() => void>();
  #since: number | undefined;
  #reason: string | undefined;

  /** @param failAfterMs How long a call is tried again before its caller is told; `Infinity`: for ever. */
  constructor(failAfterMs: number, onChange: (state: StoreHealthState) => void) {
    this.#failAfterMs = failAfterMs;
    this.#onChange = onChange;
  }

  get good(): boolean {
    return this.#since === undefined;
  }

  get state(): StoreHealthState {
    if (this.#since === undefined) return { good: true };
    return {
      good: false,
      sinceMs: this.#since,
      ...(this.#reason === undefined ? {} : { reason: this.#reason }),
    };
  }

  onBack(call: () => void): void {
    this.#onBack.add(call);
  }

  /**
   * Tries until it works, fails for good, or has failed for too long.
   *
   * @throws Whatever `run` last threw
   */
  async patiently<T>(run: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const startedAt = Date.now();
    for (let delayMs = FIRST_DELAY_MS; ; delayMs = Math.min(delayMs * 2, DELAY_MAX_MS)) {
      try {
        const result = await run();
        this.#works();
        return result;
      } catch (error) {
        if (signal?.aborted === true || !isPassing(error)) throw error;
        this.#fails(messageOf(error));
        if (Date.now() - startedAt >= this.#failAfterMs) throw error;
      }
      // Spread, so that many that failed at once do not come back at once.
      await sleep(delayMs * (0.5 + Math.random() / 2), signal);
    }
  }

  #works(): void {
    if (this.#since === undefined) return;
    this.#since = this.#reason = undefined;
    this.#onChange(this.state);
    for (const call of this.#onBack) call();
  }

  #fails(reason: string): void {
    const news = this.#since === undefined;
    this.#since ??= Date.now();
    this.#reason = reason;
    if (news) this.#onChange(this.state);
  }
}
