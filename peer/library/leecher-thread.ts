/**
 * The destination of a migration, in its thread.
 *
 * @module
 */
import { hostname } from "node:os";
import { loadNative } from "../../native/index.ts";
import { toHex } from "../../relay/protocol/bytes.ts";
import { decodeTicket } from "../../relay/protocol/ticket.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import type { Destination } from "../migration/destination.ts";
import type { MigrationTotals } from "../migration/events.ts";
import { warmUpHandshake } from "../migration/handshake.ts";
import { Leecher } from "../migration/leecher.ts";
import type { OfferMessage } from "../migration/messages.ts";
import { MigrationError } from "../errors.ts";
import { dialLink } from "../net/dial.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { measured, openPaths } from "../net/paths/session-paths.ts";
import { RelayControl } from "../net/relay-control.ts";
import { relayOf } from "../net/relay-pins.ts";
import { RegionGroup, type NamedRegion } from "../region/group.ts";
import { VERSION } from "../version.ts";
import type { Caller } from "./caller.ts";
import type { LeechSetup } from "./messages.ts";
import { goOn, type Running } from "./running.ts";
import { throttledWarning } from "../session/throttled.ts";

export async function runLeecher(
  setup: LeechSetup,
  caller: Caller,
  running: Running,
): Promise<MigrationTotals> {
  const { stateDirectory, argv, cwd } = setup;
  const ticket = decodeTicket(setup.ticket);
  const identity = PeerIdentity.generate();
  const directory =
    stateDirectory === undefined
      ? undefined
      : await SessionDirectory.create(stateDirectory, {
          ticket,
          identity,
          argv,
          cwd,
          createdAtMs: Date.now(),
        });
  const unlock = await directory?.lock();
  const room = new SharedRoom(caller, setup, directory);
  try {
    goOn(running);
    void warmUpHandshake();
    let leecher: Leecher | undefined;
    const control = await RelayControl.join({
      ticket,
      identity,
      dial: (signal, greeting) => dialLink(setup.link, { ...relayOf(ticket), signal, greeting }),
      describe: () => room.describe(),
      onOwnership: (ownership) => leecher?.ownershipChanged(ownership),
      onCommand: (command) => {
        if (command === "finalize") leecher?.finalize();
        else if (command === "postcopy") leecher?.finalize({ postcopy: true });
      },
      onThrottled: (held) => caller.event(throttledWarning(held)),
      onConnection: (connected, detail) => caller.event({ event: "connection", connected, detail }),
    });
    try {
      goOn(running);
      const journal = await directory?.leecherJournal();
      const paths = openPaths(control, ticket, {
        policy: setup.path,
        measure: () => measured(leecher?.progress()),
        onEvent: (event) => caller.event(event),
      });
      const made = new Leecher({
        session: paths,
        sessionId: ticket.sessionId,
        secret: ticket.secret,
        keyedHash: (hashKey) => (data) => loadNative().blake3(data, hashKey),
        ...(journal === undefined ? {} : { journal }),
        prepare: async (offer) => {
          const destination = await room.prepare(offer);
          control.sendDescription();
          return destination;
        },
        onEvent: (event) => caller.event(event),
        mode: setup.mode,
        finalize: setup.finalize,
        downtimeBudgetMs: setup.downtimeBudgetMs,
        dataStreams: setup.dataStreams,
        onResume: async (signal) => {
          await caller.ask({ what: "resume" });
          await caller.hook("onResume")?.(signal);
        },
      });
      leecher = made;
      running.committed = () => made.committed;
      running.cancel = (reason) => made.cancel(reason);
      running.finalize = () => made.finalize();
      running.abandon = (reason) => made.abandon(new MigrationError("CANCELLED", reason));
      caller.post({ kind: "ready", sessionId: toHex(ticket.sessionId), ticket: undefined });
      const stopProgress = caller.showProgress(() => made.progress());
      try {
        return await made.run();
      } finally {
        stopProgress();
        await paths.close();
      }
    } finally {
      await control.close();
    }
  } catch (error) {
    if (running.committed()) await room.stop();
    else await directory?.remove();
    throw error;
  } finally {
    await room.close();
    await unlock?.();
  }
}

/** The caller's regions, as far as this thread fills them. */
class SharedRoom {
  readonly #caller: Caller;
  readonly #setup: LeechSetup;
  readonly #directory: SessionDirectory | undefined;
  readonly #members: NamedRegion[] = [];
  #offer: OfferMessage | undefined;
  #store: RegionGroup | undefined;

  constructor(caller: Caller, setup: LeechSetup, directory: SessionDirectory | undefined) {
    this.#caller = caller;
    this.#setup = setup;
    this.#directory = directory;
  }

  async prepare(offer: OfferMessage): Promise<Destination> {
    const { chunkBytes, hashKey } = offer;
    const regions = offer.regions.map(({ name, bytes }) => ({
      name,
      bytes,
      statePath: this.#directory?.statePath(name),
    }));
    this.#offer = offer;
    const ids = await this.#caller.ask({ what: "prepare", room: { regions, chunkBytes, hashKey } });
    const faults: { destination?: Destination } = {};
    let firstChunk = 0;
    for (const [i, { name, bytes }] of offer.regions.entries()) {
      const first = firstChunk;
      firstChunk += Math.ceil(bytes / chunkBytes);
      // Missing chunks are told to this thread: the one that opened the region may be who waits for them.
      const region = loadNative().shareRegion(ids[i] ?? 0, {
        onFault: (indexes) => faults.destination?.onFault?.(indexes.map((index) => index + first)),
      });
      this.#members.push({ name, region });
    }
    this.#store = new RegionGroup(this.#members);
    faults.destination = {
      onFault: undefined,
      exported: this.#setup.exported,
      region: this.#store,
    };
    return faults.destination;
  }

  describe():
    | { regionName: string; regionBytes: number; chunkBytes: number; host: string; version: string }
    | undefined {
    if (this.#offer === undefined) return undefined;
    const { regions, chunkBytes } = this.#offer;
    return {
      regionName: regions.map(({ name }) => name).join("+"),
      regionBytes: regions.reduce((sum, { bytes }) => sum + bytes, 0),
      chunkBytes,
      host: hostname(),
      version: VERSION,
    };
  }

  /** Nothing more comes: nobody is to wait for it, and what is here is made durable. */
  async stop(): Promise<void> {
    this.#store?.setGate("fenced");
    for (const { region } of this.#members) region.failParked("EIO");
    await this.#store?.quiesce();
    await this.#store?.checkpoint();
  }

  async close(): Promise<void> {
    for (const { region } of this.#members) await region.close();
  }
}
