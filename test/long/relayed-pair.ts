/**
 * A migration between two real peers over a real relay, both peers and their regions in this process: cheap enough for
 * many at once. What it moves is in memory, and as slow as it is told to be.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { loadNative } from "../../native/index.ts";
import type { Destination } from "../../peer/migration/destination.ts";
import type { MigrationTotals } from "../../peer/migration/events.ts";
import { Leecher } from "../../peer/migration/leecher.ts";
import { Seeder } from "../../peer/migration/seeder.ts";
import type { ApiClient } from "../../peer/net/api-client.ts";
import { dialLink } from "../../peer/net/dial.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { RelayControl } from "../../peer/net/relay-control.ts";
import { relayOf } from "../../peer/net/relay-pins.ts";
import { sleep } from "../../peer/sleep.ts";
import { toHex } from "../../relay/protocol/bytes.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import type { Ticket } from "../../relay/protocol/ticket.ts";
import { MemoryRegion } from "../support/memory-region.ts";

const CHUNK_BYTES = 16 * 1024;

export interface PairOptions {
  readonly name: string;
  readonly bytes: number;
  /** The source waits so long before each batch that it reads. */
  readonly pauseMs: number;
  /** And before the first of them for this, so that many begin at once. */
  readonly begin?: Promise<void>;
}

export class RelayedPair implements AsyncDisposable {
  readonly sessionId: string;
  readonly bytes: number;
  readonly #source: MemoryRegion;
  readonly #destination: MemoryRegion;
  readonly #controls: RelayControl[] = [];
  #seeder: Seeder | undefined;
  #leecher: Leecher | undefined;
  /** What the two have heard of their connections to the relay. */
  readonly connections: string[] = [];
  done: Promise<MigrationTotals>;

  private constructor(
    sessionId: string,
    { bytes, pauseMs, begin }: PairOptions,
    hashKey: Uint8Array,
  ) {
    this.sessionId = sessionId;
    this.bytes = bytes;
    const region = { bytes, chunkBytes: CHUNK_BYTES, hashKey };
    this.#source = new MemoryRegion({ ...region, present: "all" });
    this.#destination = new MemoryRegion({ ...region, present: "none" });
    for (let at = 0; at < bytes; at += CHUNK_BYTES) {
      this.#source.memory.set(randomBytes(Math.min(CHUNK_BYTES, bytes - at)), at);
    }
    this.#source.pause = async () => {
      await begin;
      await sleep(pauseMs);
    };
    this.done = Promise.reject(new Error("it was not started"));
    this.done.catch(() => undefined);
  }

  static async start(client: ApiClient, options: PairOptions): Promise<RelayedPair> {
    const made = await client.createSession({ name: options.name, ticketTtlMs: 600_000 });
    const { id, relay, seederToken, leecherToken } = made;
    const hashKey = randomBytes(32);
    const pair = new RelayedPair(toHex(id), options, hashKey);
    const common = { ...relay, sessionId: id, secret: randomBytes(32) };
    await pair.#run(
      { ...common, role: "seeder", token: seederToken },
      { ...common, role: "leecher", token: leecherToken },
      hashKey,
    );
    return pair;
  }

  get bytesReady(): number {
    return this.#leecher?.progress().bytesReady ?? 0;
  }

  get bytesSent(): number {
    return this.#seeder?.progress().bytesSent ?? 0;
  }

  /** Whether the destination has what the source had. */
  get same(): boolean {
    return Buffer.compare(this.#source.memory, this.#destination.memory) === 0;
  }

  async #run(asSeeder: Ticket, asLeecher: Ticket, hashKey: Uint8Array): Promise<void> {
    const { sessionId, secret } = asSeeder;
    const seeding = await this.#join(asSeeder);
    const leeching = await this.#join(asLeecher);
    const seeder = new Seeder({
      session: seeding,
      sessionId,
      secret,
      hashKey,
      region: this.#source,
      dirty: this.#source,
      keyedHash: (data) => loadNative().blake3(data, hashKey),
    });
    const destination = this.#destination;
    const leecher = new Leecher({
      session: leeching,
      sessionId,
      secret,
      keyedHash: (key) => (data) => loadNative().blake3(data, key),
      mode: "hybrid",
      finalize: { kind: "auto" },
      downtimeBudgetMs: 300,
      dataStreams: 1,
      prepare: (): Promise<Destination> =>
        Promise.resolve({
          region: destination,
          exported: false,
          get onFault() {
            return destination.onFault;
          },
          set onFault(onFault) {
            destination.onFault = onFault;
          },
        }),
    });
    this.#seeder = seeder;
    this.#leecher = leecher;
    this.done = Promise.all([seeder.run(), leecher.run()]).then(([totals]) => totals);
    // Looked at later; a failure before that is no crash.
    this.done.catch(() => undefined);
  }

  async #join(ticket: Ticket): Promise<RelayControl> {
    const { role } = ticket;
    const peers: Record<Role, () => Seeder | Leecher | undefined> = {
      seeder: () => this.#seeder,
      leecher: () => this.#leecher,
    };
    const control = await RelayControl.join({
      ticket,
      identity: PeerIdentity.generate(),
      dial: (signal, greeting) => dialLink("websocket", { ...relayOf(ticket), signal, greeting }),
      describe: () =>
        role === "seeder"
          ? {
              regionName: "memory",
              regionBytes: this.bytes,
              chunkBytes: CHUNK_BYTES,
              host: "",
              version: "",
            }
          : undefined,
      onOwnership: (ownership) => peers[role]()?.ownershipChanged(ownership),
      onConnection: (connected, detail) => this.connections.push(connected ? "connected" : detail),
    });
    this.#controls.push(control);
    return control;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#controls.map((control) => control.close()));
  }
}
