/**
 * Whole migrations in one process: the real seeder, leecher, relay control and switchboard over links in
 * memory, with a workload that writes and a network that breaks, all drawn from one seed.
 */
import { randomBytes } from "node:crypto";
import { afterEach, expect, test, vi } from "vitest";
import { loadNative } from "../../../native/index.ts";
import { MigrationError } from "../../../peer/errors.ts";
import type { MigrationEvent, MigrationTotals } from "../../../peer/migration/events.ts";
import type { Destination, KeptChunks } from "../../../peer/migration/destination.ts";
import type { LeecherOptions } from "../../../peer/migration/leecher-options.ts";
import { hpkeHandshake, type Handshake } from "../../../peer/migration/handshake.ts";
import { Leecher } from "../../../peer/migration/leecher.ts";
import type { SeederHooks, SeederOptions } from "../../../peer/migration/seeder-options.ts";
import { Seeder } from "../../../peer/migration/seeder.ts";
import type { SessionPort } from "../../../peer/migration/session-port.ts";
import type { Journal, LeecherRecord, SeederRecord } from "../../../peer/journal/journal.ts";
import { memoryRelay, type MemoryRelay } from "../../../peer/net/memory-link.ts";
import { PeerIdentity } from "../../../peer/net/peer-identity.ts";
import { RelayControl } from "../../../peer/net/relay-control.ts";
import type { Role } from "../../../relay/protocol/ids.ts";
import { Switchboard } from "../../../relay/switchboard/switchboard.ts";
import { MemoryJournal } from "../../support/memory-journal.ts";
import { MemoryRegion } from "../../support/memory-region.ts";
import { MemorySessionStore } from "../../support/memory-session-store.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

const CHUNK_BYTES = 4096;

interface World {
  readonly store: MemorySessionStore;
  readonly network: MemoryRelay;
  readonly source: MemoryRegion;
  readonly destination: MemoryRegion;
  readonly seeder: Seeder;
  readonly leecher: Leecher;
  readonly sessionId: Uint8Array;
  readonly switchboard: Switchboard;
  readonly journals: {
    readonly seeder: MemoryJournal<SeederRecord>;
    readonly leecher: MemoryJournal<LeecherRecord>;
  };
  /** The peer's process is killed, and another one of the same peer goes on where it stopped. */
  restart(role: Role): Promise<{ readonly running: Promise<MigrationTotals> }>;
  /** The source's process is gone. */
  leaveSeeder(): void;
  readonly events: { readonly by: Role; readonly event: MigrationEvent }[];
  close(): Promise<void>;
}

const open: World[] = [];
afterEach(async () => {
  for (const world of open.splice(0)) await world.close();
});

interface WorldOptions {
  /** Before the peers join. */
  readonly held?: boolean;
  readonly exported?: boolean;
  readonly bytes: number;
  readonly regions?: readonly { readonly name: string; readonly bytes: number }[];
  readonly mode?: LeecherOptions["mode"];
  readonly finalize?: LeecherOptions["finalize"];
  readonly hooks?: SeederHooks;
  readonly prepare?: (destination: Destination) => Promise<Destination>;
  /** An older version: it knows none of the optional abilities. */
  readonly old?: readonly Role[];
  /** Before the source tells the relay's index anything. */
  readonly onReport?: (ownership: () => SessionPort["ownership"]) => Promise<void>;
  readonly leecherSecret?: Uint8Array;
}

/** A peer's view of the outside, which ends with its process. */
class Process implements SessionPort {
  readonly control: RelayControl;
  #dead = false;

  constructor(control: RelayControl) {
    this.control = control;
  }

  get ownership(): SessionPort["ownership"] {
    return this.control.ownership;
  }

  async kill(): Promise<void> {
    this.#dead = true;
    await this.control.close();
  }

