/**
 * Whole migrations whose relay is hostile to the peers' bytes: they see it, say what they saw, and lose nothing but
 * time. What it may do to the session itself, of which it keeps the record, is not in here.
 */
import { randomBytes } from "node:crypto";
import { afterEach, expect, test } from "vitest";
import { loadNative } from "../../../native/index.ts";
import type { MigrationEvent } from "../../../peer/migration/events.ts";
import { Leecher } from "../../../peer/migration/leecher.ts";
import { Seeder } from "../../../peer/migration/seeder.ts";
import type { LeecherRecord, SeederRecord } from "../../../peer/journal/journal.ts";
import { memoryRelay } from "../../../peer/net/memory-link.ts";
import { PeerIdentity } from "../../../peer/net/peer-identity.ts";
import { RelayControl } from "../../../peer/net/relay-control.ts";
import { sleep } from "../../../peer/sleep.ts";
import type { Role } from "../../../relay/protocol/ids.ts";
import { Switchboard } from "../../../relay/switchboard/switchboard.ts";
import { CASES, REASONS, type HostileCase } from "../../support/hostile-attacks.ts";
import { HostileRelay } from "../../support/hostile-relay.ts";
import { MemoryJournal } from "../../support/memory-journal.ts";
import { MemoryRegion } from "../../support/memory-region.ts";
import { MemorySessionStore } from "../../support/memory-session-store.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

const CHUNK_BYTES = 4096;
const CHUNKS = 1_500;

interface World {
  readonly relay: HostileRelay;
  readonly store: MemorySessionStore;
  readonly sessionId: Uint8Array;
  readonly source: MemoryRegion;
  readonly destination: MemoryRegion;
  readonly seeder: Seeder;
  readonly leecher: Leecher;
  /** What the peers said of lost channels. */
  readonly paused: { readonly by: Role; readonly detail: string }[];
  close(): Promise<void>;
}

const open: World[] = [];
afterEach(async () => {
  for (const world of open.splice(0)) await world.close();
});

async function makeWorld(hostile: HostileCase, seed: number, strikes: number): Promise<World> {
  const random = new SeededRandom(seed);
  const [hashKey, sessionId, secret] = [randomBytes(32), randomBytes(16), randomBytes(32)];
  const tokens = { seeder: randomBytes(32), leecher: randomBytes(32) };
  const store = new MemorySessionStore();
  store.create(sessionId, tokens);
  const switchboard = new Switchboard({ store, log: () => undefined });
  const network = memoryRelay((incoming) => switchboard.accept(incoming));
  const relay = new HostileRelay(hostile.make(sessionId), seed, strikes);
  const region = { bytes: CHUNKS * CHUNK_BYTES + 77, chunkBytes: CHUNK_BYTES, hashKey };
  const source = new MemoryRegion({ ...region, present: "all" });
  const destination = new MemoryRegion({ ...region, present: "none" });
  source.memory.set(random.bytes(1_200 * CHUNK_BYTES));
  const paused: World["paused"] = [];
  const holder: { seeder?: Seeder; leecher?: Leecher } = {};
  const onEvent = (by: Role) => (event: MigrationEvent) => {
    if (event.event === "phase" && event.phase === "paused") {
      paused.push({ by, detail: event.detail ?? "" });
    }
  };
  const join = (role: Role): Promise<RelayControl> =>
    RelayControl.join({
      ticket: {
        relayUrl: "https://memory:1",
        certificateHashes: [],
        sessionId,
        role,
        token: tokens[role],
        secret,
      },
      identity: PeerIdentity.generate(),
      dial: async (signal) =>
        relay.link(
          role,
          await network.dial({ url: "https://memory:1", certificateHashes: [], signal }),
        ),
      onOwnership: (ownership) => holder[role]?.ownershipChanged(ownership),
    });
  const controls = { seeder: await join("seeder"), leecher: await join("leecher") };
  const seeder = new Seeder({
    session: controls.seeder,
    sessionId,
    secret,
    region: source,
    dirty: source,
    hashKey,
    keyedHash: (data) => loadNative().blake3(data, hashKey),
    journal: new MemoryJournal<SeederRecord>(),
    onEvent: onEvent("seeder"),
  });
  const leecher = new Leecher({
    session: controls.leecher,
    sessionId,
    secret,
    keyedHash: (key) => (data) => loadNative().blake3(data, key),
    mode: "hybrid",
    // Where it never ends nothing is to be won by being fast.
    finalize: { kind: strikes === Infinity ? "manual" : "auto" },
    downtimeBudgetMs: 300,
    dataStreams: 3,
    journal: new MemoryJournal<LeecherRecord>(),
    prepare: () =>
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
    onEvent: onEvent("leecher"),
  });
  Object.assign(holder, { seeder, leecher });
  const close = async (): Promise<void> => {
    network.close("LINK_CLOSED", "the test is over");
    await Promise.all([controls.seeder.close(), controls.leecher.close()]);
    await switchboard.close();
  };
  const world = { relay, store, sessionId, source, destination, seeder, leecher, paused, close };
  open.push(world);
  return world;
}

