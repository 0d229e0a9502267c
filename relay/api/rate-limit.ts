/**
 * Token buckets by key, in bounded memory.
 *
 * @module
 */
import { TokenBucket } from "../token-bucket.ts";

export interface RateLimitOptions {
  readonly perSecond: number;
  readonly burst: number;
  /** Buckets kept; beyond that the ones idle for longest are forgotten. */
  readonly keysMax: number;
  /** Milliseconds, monotone. */
  readonly clock: () => number;
}

export class RateLimit {
  readonly #options: RateLimitOptions;
  /** In order of use: a bucket that is touched goes to the end. */
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(options: RateLimitOptions) {
    this.#options = options;
  }

  /** Takes one token. @returns 0, or how many seconds to wait. */
  take(key: string): number {
    const bucket = this.#touch(key);
    return bucket.take() ? 0 : bucket.waitS();
  }

  /** Seconds to wait before `take` would succeed; takes nothing. */
  waitS(key: string): number {
    return this.#touch(key).waitS();
  }

  #touch(key: string): TokenBucket {
    const { perSecond, burst, keysMax, clock } = this.#options;
    const known = this.#buckets.get(key);
    const bucket = known ?? new TokenBucket(perSecond, burst, clock);
    if (known !== undefined) this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size > keysMax) {
      const [oldest] = this.#buckets.keys();
      if (oldest !== undefined) this.#buckets.delete(oldest);
    }
    return bucket;
  }
}