  /** What a dead process asks is never answered. */
  #alive<T>(ask: () => Promise<T>): Promise<T> {
    return this.#dead ? new Promise<T>(() => undefined) : ask();
  }

  journal<R>(journal: Journal<R>): Journal<R> {
    return {
      record: journal.record,
      write: (record) => this.#alive(() => journal.write(record)),
    };
  }

  get hold(): SessionPort["hold"] {
    return this.control.hold;
  }

  pairing: SessionPort["pairing"] = (signal) => this.#alive(() => this.control.pairing(signal));
  commit: SessionPort["commit"] = (epoch, signal) =>
    this.#alive(() => this.control.commit(epoch, signal));
  revoke: SessionPort["revoke"] = (reason, signal) =>
    this.#alive(() => this.control.revoke(reason, signal));
  reportPhase: SessionPort["reportPhase"] = (state, reason) => {
    if (!this.#dead) this.control.reportPhase(state, reason);
  };
  reportProgress: SessionPort["reportProgress"] = (progress) =>
    this.control.reportProgress(progress);
  reportIndex: SessionPort["reportIndex"] = (frame) =>
    this.#alive(() => this.control.reportIndex(frame));
}

const WITHOUT_FEATURES: Handshake = {
  seeder: (stream, reader, context, onKeys) =>
    hpkeHandshake.seeder(stream, reader, { ...context, features: 0 }, onKeys),
  leecher: (stream, reader, context, onOffered) =>
    hpkeHandshake.leecher(stream, reader, { ...context, features: 0 }, onOffered),
};

async function makeWorld(options: WorldOptions): Promise<World> {
  const hashKey = randomBytes(32);
  const sessionId = randomBytes(16);
  const secret = randomBytes(32);
  const tokens = { seeder: randomBytes(32), leecher: randomBytes(32) };
  const store = new MemorySessionStore();
  store.create(sessionId, tokens);
  store.held = options.held ?? false;
  const switchboard = new Switchboard({ store, log: () => undefined });
  const network = memoryRelay((incoming) => switchboard.accept(incoming));
  const { regions } = options;
  const region = { bytes: options.bytes, chunkBytes: CHUNK_BYTES, hashKey };
  const grouped = { ...region, ...(regions === undefined ? {} : { regions }) };
  const source = new MemoryRegion({ ...grouped, present: "all" });
  const destination = new MemoryRegion({ ...grouped, present: "none" });
  const events: World["events"][number][] = [];
  const holder: { seeder?: Seeder; leecher?: Leecher } = {};
  const identities = { seeder: PeerIdentity.generate(), leecher: PeerIdentity.generate() };
  const journals: World["journals"] = {
    seeder: new MemoryJournal<SeederRecord>(),
    leecher: new MemoryJournal<LeecherRecord>(),
  };
  const join = async (role: Role, rejoin: boolean): Promise<Process> =>
    new Process(
      await RelayControl.join({
        ticket: {
          relayUrl: "https://memory:1",
          certificateHashes: [],
          sessionId,
          role,
          token: tokens[role],
          secret,
        },
        identity: identities[role],
        rejoin,
        dial: (signal) => network.dial({ url: "https://memory:1", certificateHashes: [], signal }),
        onOwnership: (ownership) => holder[role]?.ownershipChanged(ownership),
        onCommand: (command) => {
          if (command === "finalize") holder.leecher?.finalize();
          if (command === "postcopy") holder.leecher?.finalize({ postcopy: true });
        },
      }),
    );
  const processes = {
    seeder: await join("seeder", false),
    leecher: await join("leecher", false),
  };
  const { onReport } = options;
  if (onReport !== undefined) {
    const { seeder } = processes;
    const report = seeder.reportIndex;
    seeder.reportIndex = async (frame) => {
      await onReport(() => seeder.ownership);
      return await report(frame);
    };
  }
  const makeSeeder = (): Seeder => {
    const seederOptions: SeederOptions = {
      session: processes.seeder,
      sessionId,
      secret,
      region: source,
      dirty: source,
      hashKey,
      keyedHash: (data) => loadNative().blake3(data, hashKey),
      journal: processes.seeder.journal(journals.seeder),
      onEvent: (event) => events.push({ by: "seeder", event }),
      ...(options.old?.includes("seeder") === true ? { handshake: WITHOUT_FEATURES } : {}),
      ...(options.hooks === undefined ? {} : { hooks: options.hooks }),
    };
    return (holder.seeder = new Seeder(seederOptions));
  };
  const makeLeecher = (): Leecher => {
    const kept = journals.leecher.record !== undefined;
    const leecherOptions: LeecherOptions = {
      session: processes.leecher,
      sessionId,
      secret: options.leecherSecret ?? secret,
      keyedHash: (key) => (data) => loadNative().blake3(data, key),
      mode: options.mode ?? "hybrid",
      finalize: options.finalize ?? { kind: "auto" },
      downtimeBudgetMs: 300,
      dataStreams: 3,
      journal: processes.leecher.journal(journals.leecher),
      prepare: async () => {
        const place: Destination = {
          region: destination,
          exported: options.exported ?? false,
          get onFault() {
            return destination.onFault;
          },
          set onFault(onFault) {
            destination.onFault = onFault;
          },
          ...(kept ? { kept: await keptBy(destination) } : {}),
        };
        return (await options.prepare?.(place)) ?? place;
      },
      onEvent: (event) => events.push({ by: "leecher", event }),
      ...(options.old?.includes("leecher") === true ? { handshake: WITHOUT_FEATURES } : {}),
    };
    return (holder.leecher = new Leecher(leecherOptions));
  };
  const world: World = {
    store,
    network,
    source,
    destination,
    seeder: makeSeeder(),
    leecher: makeLeecher(),
    sessionId,
    switchboard,
    events,
    journals,
    leaveSeeder: () => void processes.seeder.control.close(),
    restart: async (role) => {
      await processes[role].kill();
      processes[role] = await join(role, true);
      return { running: (role === "seeder" ? makeSeeder() : makeLeecher()).run() };
    },
    close: async () => {
      network.close("LINK_CLOSED", "the test is over");
      await Promise.all([processes.seeder.control.close(), processes.leecher.control.close()]);
      await switchboard.close();
    },
  };
  open.push(world);
  return world;
}