function startWriter(region: MemoryRegion, random: SeededRandom): { stop(): void } {
  const timer = setInterval(() => {
    const length = 1 + random.below(2 * CHUNK_BYTES);
    region.write(random.below(region.bytes - length), random.bytes(length));
  }, 2);
  return { stop: () => clearInterval(timer) };
}

/** Chunks of the destination that are stored and are not the source's. */
function wrongChunks({ source, destination }: World): number[] {
  const stored = (index: number): boolean =>
    ((destination.presence[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
  return Array.from({ length: source.chunkCount }, (_, index) => index).filter((index) => {
    const [from, to] = [index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES];
    const [there, here] = [destination.memory.subarray(from, to), source.memory.subarray(from, to)];
    return stored(index) && Buffer.compare(there, here) !== 0;
  });
}

test.each(CASES)(
  "peers finish once a relay behaves that $name",
  async (hostile) => {
    const world = await makeWorld(hostile, 11 + hostile.name.length, 3);
    const writer = startWriter(world.source, new SeededRandom(7));
    const running = Promise.all([world.seeder.run(), world.leecher.run()]);
    const [sent, received] = await running.finally(() => writer.stop());
    expect(world.relay.strikes).toBeGreaterThan(0);
    expect(Buffer.compare(world.source.memory, world.destination.memory)).toBe(0);
    expect(sent.rootHash).toBe(received.rootHash);
    expect(world.source.fenced).toBe(true);
    expect(world.destination.running).toBe(true);
    if (hostile.reason === undefined) return;
    const details = world.paused.map(({ detail }) => detail).join("\n");
    expect(details).toMatch(REASONS[hostile.reason]);
  },
  60_000,
);

const FOR_EVER = CASES.filter(({ reason }) => reason?.startsWith("CHANNEL") === true);

test.each(FOR_EVER)(
  "the workload stays at the source, which is untouched, when a relay for ever $name",
  async (hostile) => {
    const world = await makeWorld(hostile, 5 + hostile.name.length, Infinity);
    const before = world.source.memory.slice();
    const running = Promise.allSettled([world.seeder.run(), world.leecher.run()]);
    let isOver = false;
    void running.then(() => (isOver = true));
    while (!isOver && world.paused.length < 6) await sleep(5);
    // A peer that never met the other has given up by itself; else somebody must.
    if (!isOver) await world.leecher.cancel("the operator has seen enough");
    const outcomes = await running;
    for (const outcome of outcomes) expect(outcome.status).toBe("rejected");
    const reasons = outcomes.map((outcome) =>
      outcome.status === "rejected" && outcome.reason instanceof Error
        ? outcome.reason.message
        : "",
    );
    const said = [...world.paused.map(({ detail }) => detail), ...reasons].join("\n");
    if (hostile.reason !== undefined) expect(said).toMatch(REASONS[hostile.reason]);
    expect(world.source.running).toBe(true);
    expect(Buffer.compare(before, world.source.memory)).toBe(0);
    expect(world.destination.running).toBe(false);
    expect(wrongChunks(world)).toEqual([]);
    expect(world.store.session(world.sessionId).owner).toBe("seeder");
  },
  60_000,
);
