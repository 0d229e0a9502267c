/**
 * Whole channels with damaged bytes in them, and peers that hold the keys and say what has no place: each ends, by an
 * error that is documented, and nobody's region is harmed.
 */
import { expect, test } from "vitest";

import { loadNative } from "../../native/index.ts";
import { MigrationError } from "../../peer/errors.ts";
import {
  openLeecherChannel,
  openSeederChannel,
  type Channel,
  type ChannelNetwork,
} from "../../peer/migration/channel.ts";
import { Leecher } from "../../peer/migration/leecher.ts";
import {
  encodeMessage,
  partStart,
  ZERO_OFFSET,
  type Message,
  type OfferMessage,
} from "../../peer/migration/messages.ts";
import { Seeder } from "../../peer/migration/seeder.ts";
import type { Ownership, SessionPort } from "../../peer/migration/session-port.ts";
import { sleep } from "../../peer/sleep.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import { count } from "../fixtures/example.ts";
import { allMessages, recordMessages } from "../fixtures/peer-recordings.ts";
import { MemoryRegion } from "../support/memory-region.ts";
import { mutate } from "./mutate.ts";
import { FuzzNetwork, hostileStreams, noHandshake, type Damage } from "./network.ts";
import { CaseRandom } from "./random.ts";

const SEED = Number(process.env["MEMFERRY_FUZZ_SEED"] ?? 1);
const ROUNDS = 60;
const AT_ONCE = 20;
/** Nothing moves any more: somebody waits for bytes that a damaged length promises. */
const QUIET_MS = 150;
const CHUNK_BYTES = 4_096;
const REGION_BYTES = 9 * CHUNK_BYTES + 100;
const hashKey = count(32, 7);
const recorded = recordMessages().map(({ bytes }) => bytes);
const context = { sessionId: count(16, 1), secret: count(32, 2), features: 0 };

/** Runs rounds, some at a time; a failure names its seed and round. */
async function rounds(run: (random: CaseRandom, round: number) => Promise<void>): Promise<void> {
  for (let first = 0; first < ROUNDS; first += AT_ONCE) {
    await Promise.all(
      Array.from({ length: AT_ONCE }, async (_, i) => {
        const random = new CaseRandom();
        random.reset(SEED, first + i);
        try {
          await run(random, first + i);
        } catch (cause) {
          throw new Error(`MEMFERRY_FUZZ_SEED=${SEED}, round ${first + i}`, { cause });
        }
      }),
    );
  }
}

/** Cuts the path when nothing moves on it any more, until `over` settles. */
async function cutWhenQuiet(
  network: FuzzNetwork,
  over: Promise<unknown>,
  mayCut: () => boolean = () => true,
): Promise<void> {
  const looking = setInterval(() => {
    if (network.quietMs > QUIET_MS && mayCut()) network.cut();
  }, QUIET_MS / 3);
  await over;
  clearInterval(looking);
}

function drawDamage(random: CaseRandom): { damage: Damage; hit: () => boolean } {
  const at = random.below(700);
  const other = random.bytes(40);
  let hit = false;
  const damage: Damage = (bytes, offset) => {
    if (hit || at < offset || at >= offset + bytes.length) return bytes;
    const from = at - offset;
    const changed = mutate(bytes.slice(from), random, other);
    hit = Buffer.compare(changed, bytes.subarray(from)) !== 0;
    return Uint8Array.from(Buffer.concat([bytes.subarray(0, from), changed]));
  };
  return { damage, hit: () => hit };
}

/** Says everything there is, hears everything, and ends in order. @returns What was heard on the control stream. */
async function converse(channel: Channel, heard: Message[]): Promise<void> {
  const talk = async (): Promise<void> => {
    for (const { value } of allMessages) await channel.control.send(value);
    for (const stream of [channel.urgent, ...channel.data]) {
      for (const { value } of allMessages) await stream.send(encodeMessage(value));
      await stream.end();
    }
    await channel.endControl();
  };
  const listen = async (): Promise<void> => {
    for (let next = await channel.control.receive(); next !== null;) {
      heard.push(next);
      next = await channel.control.receive();
    }
  };
  const drain = async (stream: Channel["urgent"]): Promise<void> => {
    let taken = 0;
    while ((await stream.receive()) !== null) taken++;
    expect(taken).toBe(allMessages.length);
  };
  await Promise.all([talk(), listen(), drain(channel.urgent), ...channel.data.map(drain)]);
}