async function keptBy(region: MemoryRegion): Promise<KeptChunks> {
  const { hashes } = await region.hash(
    Uint32Array.from({ length: region.chunkCount }, (_, index) => index),
  );
  return {
    present: region.presence,
    presentHashes: region.storedHashes.slice(),
    heldHashes: hashes,
  };
}

/** Writes at random places until the workload is not let through any more. @returns Stops it. */
function startWriter(region: MemoryRegion, random: SeededRandom): { stop(): void; count: number } {
  const writer = { stop: () => clearInterval(timer), count: 0 };
  const timer = setInterval(() => {
    for (let i = 0; i < 8; i++) {
      const length = 1 + random.below(2 * CHUNK_BYTES);
      const offset = random.below(region.bytes - length);
      if (region.write(offset, random.bytes(length))) writer.count++;
    }
  }, 1);
  return writer;
}

function rootOf(world: World, by: Role): string | undefined {
  const done = world.events.find((entry) => entry.by === by && entry.event.event === "done");
  return done?.event.event === "done" ? done.event.rootHash : undefined;
}

for (const mode of ["hybrid", "precopy", "postcopy"] as const) {
  test(`a ${mode} migration under a writer ends with equal bytes and the workload on one side`, async () => {
    const random = new SeededRandom(mode.length);
    const world = await makeWorld({ bytes: 300 * CHUNK_BYTES + 77, mode });
    world.source.memory.set(random.bytes(200 * CHUNK_BYTES));
    const writer = startWriter(world.source, random);
    const running = Promise.all([world.seeder.run(), world.leecher.run()]);
    const [sent, received] = await running.finally(() => writer.stop());
    // Leaving delivers what was reported last.
    await world.close();
    expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
    expect(sent.rootHash).toBe(received.rootHash);
    expect(writer.count).toBeGreaterThan(0);
    expect(world.source.fenced).toBe(true);
    expect(world.destination.running).toBe(true);
    expect(world.store.session(world.sessionId)).toMatchObject({ owner: "leecher", state: "done" });
    expect(world.store.indexRoots).toContain(received.rootHash);
  });
}

