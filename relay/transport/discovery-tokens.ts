/**
 * Who may ask what its address is: tokens that were given out over TLS, in bounded memory.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { toHex } from "../protocol/bytes.ts";
import { DISCOVERY_TOKEN_BYTES } from "../protocol/discovery.ts";
import { DISCOVERY_ANSWERS_PER_TOKEN, DISCOVERY_TOKEN_LIFETIME_MS } from "./limits.ts";

interface Entry {
  /** Infinity while the peer is connected. */
  expiresAtMs: number;
  answersLeft: number;
  refilledAtMs: number;
}

export interface HeldToken {
  readonly token: Uint8Array;
  /** Its holder has left: the token expires from now on. Repeated calls do nothing. */
  release(): void;
}

export class DiscoveryTokens {
  readonly #entriesMax: number;
  readonly #clock: () => number;
  /** In the order of their expiry, those of connected peers first. */
  readonly #entries = new Map<string, Entry>();

  /** @param clock Milliseconds, monotone. */
  constructor(entriesMax: number, clock: () => number) {
    this.#entriesMax = entriesMax;
    this.#clock = clock;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Good until `release`, and for a lifetime after it. The oldest makes way if there are too many. */
  hold(): HeldToken {
    const token = randomBytes(DISCOVERY_TOKEN_BYTES);
    const key = toHex(token);
    const entry = this.#add(key, Number.POSITIVE_INFINITY);
    return {
      token,
      release: () => {
        if (entry.expiresAtMs !== Number.POSITIVE_INFINITY) return;
        entry.expiresAtMs = this.#clock() + DISCOVERY_TOKEN_LIFETIME_MS;
        // To the end, where those are that expire last.
        if (this.#entries.delete(key)) this.#entries.set(key, entry);
      },
    };
  }

  /** Good for a lifetime. */
  lend(): Uint8Array {
    const token = randomBytes(DISCOVERY_TOKEN_BYTES);
    this.#add(toHex(token), this.#clock() + DISCOVERY_TOKEN_LIFETIME_MS);
    return token;
  }

  has(token: Uint8Array): boolean {
    return this.#live(toHex(token)) !== undefined;
  }

  /** Takes one of the token's answers. @returns Whether it had one left. */
  spend(token: Uint8Array): boolean {
    const entry = this.#live(toHex(token));
    if (entry === undefined) return false;
    const nowMs = this.#clock();
    if (nowMs - entry.refilledAtMs >= DISCOVERY_TOKEN_LIFETIME_MS) {
      entry.refilledAtMs = nowMs;
      entry.answersLeft = DISCOVERY_ANSWERS_PER_TOKEN;
    }
    if (entry.answersLeft === 0) return false;
    entry.answersLeft -= 1;
    return true;
  }

  #live(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.expiresAtMs > this.#clock()) return entry;
    this.#entries.delete(key);
    return undefined;
  }

  #add(key: string, expiresAtMs: number): Entry {
    const nowMs = this.#clock();
    for (const [old, { expiresAtMs: endMs }] of this.#entries) {
      if (endMs > nowMs && this.#entries.size < this.#entriesMax) break;
      this.#entries.delete(old);
    }
    const entry = { expiresAtMs, answersLeft: DISCOVERY_ANSWERS_PER_TOKEN, refilledAtMs: nowMs };
    this.#entries.set(key, entry);
    return entry;
  }
}
