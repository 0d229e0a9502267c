/**
 * The source of a migration, in its thread.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { loadNative, type NativeRegion } from "../../native/index.ts";
import { toHex } from "../../relay/protocol/bytes.ts";
import type { Ticket } from "../../relay/protocol/ticket.ts";
import { ScannedWrites } from "../export/scanned-writes.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import type { MigrationTotals } from "../migration/events.ts";
import { Seeder } from "../migration/seeder.ts";
import { dialLink } from "../net/dial.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { measured, openPaths } from "../net/paths/session-paths.ts";
import { RelayControl } from "../net/relay-control.ts";
import { relayOf } from "../net/relay-pins.ts";
import { GroupWrites, RegionGroup, type NamedRegion } from "../region/group.ts";
import type { DirtySource } from "../region/region.ts";
import { knownRelay } from "../session/known-relay.ts";
import { createOffer } from "../session/offer.ts";
import { VERSION } from "../version.ts";
import type { Caller } from "./caller.ts";
import { FENCE_PATIENCE_MS } from "./limits.ts";
import { MappedWrites } from "./mapped-writes.ts";
import type { SeedSetup } from "./messages.ts";
import { goOn, type Running } from "./running.ts";
import { throttledWarning } from "../session/throttled.ts";

const HASH_KEY_BYTES = 32;

export async function runSeeder(
  setup: SeedSetup,
  caller: Caller,
  running: Running,
): Promise<MigrationTotals> {
  const { name, ticketTtlMs, stateDirectory, argv, cwd } = setup;
  const { key } = setup;
  const access = await knownRelay({
    url: setup.relay,
    key: key === undefined ? undefined : () => Promise.resolve(key),
    words: { relay: "{ relay: URL }", key: "{ key }" },
  });
  goOn(running);
  const { ticket, leecherTicket } = await createOffer({ access, name, ticketTtlMs });
  const identity = PeerIdentity.generate();
  const hashKey = randomBytes(HASH_KEY_BYTES);
  const directory =
    stateDirectory === undefined
      ? undefined
      : await SessionDirectory.create(stateDirectory, {
          ticket,
          identity,
          hashKey,
          argv,
          cwd,
          createdAtMs: Date.now(),
        });
  const unlock = await directory?.lock();
  try {
    goOn(running);
    return await new SeederThread({ setup, caller, running, ticket, identity, hashKey }).run(
      directory,
      leecherTicket,
    );
  } catch (error) {
    if (!running.committed()) await directory?.remove();
    throw error;
  } finally {
    await unlock?.();
  }
}

interface Given {
  readonly setup: SeedSetup;
  readonly caller: Caller;
  readonly running: Running;
  readonly ticket: Ticket;
  readonly identity: PeerIdentity;
  readonly hashKey: Uint8Array;
}

class SeederThread {
  readonly #with: Given;
  readonly #closing: (() => Promise<void>)[] = [];

  constructor(given: Given) {
    this.#with = given;
  }

  async run(
    directory: SessionDirectory | undefined,
    leecherTicket: string,
  ): Promise<MigrationTotals> {
    try {
      return await this.#run(directory, leecherTicket);
    } finally {
      for (const close of this.#closing.splice(0).toReversed()) await close();
    }
  }

  async #run(
    directory: SessionDirectory | undefined,
    leecherTicket: string,
  ): Promise<MigrationTotals> {
    const { setup, caller, running, ticket, identity, hashKey } = this.#with;
    const { store, dirty } = await this.#open();
    let seeder: Seeder | undefined;
    const control = await RelayControl.join({
      ticket,
      identity,
      dial: (signal, greeting) => dialLink(setup.link, { ...relayOf(ticket), signal, greeting }),
      describe: () => ({
        regionName: setup.name,
        regionBytes: store.bytes,
        chunkBytes: store.chunkBytes,
        host: hostname(),
        version: VERSION,
      }),
      onOwnership: (ownership) => seeder?.ownershipChanged(ownership),
      onThrottled: (held) => caller.event(throttledWarning(held)),
      onConnection: (connected, detail) => caller.event({ event: "connection", connected, detail }),
    });
    this.#closing.push(() => control.close());
    goOn(running);
    const [onSuspend, onRollback, onRelease] = [
      caller.hook("onSuspend"),
      caller.hook("onRollback"),
      caller.hook("onRelease"),
    ];
    const journal = await directory?.seederJournal();
    const paths = openPaths(control, ticket, {
      policy: setup.path,
      measure: () => measured(seeder?.progress()),
      onEvent: (event) => caller.event(event),
    });
    this.#closing.push(() => paths.close());
    const made = new Seeder({
      session: paths,
      sessionId: ticket.sessionId,
      secret: ticket.secret,
      hashKey,
      region: store,
      dirty,
      keyedHash: (data) => loadNative().blake3(data, hashKey),
      ...(journal === undefined ? {} : { journal }),
      hooks: {
        ...(onSuspend === undefined ? {} : { onSuspend }),
        ...(onRollback === undefined ? {} : { onRollback }),
        ...(onRelease === undefined ? {} : { onRelease }),
      },
      onEvent: (event) => caller.event(event),
    });
    seeder = made;
    running.committed = () => made.committed;
    running.cancel = (reason) => made.cancel(reason);
    caller.post({ kind: "ready", sessionId: toHex(ticket.sessionId), ticket: leecherTicket });
    const stopProgress = caller.showProgress(() => made.progress());
    this.#closing.push(() => Promise.resolve(stopProgress()));
    return await made.run();
  }

  async #open(): Promise<{ store: RegionGroup; dirty: DirtySource }> {
    const { setup, hashKey } = this.#with;
    const members: NamedRegion[] = [];
    const sources: DirtySource[] = [];
    for (const { name, id, scanned, shownCount } of setup.regions) {
      const region = loadNative().shareRegion(id);
      this.#closing.push(() => region.close());
      region.rekey(hashKey);
      members.push({ name, region });
      sources.push(
        scanned === undefined
          ? this.#mapped(name, region, shownCount)
          : await this.#scanned(scanned, region),
      );
    }
    const store = new RegionGroup(members);
    return { store, dirty: new GroupWrites(store.regions, sources) };
  }

  #mapped(name: string, region: NativeRegion, shownCount: Int32Array): MappedWrites {
    const { caller } = this.#with;
    const ask = async (what: "flush" | "invalidate"): Promise<void> => {
      // The caller may be busy for long: nothing is asked that need not be.
      if (Atomics.load(shownCount, 0) > 0) await caller.ask({ what, region: name });
    };
    return new MappedWrites(region, {
      flush: () => ask("flush"),
      invalidate: () => ask("invalidate"),
      letGo: async () => {
        await caller.ask({ what: "letGo" }, AbortSignal.timeout(FENCE_PATIENCE_MS));
      },
    });
  }

  async #scanned(path: string, region: NativeRegion): Promise<ScannedWrites> {
    const writes = await ScannedWrites.open(region, path);
    this.#closing.push(() => writes.close());
    return writes;
  }
}