test("a migration whose links break again and again loses nothing", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = new SeededRandom(seed);
    const world = await makeWorld({
      bytes: 200 * CHUNK_BYTES + 1 + random.below(5000),
      mode: seed % 3 === 0 ? "postcopy" : "hybrid",
    });
    const pause = async (): Promise<void> => {
      if (random.below(4) === 0)
        await new Promise((resolve) => setTimeout(resolve, random.below(4)));
    };
    world.source.pause = pause;
    world.destination.pause = pause;
    world.source.memory.set(random.bytes(150 * CHUNK_BYTES));
    const writer = startWriter(world.source, random);
    let cuts = 0;
    let timer: ReturnType<typeof setTimeout>;
    const cut = (): void => {
      if (++cuts > 4) return;
      world.network.crash();
      world.network.revive();
      timer = setTimeout(cut, 20 + random.below(600));
    };
    timer = setTimeout(cut, 10 + random.below(60));
    const readers = [0, 5, 150].map((index) => world.destination.readChunk(index));
    const [sent, received] = await Promise.all([world.seeder.run(), world.leecher.run()]).finally(
      () => {
        clearTimeout(timer);
        writer.stop();
      },
    );
    await Promise.all(readers);
    expect(sent.rootHash, `seed ${seed}`).toBe(received.rootHash);
    expect(Buffer.compare(world.source.memory, world.destination.memory), `seed ${seed}`).toBe(0);
  }
}, 60_000);

test("a suspend hook that fails leaves the workload running at the source, and the relay says so", async () => {
  let rolledBack = false;
  const world = await makeWorld({
    bytes: 50 * CHUNK_BYTES,
    hooks: {
      onSuspend: () => Promise.reject(new MigrationError("HOOK_FAILED", "the hook said no")),
      onRollback: () => {
        rolledBack = true;
        return Promise.resolve();
      },
    },
  });
  const [sent, received] = await Promise.allSettled([world.seeder.run(), world.leecher.run()]);
  expect(sent).toMatchObject({ status: "rejected", reason: { code: "HOOK_FAILED" } });
  expect(received).toMatchObject({ status: "rejected" });
  expect(world.source.running).toBe(true);
  expect(rolledBack).toBe(true);
  expect(world.destination.running).toBe(false);
  expect(world.store.session(world.sessionId)).toMatchObject({
    owner: "seeder",
    state: "cancelled",
  });
});

test("a destination without room ends the attempt with its own error on both sides", async () => {
  const world = await makeWorld({
    bytes: 10 * CHUNK_BYTES,
    prepare: () => Promise.reject(new MigrationError("STORE_FULL", "no room at /secret/place")),
  });
  const [sent, received] = await Promise.allSettled([world.seeder.run(), world.leecher.run()]);
  expect(received).toMatchObject({ status: "rejected", reason: { code: "STORE_FULL" } });
  expect(sent.status).toBe("rejected");
  expect(String(sent.status === "rejected" ? sent.reason : "")).toContain(
    "the destination's disk is full",
  );
  expect(String(sent.status === "rejected" ? sent.reason : "")).not.toContain("secret");
  expect(world.source.running).toBe(true);
});

test("cancel before the commit ends both sides with the workload at the source, by either of them", async () => {
  for (const by of ["seeder", "leecher"] as const) {
    const world = await makeWorld({ bytes: 100 * CHUNK_BYTES, finalize: { kind: "manual" } });
    const running = Promise.allSettled([world.seeder.run(), world.leecher.run()]);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await world[by].cancel(`cancelled by the ${by}`)).toBe(true);
    const [sent, received] = await running;
    const [own, other] = by === "seeder" ? [sent, received] : [received, sent];
    expect(own).toMatchObject({ status: "rejected", reason: { code: "CANCELLED" } });
    expect(String(other.status === "rejected" ? other.reason : "")).toContain(
      `cancelled by the ${by}`,
    );
    expect(world.source.running).toBe(true);
    expect(world.store.session(world.sessionId).owner).toBe("seeder");
  }
});