function requireDocumented(error: unknown): void {
  if (error instanceof MigrationError || error instanceof ProtocolError) return;
  throw new Error(`not a documented error`, { cause: error });
}

test("a channel with damaged bytes ends in an error, and what it delivered before is what was sent", async () => {
  let damaged = 0;
  const sent = recorded.map((bytes) => Buffer.from(bytes).toString("hex"));
  await rounds(async (random) => {
    const { damage, hit } = drawDamage(random);
    const network = new FuzzNetwork({
      side: random.of(["a", "b"] as const),
      streamIndex: random.below(4),
      damage,
    });
    const heard: Message[][] = [[], []];
    const side = async (opening: Promise<Channel>, into: Message[]): Promise<void> => {
      const channel = await opening;
      try {
        await converse(channel, into);
      } catch (error) {
        channel.abort("failed");
        throw error;
      }
    };
    const running = Promise.allSettled([
      side(openSeederChannel(network.a, context), heard[0] ?? []),
      side(openLeecherChannel(network.b, { ...context, dataStreams: 2 }), heard[1] ?? []),
    ]);
    const [outcomes] = await Promise.all([running, cutWhenQuiet(network, running, hit)]);
    const failed = outcomes.filter((outcome) => outcome.status === "rejected");
    for (const { reason } of failed) requireDocumented(reason);
    if (hit()) {
      damaged++;
      expect(failed.length).toBeGreaterThan(0);
    } else expect(failed).toEqual([]);
    for (const messages of heard) {
      const hex = messages.map((message) => Buffer.from(encodeMessage(message)).toString("hex"));
      expect(hex).toEqual(sent.slice(0, hex.length));
    }
  });
  expect(damaged, "rounds in which something was damaged").toBeGreaterThan(ROUNDS / 3);
});

/** A relay that lets the leecher have what it asks for, and a path that does not come back. */
class OnePairing implements SessionPort {
  ownership: Ownership = { owner: "seeder", epoch: 0, state: "joined", reason: "" };
  #network: ChannelNetwork | undefined;

  constructor(network: ChannelNetwork) {
    this.#network = network;
  }

  pairing(): Promise<ChannelNetwork> {
    const network = this.#network;
    this.#network = undefined;
    return network === undefined
      ? Promise.reject(new ProtocolError("PEER_UNKNOWN", "the session is over"))
      : Promise.resolve(network);
  }

  commit(epoch: number): Promise<Ownership> {
    this.ownership = { owner: "leecher", epoch, state: "committed", reason: "" };
    return Promise.resolve(this.ownership);
  }

  revoke(reason: string): Promise<Ownership> {
    if (this.ownership.owner === "seeder") {
      this.ownership = { ...this.ownership, state: "cancelled", reason };
    }
    return Promise.resolve(this.ownership);
  }

  reportPhase(): void {
    // Nobody looks.
  }

  reportProgress(): void {
    // Nobody looks.
  }

  reportIndex(): Promise<boolean> {
    return Promise.resolve(true);
  }
}

const keyedHash = (data: Uint8Array): Uint8Array => loadNative().blake3(data, hashKey);

const OFFER: OfferMessage = {
  kind: "offer",
  chunkBytes: CHUNK_BYTES,
  hashKey,
  folded: 0,
  regions: [{ name: "test", bytes: REGION_BYTES }],
};

