/**
 * This relay among those of its database: it says that it is there and how it fares, and hears whether it is to drain.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import type { Database } from "./db/database.ts";
import { beat, forgetRelays, removeRelay } from "./db/relays.ts";
import type { RelayState } from "./db/schema.ts";
import type { Log } from "./log.ts";
import { toHex } from "./protocol/bytes.ts";
import { messageOf } from "./protocol/errors.ts";
import { ProcessMeter } from "./runtime/process-load.ts";

const HEARTBEAT_MS = 5_000;

export interface RelayNodeOptions {
  readonly database: Database;
  readonly log: Log;
  readonly url: () => string;
  readonly version: string;
  readonly name: string;
  readonly zone: string;
  readonly sessions: () => number;
  /** Since the start. */
  readonly bytesRelayed: () => number;
  readonly heartbeatMs?: number;
}

export class RelayNode {
  readonly id = toHex(randomBytes(16));
  readonly #options: RelayNodeOptions;
  readonly #meter = new ProcessMeter();
  #wanted: RelayState = "active";
  #goingDown = false;
  #bytes = 0;
  #atMs = performance.now();
  #timer: ReturnType<typeof setInterval> | undefined;
  #running: Promise<void> | undefined;

  constructor(options: RelayNodeOptions) {
    this.#options = options;
  }

  /** Where it is, as it says of itself. */
  get place(): { readonly node: string; readonly zone: string; readonly url: string } {
    const { name, zone, url } = this.#options;
    return { node: name, zone, url: url() };
  }

  /** Whether new sessions are refused: an operator wants it so, or the process is going down. */
  get draining(): boolean {
    return this.#goingDown || this.#wanted === "draining";
  }

  /** @throws RelayError `DATABASE_UNAVAILABLE` */
  async start(): Promise<void> {
    await this.#beat();
    const everyMs = this.#options.heartbeatMs ?? HEARTBEAT_MS;
    this.#timer = setInterval(() => void this.look(), everyMs);
  }

  /** Hears at once what an operator wants. Never rejects; one at a time. */
  look(): Promise<void> {
    this.#running ??= this.#beat()
      .catch((error: unknown) => {
        this.#options.log("warn", "the relay could not say that it is there", {
          reason: messageOf(error),
        });
      })
      .finally(() => {
        this.#running = undefined;
      });
    return this.#running;
  }

  /** The process is going down: others see it before it is gone. */
  goDown(): void {
    this.#goingDown = true;
    // Not waited for: a database that does not answer must not keep the peers from being told.
    void this.look();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
    try {
      await removeRelay(this.#options.database, this.id);
    } catch (error) {
      // It is shown as lost for an hour, which is no more than a wrong word.
      const reason = messageOf(error);
      this.#options.log("warn", "the relay is still in the list of relays", { reason });
    }
  }

  async #beat(): Promise<void> {
    const { database, log, url, version, name, zone, sessions, bytesRelayed } = this.#options;
    const now = performance.now();
    const bytes = bytesRelayed();
    const load = {
      ...this.#meter.look(),
      sessions: sessions(),
      bytesPerS: Math.round(((bytes - this.#bytes) * 1000) / Math.max(1, now - this.#atMs)),
    };
    this.#bytes = bytes;
    this.#atMs = now;
    const state = this.draining ? "draining" : "active";
    const wanted = await beat(database, {
      id: this.id,
      url: url(),
      version,
      name,
      zone,
      state,
      load,
    });
    if (wanted !== this.#wanted) {
      this.#wanted = wanted;
      log("info", wanted === "draining" ? "draining: no new sessions" : "taking new sessions");
      // What it says of itself is what it does from now on.
      await beat(database, { id: this.id, url: url(), version, name, zone, state: wanted, load });
    }
    await forgetRelays(database);
  }
}