test("a database that is down at the commit delays it and loses nothing", async () => {
  const world = await makeWorld({ bytes: 60 * CHUNK_BYTES, finalize: { kind: "manual" } });
  const running = Promise.all([world.seeder.run(), world.leecher.run()]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  world.store.unavailable = true;
  world.leecher.finalize();
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(world.source.running).toBe(false);
  expect(world.destination.running).toBe(false);
  world.store.unavailable = false;
  const [sent, received] = await running;
  expect(sent.rootHash).toBe(received.rootHash);
  expect(rootOf(world, "leecher")).toBe(rootOf(world, "seeder"));
});

test("a peer without the session's secret is refused and nothing of the region reaches it", async () => {
  const world = await makeWorld({ bytes: 20 * CHUNK_BYTES, leecherSecret: randomBytes(32) });
  const [sent, received] = await Promise.allSettled([world.seeder.run(), world.leecher.run()]);
  expect(received).toMatchObject({ status: "rejected", reason: { code: "CHANNEL_REFUSED" } });
  expect(sent.status).toBe("rejected");
  expect(world.destination.memory.every((byte) => byte === 0)).toBe(true);
  expect(world.source.running).toBe(true);
}, 30_000);

test("a leecher that stops after the commit is followed by one that finishes from its journal", async () => {
  const random = new SeededRandom(5);
  const world = await makeWorld({ bytes: 4000 * CHUNK_BYTES + 5, mode: "postcopy" });
  world.source.memory.set(random.bytes(300 * CHUNK_BYTES));
  // Slow enough that something is missing when it stops.
  world.source.pause = () => new Promise((resolve) => setTimeout(resolve, 15));
  const sending = world.seeder.run();
  void world.leecher.run().catch(() => undefined);
  while (
    !world.leecher.committed ||
    !world.destination.running ||
    world.leecher.missingChunks === 4001
  ) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  // What the workload wrote before the stop is the destination's own and must survive.
  const kept = world.destination.presence.findIndex((byte) => byte !== 0) * 8;
  const written = world.destination.write(kept * CHUNK_BYTES, Uint8Array.of(1, 2, 3));
  expect(world.leecher.missingChunks).toBeGreaterThan(0);
  world.destination.setGate("closed");
  const second = await world.restart("leecher");
  await Promise.all([sending, second.running]);
  const source = Uint8Array.from(world.source.memory);
  if (written) source.set([1, 2, 3], kept * CHUNK_BYTES);
  expect(Buffer.compare(source, world.destination.memory)).toBe(0);
  expect(world.journals.leecher.record?.phase).toBe("done");
  expect(world.journals.seeder.record?.phase).toBe("released");
}, 30_000);

test("peers that are killed and started again in any phase lose nothing", async () => {
  for (let seed = 1; seed <= 24; seed++) {
    const random = new SeededRandom(100 + seed);
    const world = await makeWorld({
      bytes: 0,
      regions: [
        { name: "memory", bytes: 100 * CHUNK_BYTES },
        { name: "disk", bytes: 60 * CHUNK_BYTES + 11 },
      ],
      mode: (["hybrid", "precopy", "postcopy"] as const)[seed % 3] ?? "hybrid",
    });
    const pause = (): Promise<void> =>
      random.below(3) === 0
        ? new Promise((resolve) => setTimeout(resolve, random.below(5)))
        : Promise.resolve();
    world.source.pause = pause;
    world.destination.pause = pause;
    world.source.write(0, random.bytes(90 * CHUNK_BYTES));
    const writer = startWriter(world.source, random);
    const running = { seeder: world.seeder.run(), leecher: world.leecher.run() };
    for (let kills = 0; kills < 3; kills++) {
      await new Promise((resolve) => setTimeout(resolve, random.below(300)));
      const role = random.below(2) === 0 ? "seeder" : "leecher";
      const phase = world.journals[role].record?.phase;
      if (phase === "done" || phase === "released") break;
      void running[role].catch(() => undefined);
      running[role] = (await world.restart(role)).running;
    }
    const [sent, received] = await Promise.all([running.seeder, running.leecher]).finally(() =>
      writer.stop(),
    );
    expect(sent.rootHash, `seed ${seed}`).toBe(received.rootHash);
    expect(Buffer.compare(world.source.memory, world.destination.memory), `seed ${seed}`).toBe(0);
    expect(world.source.fenced).toBe(true);
    expect(world.destination.running).toBe(true);
    await world.close();
  }
}, 60_000);

test("a journal that cannot be written before the commit leaves the workload at the source", async () => {
  for (const role of ["seeder", "leecher"] as const) {
    const world = await makeWorld({ bytes: 20 * CHUNK_BYTES });
    world.journals[role].failing = role === "seeder" ? "finalized" : "committing";
    const [sent, received] = await Promise.allSettled([world.seeder.run(), world.leecher.run()]);
    const own = role === "seeder" ? sent : received;
    expect(own).toMatchObject({ status: "rejected", reason: { code: "JOURNAL_FAILED" } });
    expect(world.source.running).toBe(true);
    expect(world.destination.running).toBe(false);
    expect(world.store.session(world.sessionId).owner).toBe("seeder");
  }
});

test("finalize that is asked again gets the same answer", async () => {
  const world = await makeWorld({ bytes: 60 * CHUNK_BYTES, finalize: { kind: "manual" } });
  void world.seeder.run().catch(() => undefined);
  const running = world.leecher.run();
  await new Promise((resolve) => setTimeout(resolve, 50));
  world.store.unavailable = true;
  world.leecher.finalize();
  await new Promise((resolve) => setTimeout(resolve, 200));
  const first = world.journals.seeder.record?.finalized;
  expect(first).toBeDefined();
  world.store.unavailable = false;
  const again = await world.restart("seeder");
  const [sent, received] = await Promise.all([again.running, running]);
  expect(world.journals.seeder.record?.finalized).toEqual(first);
  expect(sent.rootHash).toBe(received.rootHash);
});

test("a migration hands over when the workload stops writing after a round", async () => {
  const world = await makeWorld({ bytes: 50 * CHUNK_BYTES });
  let reads = 0;
  world.source.pause = () => {
    if (++reads === 2) world.source.write(0, Uint8Array.of(1));
    return Promise.resolve();
  };
  const [sent, received] = await Promise.all([world.seeder.run(), world.leecher.run()]);
  expect(sent.rootHash).toBe(received.rootHash);
});

test("a leecher that has everything ends although the source left without a farewell", async () => {
  const world = await makeWorld({ bytes: 30 * CHUNK_BYTES });
  let synced = 0;
  world.destination.sync = () => {
    // The last one: everything is here. The source is gone before it hears so.
    if (++synced === 1) world.leaveSeeder();
    return Promise.resolve();
  };
  void world.seeder.run().catch(() => undefined);
  const received = await world.leecher.run();
  expect(received.bytesTotal).toBe(30 * CHUNK_BYTES);
  expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
}, 30_000);

for (const mode of ["hybrid", "postcopy"] as const) {
  test(`a ${mode} migration that starts held sends nothing and hands nothing over until it is let go`, async () => {
    const random = new SeededRandom(7);
    const world = await makeWorld({ bytes: 120 * CHUNK_BYTES, mode, held: true });
    world.source.memory.set(random.bytes(100 * CHUNK_BYTES));
    const writer = startWriter(world.source, random);
    const running = Promise.all([world.seeder.run(), world.leecher.run()]);
    const phases = (): string[] =>
      world.events.flatMap(({ by, event }) =>
        by === "leecher" && event.event === "phase" ? [event.phase] : [],
      );
    await vi.waitFor(() => expect(phases()).toContain("precopy"));
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect(world.leecher.progress().bytesSent).toBe(0);
    expect(phases()).toEqual(["precopy"]);
    // A peer that comes back while it is held is told again.
    world.network.crash();
    world.network.revive();
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(world.leecher.progress().bytesSent).toBe(0);
    world.store.held = false;
    await vi.waitFor(() =>
      expect(world.switchboard.command(world.sessionId, "resume", "")).toBe(true),
    );
    await running.finally(() => writer.stop());
    expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
  });
}

test("what a workload waits for comes although the migration is held", async () => {
  const random = new SeededRandom(8);
  const world = await makeWorld({ bytes: 8_000 * CHUNK_BYTES, mode: "postcopy", exported: true });
  world.source.memory.set(random.bytes(8_000 * CHUNK_BYTES));
  const running = Promise.all([world.seeder.run(), world.leecher.run()]);
  world.destination.pause = () => new Promise((resolve) => setTimeout(resolve, 30));
  await vi.waitFor(() => expect(world.leecher.committed).toBe(true));
  world.switchboard.command(world.sessionId, "pause", "");
  await new Promise((resolve) => setTimeout(resolve, 300));
  const missing = world.leecher.missingChunks;
  expect(missing).toBeGreaterThan(1);
  const read = await world.destination.readChunk(7_999);
  expect(Buffer.compare(read, world.source.memory.subarray(7_999 * CHUNK_BYTES))).toBe(0);
  await vi.waitFor(() => expect(world.leecher.missingChunks).toBe(missing - 1));
  world.switchboard.command(world.sessionId, "resume", "");
  await running;
  expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
});

for (const exported of [true, false]) {
  test(`post-copy that is asked for in precopy mode begins ${exported ? "at once" : "not without an export"}`, async () => {
    const random = new SeededRandom(9);
    const world = await makeWorld({
      bytes: 64 * CHUNK_BYTES,
      mode: "precopy",
      finalize: { kind: "manual" },
      exported,
    });
    world.source.memory.set(random.bytes(64 * CHUNK_BYTES));
    world.destination.pause = () => new Promise((resolve) => setTimeout(resolve, 40));
    let missingAtCommit = -1;
    const running = Promise.all([world.seeder.run(), world.leecher.run()]);
    await vi.waitFor(() => expect(world.leecher.progress().phase).toBe("precopy"));
    world.switchboard.command(world.sessionId, "postcopy", "");
    await vi.waitFor(() => {
      expect(world.leecher.committed).toBe(true);
      missingAtCommit = world.leecher.missingChunks;
    });
    if (exported) expect(missingAtCommit).toBeGreaterThan(0);
    else expect(missingAtCommit).toBe(0);
    world.destination.pause = () => Promise.resolve();
    await running;
    expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
  });
}

test("a source that loses its channel after the relay said that all is done ends", async () => {
  let released = 0;
  let broken = false;
  const world: World = await makeWorld({
    bytes: 8 * CHUNK_BYTES,
    hooks: {
      onRelease: () => {
        released++;
        return Promise.resolve();
      },
    },
    // The destination has heard the last word, and this side that it has; then the way to it breaks, and nobody will
    // ever come by it again.
    onReport: async (ownership) => {
      if (broken || world.journals.seeder.record?.phase !== "released") return;
      broken = true;
      await vi.waitFor(() => expect(ownership().state).toBe("done"));
      throw new MigrationError("PEER_LOST", "the connection broke");
    },
  });
  await Promise.all([world.seeder.run(), world.leecher.run()]);
  expect(released).toBe(1);
});

test.each([
  { old: ["seeder"] },
  { old: ["leecher"] },
  { old: ["seeder", "leecher"] },
  { old: [] },
] as const)(
  "peers of which $old know nothing optional migrate with each other",
  async ({ old }) => {
    for (const mode of ["precopy", "hybrid", "postcopy"] as const) {
      const random = new SeededRandom(mode.length + old.length);
      const world = await makeWorld({ bytes: 300 * CHUNK_BYTES, mode, old });
      world.source.memory.set(random.bytes(300 * CHUNK_BYTES));
      const writer = startWriter(world.source, random);
      await Promise.all([world.seeder.run(), world.leecher.run()]).finally(() => writer.stop());
      expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
    }
  },
);
