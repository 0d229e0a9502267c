/**
 * Token buckets by key, in bounded memory.
 *
 * @module
 */

export interface RateLimitOptions {
  readonly perSecond: number;
  readonly burst: number;
  /** Buckets kept; beyond that the ones idle for longest are forgotten. */
  readonly keysMax: number;
  /** Milliseconds, monotone. */
  readonly clock: () => number;
}

interface Bucket {
  tokens: number;
  atMs: number;
}

export class RateLimit {
  readonly #options: RateLimitOptions;
  /** In order of use: a bucket that is touched goes to the end. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: RateLimitOptions) {
    this.#options = options;
  }

  /** Takes one token. @returns 0, or how many seconds to wait. */
  take(key: string): number {
    const bucket = this.#touch(key);
    if (bucket.tokens >= 1) {
      bucket.tokens -= 1;
      return 0;
    }
    return (1 - bucket.tokens) / this.#options.perSecond;
  }

  /** Seconds to wait before `take` would succeed; takes nothing. */
  waitS(key: string): number {
    const { tokens } = this.#touch(key);
    return tokens >= 1 ? 0 : (1 - tokens) / this.#options.perSecond;
  }

  #touch(key: string): Bucket {
    const { perSecond, burst, keysMax, clock } = this.#options;
    const nowMs = clock();
    const known = this.#buckets.get(key);
    const bucket = known ?? { tokens: burst, atMs: nowMs };
    bucket.tokens = Math.min(burst, bucket.tokens + ((nowMs - bucket.atMs) / 1000) * perSecond);
    bucket.atMs = nowMs;
    if (known !== undefined) this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size > keysMax) {
      const [oldest] = this.#buckets.keys();
      if (oldest !== undefined) this.#buckets.delete(oldest);
    }
    return bucket;
  }
}