/** Messages of the region that is being migrated, of epochs and chunks that there may be. */
function fromLeecher(random: CaseRandom): Message {
  const epoch = random.below(4);
  const index = random.below(12);
  return random.of<() => Message>([
    () => ({ kind: "accept", mode: random.of(["hybrid", "precopy", "postcopy"] as const) }),
    () => ({ kind: "track" }),
    () => ({ kind: "have", first: 8 * random.below(3), bits: random.bytes(random.below(4)) }),
    () => ({ kind: "knows", first: index, hashes: random.bytes(32 * (1 + random.below(3))) }),
    () => ({ kind: "want", epoch }),
    () => ({ kind: "credit", bytes: random.below(2 ** 24) }),
    () => ({ kind: "dirtyAck", epoch }),
    () => ({ kind: "finalize", deadlineMs: random.of([0, 1, 100, 60_000]) }),
    () => ({ kind: "ping", nonce: index }),
    ...seldom(random, [
      () => ({ kind: "committed" as const, epoch }),
      () => ({ kind: "done" as const, root: random.bytes(32) }),
      () => ({ kind: "abort" as const, reason: "hostile" }),
    ]),
  ])();
}

function fromSeeder(random: CaseRandom): Message {
  const epoch = random.below(4);
  const index = random.below(12);
  return random.of<() => Message>([
    () => ({ kind: "tracking", epoch }),
    () => ({ kind: "dirty", epoch, first: 8 * random.below(3), bits: random.bytes(2) }),
    () => ({ kind: "round", round: epoch, epoch, dirtyChunks: index, dirtyBytesPerS: 0 }),
    () => ({ kind: "pong", nonce: index }),
    ...seldom(random, [
      () => ({
        kind: "finalized" as const,
        epoch,
        suspendedForMs: 1,
        dirtyChunks: 0,
        root: random.below(2) === 0 ? undefined : random.bytes(32),
      }),
      () => OFFER,
      () => ({ kind: "released" as const }),
      () => ({ kind: "abort" as const, reason: "hostile" }),
    ]),
  ])();
}

function seldom<T>(random: CaseRandom, values: readonly T[]): readonly T[] {
  return random.below(10) === 0 ? values : [];
}

/** Most often a chunk as it should be. */
function chunks(random: CaseRandom): Message {
  const index = random.below(random.below(10) === 0 ? 12 : 10);
  const right = index === 9 ? REGION_BYTES % CHUNK_BYTES : CHUNK_BYTES;
  const payload = count(random.below(15) === 0 ? random.below(CHUNK_BYTES) : right, index);
  const strange = [1, ZERO_OFFSET, ZERO_OFFSET - 1, random.next()];
  return {
    kind: "chunks",
    epoch: random.below(4),
    indexes: Uint32Array.of(index),
    offsets: Uint32Array.of(random.below(15) === 0 ? random.of(strange) : 0),
    hashes: random.below(15) === 0 ? random.bytes(32) : keyedHash(payload),
    payload,
  };
}

/** Most often one that fits others. */
function part(random: CaseRandom): Message {
  const index = random.below(random.below(10) === 0 ? 12 : 10);
  const whole = count(index === 9 ? REGION_BYTES % CHUNK_BYTES : CHUNK_BYTES, index);
  const partCount = random.below(15) === 0 ? 2 + random.below(60) : 2;
  const at = random.below(partCount);
  const start = partStart(at, partCount, whole.length);
  const end = partStart(at + 1, partCount, whole.length);
  const right = whole.subarray(start, end);
  return {
    kind: "part",
    serial: index,
    epoch: random.below(15) === 0 ? random.below(4) : 1,
    index,
    part: at,
    partCount,
    hash: random.below(15) === 0 ? random.bytes(32) : keyedHash(whole),
    payload: random.below(15) === 0 ? random.bytes(1 + random.below(CHUNK_BYTES)) : right,
  };
}

/** With these a migration begins. */
const OPENINGS: Record<"seeder" | "leecher", readonly Message[]> = {
  seeder: [OFFER, { kind: "tracking", epoch: 1 }],
  leecher: [
    { kind: "accept", mode: "hybrid" },
    { kind: "track" },
    { kind: "want", epoch: 0 },
    { kind: "credit", bytes: 2 ** 24 },
  ],
};

