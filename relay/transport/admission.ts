/**
 * Which connections are let in, before anything is done for them.
 *
 * A connection is in its handshake from the moment it is accepted until it has asked for something: a request
 * whose headers are there, or a stream whose first frame is. That has one deadline, whatever trickles in meanwhile,
 * and is bounded in number, by prefix and altogether.
 *
 * @module
 */
import type { LimitName, RelayLimits } from "../limits.ts";
import { TokenBucket } from "../token-bucket.ts";
import { prefixOf } from "./prefix.ts";

/** Prefixes without a connection whose rate is remembered; the one idle for longest is forgotten first. */
const IDLE_PREFIXES_MAX = 10_000;

/** One connection that was let in. */
export interface Admitted {
  /** It has asked for something. Once is enough. */
  readonly established: () => void;
  /** It is closed. Once is enough. */
  readonly closed: () => void;
}

export interface AdmissionOptions {
  readonly limits: RelayLimits;
  /** Told of each connection that is not let in. */
  readonly onRefused?: (limitName: LimitName) => void;
  /** Milliseconds, monotone. */
  readonly clock?: () => number;
}

interface Prefix {
  readonly rate: TokenBucket;
  connections: number;
  handshakes: number;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #clock: () => number;
  /** Idle ones at the front, in the order in which they became idle. */
  readonly #prefixes = new Map<string, Prefix>();
  #idle = 0;
  #connections = 0;
  #handshakes = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => performance.now());
  }

  get connections(): number {
    return this.#connections;
  }

  get handshakes(): number {
    return this.#handshakes;
  }

  /** What the prefix of an address has used. */
  usedBy(remoteAddress: string): { readonly connections: number; readonly handshakes: number } {
    const { connections = 0, handshakes = 0 } = this.#prefixes.get(prefixOf(remoteAddress)) ?? {};
    return { connections, handshakes };
  }

  /** @returns `undefined` if the connection is to be dropped. */
  admit(remoteAddress: string): Admitted | undefined {
    const key = prefixOf(remoteAddress);
    const prefix = this.#prefixes.get(key) ?? this.#newPrefix(key);
    const refused = this.#refusal(prefix);
    if (refused !== undefined) {
      this.#options.onRefused?.(refused);
      return undefined;
    }
    if (prefix.connections === 0) this.#idle--;
    prefix.connections++;
    prefix.handshakes++;
    this.#connections++;
    this.#handshakes++;
    let shaking = true;
    let open = true;
    const established = (): void => {
      if (!shaking) return;
      shaking = false;
      prefix.handshakes--;
      this.#handshakes--;
    };
    const closed = (): void => {
      if (!open) return;
      open = false;
      established();
      this.#connections--;
      prefix.connections--;
      if (prefix.connections === 0) this.#becameIdle(key, prefix);
    };
    return { established, closed };
  }

  #refusal(prefix: Prefix): LimitName | undefined {
    const { limits } = this.#options;
    // Last, since it takes: a connection that is dropped for another reason has not cost a handshake.
    if (this.#connections >= limits.connections) return "connections";
    if (prefix.connections >= limits.connectionsPerPrefix) return "connectionsPerPrefix";
    if (prefix.handshakes >= limits.handshakesPerPrefix) return "handshakesPerPrefix";
    if (this.#handshakes >= limits.handshakes) return "handshakes";
    return prefix.rate.take() ? undefined : "acceptsPerPrefix";
  }

  #newPrefix(key: string): Prefix {
    const { acceptsPerPrefix, acceptBurstPerPrefix } = this.#options.limits;
    const rate = new TokenBucket(acceptsPerPrefix, acceptBurstPerPrefix, this.#clock);
    const prefix = { rate, connections: 0, handshakes: 0 };
    this.#becameIdle(key, prefix);
    return prefix;
  }

  #becameIdle(key: string, prefix: Prefix): void {
    this.#prefixes.delete(key);
    this.#prefixes.set(key, prefix);
    if (++this.#idle <= IDLE_PREFIXES_MAX) return;
    for (const [oldest, { connections }] of this.#prefixes) {
      if (connections > 0) continue;
      this.#prefixes.delete(oldest);
      this.#idle--;
      return;
    }
  }
}
