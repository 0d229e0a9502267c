/**
 * Keeps a lease alive at a store, and tells when it is lost.
 *
 * @module
 */
import { StoreError } from "./store.ts";

/** How long a lease is good if its holder is gone. */
export const LEASE_MS = 30_000;

export class Lease {
  readonly #renew: () => Promise<boolean>;
  readonly #timer: ReturnType<typeof setInterval>;
  #goodUntil: number;
  #lost = false;

  /** @param renew `false`: somebody else has it. Throws where the store cannot be asked. */
  constructor(renew: () => Promise<boolean>) {
    this.#renew = renew;
    this.#goodUntil = performance.now() + LEASE_MS;
    this.#timer = setInterval(() => void this.#tick(), LEASE_MS / 3);
    this.#timer.unref();
  }

  /** @throws StoreError `STORE_FENCED` */
  require(name: string): void {
    if (!this.#lost) return;
    throw new StoreError(
      "STORE_FENCED",
      `another writer has taken ${name} over: nothing more is written to it`,
    );
  }

  /** Whether it can be relied on without asking. */
  get isFresh(): boolean {
    return !this.#lost && performance.now() < this.#goodUntil;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #tick(): Promise<void> {
    const askedAt = performance.now();
    try {
      if (await this.#renew()) this.#goodUntil = askedAt + LEASE_MS;
      else this.#lost = true;
    } catch {
      // It cannot be asked; the writes that it is for fail by themselves.
    }
  }
}