/** Says things, damaged or not, on any stream; listens to nothing, but takes it. */
async function beHostile(
  network: FuzzNetwork,
  role: "seeder" | "leecher",
  random: CaseRandom,
): Promise<void> {
  const own = role === "seeder" ? network.a : network.b;
  const streams = await hostileStreams(own, role);
  const [control, urgent] = streams;
  for (const stream of streams) {
    void (async () => {
      while ((await stream.receive()) !== null);
    })().catch(() => undefined);
  }
  if (random.below(10) > 0) {
    for (const message of OPENINGS[role]) await control?.send(encodeMessage(message));
  }
  const times = 5 + random.below(100);
  for (let i = 0; i < times; i++) {
    const draw = random.below(100);
    let stream = control;
    let bytes = encodeMessage(role === "seeder" ? fromSeeder(random) : fromLeecher(random));
    if (draw < 30 && role === "seeder") {
      stream = random.of(streams.slice(1));
      bytes = encodeMessage(random.below(3) === 0 ? part(random) : chunks(random));
    } else if (draw < 30) {
      stream = urgent;
      const indexes = Uint32Array.of(random.below(11), random.below(10) === 0 ? random.next() : 0);
      bytes = encodeMessage({ kind: "fault", indexes });
    } else if (draw < 32) bytes = random.of(recorded);
    else if (draw < 34) bytes = mutate(bytes, random, random.of(recorded));
    if (draw === 99) stream = random.of(streams);
    // A record of nothing is no record.
    if (bytes.length > 0) await stream?.send(bytes);
    if (random.below(3) === 0) await sleep(1);
  }
}

test("Seeder ends by a documented error, its region as it was, whatever a leecher with the keys says", async () => {
  const endings = new Map<string, number>();
  await rounds(async (random) => {
    const source = new MemoryRegion({
      bytes: REGION_BYTES,
      chunkBytes: CHUNK_BYTES,
      hashKey,
      present: "all",
    });
    source.memory.set(random.bytes(REGION_BYTES));
    const before = source.memory.slice();
    const network = new FuzzNetwork();
    const seeder = new Seeder({
      session: new OnePairing(network.a),
      ...context,
      region: source,
      dirty: source,
      hashKey,
      keyedHash,
      handshake: noHandshake,
    });
    const running = seeder.run().then(
      () => "released",
      (error: unknown) => {
        requireDocumented(error);
        return error instanceof Error && "code" in error ? String(error.code) : "";
      },
    );
    const hostile = beHostile(network, "leecher", random).catch(() => undefined);
    const [ending] = await Promise.all([running, hostile, cutWhenQuiet(network, running)]);
    endings.set(ending, (endings.get(ending) ?? 0) + 1);
    expect(Buffer.compare(source.memory, before)).toBe(0);
    // Where it was not said to be committed, the workload goes on here.
    expect(source.running || seeder.committed).toBe(true);
  });
  console.log(`a hostile leecher: ${JSON.stringify([...endings])}`);
});

test("Leecher ends by a documented error, or with the right root, whatever a seeder with the keys says", async () => {
  const endings = new Map<string, number>();
  await rounds(async (random) => {
    const network = new FuzzNetwork();
    const session = new OnePairing(network.b);
    const leecher = new Leecher({
      session,
      ...context,
      keyedHash: () => keyedHash,
      mode: random.of(["hybrid", "precopy", "postcopy"] as const),
      finalize: random.of([{ kind: "auto" }, { kind: "manual" }, { kind: "ready", ratio: 0.3 }]),
      downtimeBudgetMs: 100,
      dataStreams: 1,
      handshake: noHandshake,
      prepare: (offer) => {
        const bytes = offer.regions.reduce((sum, region) => sum + region.bytes, 0);
        if (bytes > 1_000_000) throw new MigrationError("STORE_FULL", "too large for the test");
        const region = new MemoryRegion({ ...offer, bytes, present: "none" });
        return Promise.resolve({ region, exported: false, onFault: undefined });
      },
    });
    const running = leecher.run().then(
      () => "done",
      (error: unknown) => {
        requireDocumented(error);
        return error instanceof Error && "code" in error ? String(error.code) : "";
      },
    );
    const hostile = beHostile(network, "seeder", random).catch(() => undefined);
    const [ending] = await Promise.all([running, hostile, cutWhenQuiet(network, running)]);
    endings.set(ending, (endings.get(ending) ?? 0) + 1);
    // It takes nothing for its own that the relay did not give it.
    expect(leecher.committed).toBe(session.ownership.owner === "leecher");
  });
  console.log(`a hostile seeder: ${JSON.stringify([...endings])}`);
});
