import { afterEach, describe, expect, test, vi } from "vitest";
import type { Dial, Link } from "../../../peer/net/link.ts";
import { FEATURES } from "../../../relay/protocol/version.ts";
import { memoryRelay } from "../../../peer/net/memory-link.ts";
import { PeerIdentity } from "../../../peer/net/peer-identity.ts";
import { RelayControl } from "../../../peer/net/relay-control.ts";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../../peer/net/webtransport.ts";
import { toHex } from "../../../relay/protocol/bytes.ts";
import { PROGRESS_FIELDS, type Frame, type Progress } from "../../../relay/protocol/frame.ts";
import { MessageReader, readFrame } from "../../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { INDEX_BYTES_WAITING_MAX, RECORDS_WAITING_MAX } from "../../../relay/switchboard/limits.ts";
import { Switchboard, type SwitchboardOptions } from "../../../relay/switchboard/switchboard.ts";
import { testListener } from "../../compliance/link-support.ts";
import { GatedStore, makeSession, RawPeer, type TestSession } from "./harness.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface World {
  readonly store: GatedStore;
  readonly switchboard: Switchboard;
  readonly session: TestSession;
  readonly logged: string[];
  readonly dial: () => Promise<Link>;
}

/** How a peer reaches the switchboard. */
type Way = (accept: Switchboard["accept"]) => Promise<() => Promise<Link>>;

const inMemory: Way = (accept) => {
  const network = memoryRelay(accept);
  closers.push(() => network.close("LINK_CLOSED", "the test is over"));
  return Promise.resolve(() => network.dial({ url: "https://memory:1", certificateHashes: [] }));
};

const over =
  (dial: Dial): Way =>
  async (accept) => {
    const relay = await testListener({ onStream: accept });
    closers.push(() => relay.close());
    return () => dial({ url: relay.url, certificateHashes: [relay.certificate.hash] });
  };

async function world(
  way: Way = inMemory,
  options: Partial<SwitchboardOptions> = {},
): Promise<World> {
  const store = new GatedStore();
  const logged: string[] = [];
  const switchboard = new Switchboard({
    store,
    log: (level, message) => logged.push(`${level} ${message}`),
    ...options,
  });
  closers.push(() => {
    store.thaw();
    return switchboard.close();
  });
  const dial = await way((incoming) => switchboard.accept(incoming));
  return { store, switchboard, session: makeSession(store), logged, dial };
}

async function pair({ dial, session }: World): Promise<readonly [RawPeer, RawPeer]> {
  const seeder = await (await RawPeer.open(await dial(), session, "seeder")).join();
  const leecher = await (await RawPeer.open(await dial(), session, "leecher")).join();
  await Promise.all([seeder.paired(), leecher.paired()]);
  return [seeder, leecher];
}

async function spliced(
  [seeder, leecher]: readonly [RawPeer, RawPeer],
  index = 0,
): Promise<readonly [ByteStream, ByteStream]> {
  return await Promise.all([seeder.openStream(index), leecher.openStream(index)]);
}

async function passes([from, to]: readonly [ByteStream, ByteStream], byte: number): Promise<void> {
  await from.write(Uint8Array.of(byte));
  expect(await to.read()).toEqual(Uint8Array.of(byte));
}

const description: Frame = {
  kind: "describe",
  regionName: "r",
  regionBytes: 4096,
  chunkBytes: 4096,
  host: "h",
  version: "1",
};
// From the list of the fields, all of them.
const zeroProgress = Object.fromEntries(
  PROGRESS_FIELDS.map((field) => [field, 0]),
) as unknown as Progress;
/** The largest that one frame can be. */
const delta: Frame = { kind: "indexDelta", entries: new Uint8Array(40 * 10_000) };

const ways: [string, Way][] = [
  ["in memory", inMemory],
  ["over WebSocket", over(dialWebSocket)],
];
if (!("unavailable" in (await loadWebTransportClient()))) {
  ways.push(["over WebTransport", over(dialWebTransport)]);
}

describe.each(ways)("a second leecher %s", (_name, way) => {
  // It must not reset what the first has, nor its streams.
  test("is refused with a code, and does the first no harm", async () => {
    const here = await world(way);
    const peers = await pair(here);
    const [, leecher] = peers;
    const streams = await spliced(peers);
    await passes(streams, 1);

    const { session, dial } = here;
    const withTicket = await RawPeer.open(await dial(), session, "leecher");
    await withTicket.hello(session.tokens.leecher);
    expect(await withTicket.next()).toMatchObject({ kind: "error", code: "TICKET_USED" });

    const withOwnKey = await RawPeer.open(await dial(), session, "leecher");
    await withOwnKey.hello();
    await withOwnKey.prove();
    expect(await withOwnKey.next()).toMatchObject({ kind: "error", code: "PEER_UNKNOWN" });

    const asTheFirst = await RawPeer.open(await dial(), session, "leecher");
    await asTheFirst.hello(undefined, leecher.identity.publicKey);
    await asTheFirst.prove();
    expect(await asTheFirst.next()).toMatchObject({ kind: "error", code: "PROOF_INVALID" });

    // A stream of a peer that is not in: the session's number is no secret, what opens streams is.
    const uninvited = await RawPeer.open(await dial(), session, "leecher");
    uninvited.pairing = leecher.pairing;
    const answer = await readFrame(new MessageReader(await uninvited.openStream(1)), 1 << 16);
    expect(answer).toMatchObject({ kind: "error", code: "PEER_UNKNOWN" });

    await passes(streams, 2);
    await leecher.send({ kind: "ping", nonce: 5 });
    expect(await leecher.next()).toEqual({ kind: "pong", nonce: 5 });
    await leecher.send({ kind: "commit", epoch: 3 });
    expect(await leecher.next()).toMatchObject({ kind: "owner", owner: "leecher", ownerEpoch: 3 });
  });
});

describe("two connections of one peer", () => {
  test("the later one replaces the earlier, whose frames then count for nothing", async () => {
    const here = await world();
    const { store, session, dial } = here;
    const [first, leecher] = await pair(here);
    store.freeze("appendDelta");
    // Full: the frames behind are held back with what is in their piece, a revoke among it.
    for (let sent = 400_000; sent <= INDEX_BYTES_WAITING_MAX; sent += 400_000) {
      await first.send(delta);
    }
    await first.send(delta, { kind: "revoke", reason: "stale" }, description);
    const later = await RawPeer.open(await dial(), session, "seeder", first.identity);
    await later.rejoin();
    await expect(first.stream.closed).resolves.toMatchObject({ code: "ROLE_TAKEN" });

    store.thaw();
    await leecher.until("peer");
    await later.send({ kind: "ping", nonce: 1 });
    await later.until("pong");
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(store.asked).not.toContain("owner");
    expect(store.asked).not.toContain("describe");
    expect(store.inner.session(session.sessionId).state).not.toBe("cancelled");
    // Nor can it open a stream any more.
    first.pairing = leecher.pairing;
    const stale = await first.openStream(7);
    await expect(stale.closed).resolves.not.toMatchObject({ code: "OK" });
  });

  test("one that was held up in the database does not replace the one that came after it", async () => {
    const here = await world();
    const { store, session, dial } = here;
    const [first] = await pair(here);
    await first.link.close("OK", "gone");

    const release = store.freezeNext("rejoin");
    const held = await RawPeer.open(await dial(), session, "seeder", first.identity);
    await held.hello();
    await held.prove();
    await vi.waitFor(() => expect(store.asked.at(-1)).toBe("rejoin"));
    const later = await RawPeer.open(await dial(), session, "seeder", first.identity);
    await later.rejoin();
    release();
    await expect(held.until("error")).resolves.toMatchObject({ code: "ROLE_TAKEN" });
    await later.send({ kind: "ping", nonce: 9 });
    await later.until("pong");
  });
});

describe("a database that stands still", () => {
  const reports = ["describe", "setState", "saveProgress", "appendDelta", "putSegment"] as const;

  test("holds up neither heartbeats nor streams nor the answer to a commit", async () => {
    const here = await world();
    const { store, session } = here;
    const peers = await pair(here);
    const [seeder, leecher] = peers;
    const streams = await spliced(peers);
    store.freeze(...reports);
    await seeder.send(
      description,
      { kind: "phase", state: "tracking", reason: "" },
      { kind: "progress", progress: zeroProgress },
      { kind: "phase", state: "precopy", reason: "" },
      delta,
      { kind: "ping", nonce: 1 },
    );
    await seeder.until("pong");
    await passes(streams, 1);
    await leecher.send({ kind: "phase", state: "finalizing", reason: "" });
    await leecher.send({ kind: "commit", epoch: 2 }, { kind: "ping", nonce: 2 });
    // The heartbeat does not wait for the answer.
    expect(await leecher.next()).toEqual({ kind: "pong", nonce: 2 });
    expect(await leecher.next()).toMatchObject({ kind: "owner", owner: "leecher", ownerEpoch: 2 });
    await passes(streams, 2);

    store.thaw();
    await vi.waitFor(() => expect(store.asked).toContain("appendDelta"));
    const { events } = store.inner.session(session.sessionId);
    await vi.waitFor(() => expect(events).toContain("finalizing"));
    expect(events.indexOf("tracking")).toBeLessThan(events.indexOf("precopy"));
  });

  test("is not waited for by a peer that pings while its own question is open", async () => {
    const here = await world();
    const { store } = here;
    const [, leecher] = await pair(here);
    store.freeze("commit");
    await leecher.send({ kind: "commit", epoch: 2 });
    for (let nonce = 0; nonce < 5; nonce++) {
      await leecher.send({ kind: "ping", nonce });
      expect(await leecher.next()).toEqual({ kind: "pong", nonce });
    }
    store.thaw();
    expect(await leecher.next()).toMatchObject({ kind: "owner", owner: "leecher" });
  });

  test("is given a bounded backlog, and the rest is dropped", async () => {
    const here = await world();
    const { store, logged } = here;
    const [seeder] = await pair(here);
    store.freeze(...reports);
    for (let sent = 0; sent < 4 * INDEX_BYTES_WAITING_MAX; sent += 400_000)
      await seeder.send(delta);
    for (let sent = 0; sent < 2 * RECORDS_WAITING_MAX; sent++) await seeder.send(description);
    await seeder.send({ kind: "ping", nonce: 3 });
    await seeder.until("pong");
    expect(logged).toContain("warn index was not recorded");
    expect(logged).toContain("warn describe was not recorded");
    const before = store.asked.length;
    store.thaw();
    await seeder.send({ kind: "bye" });
    await seeder.stream.closed;
    expect(store.asked.length - before).toBeLessThanOrEqual(
      RECORDS_WAITING_MAX + Math.ceil(INDEX_BYTES_WAITING_MAX / 400_000),
    );
    expect(store.asked.filter((question) => question === "appendDelta").length).toBeGreaterThan(5);
  });

  test("a phase is written down when it is back, also of a peer that has left", async () => {
    const here = await world();
    const { store, session } = here;
    const [seeder] = await pair(here);
    store.refuse("setState");
    await seeder.send({ kind: "phase", state: "failed", reason: "no" });
    await vi.waitFor(() =>
      expect(here.logged).toContain("warn phase failed for now was not recorded"),
    );
    await seeder.link.close("OK", "gone");
    store.heal();
    await vi.waitFor(
      () => expect(store.inner.session(session.sessionId).state).toBe("failed"),
      5_000,
    );
  });

  test("an orderly goodbye waits until what was reported is written down", async () => {
    const here = await world();
    const { store, session } = here;
    const [, leecher] = await pair(here);
    await leecher.send({ kind: "commit", epoch: 1 });
    await leecher.until("owner");
    store.freeze("setState");
    await leecher.send({ kind: "phase", state: "done", reason: "" }, { kind: "bye" });
    let gone = false;
    void leecher.stream.closed.then(() => (gone = true));
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(gone).toBe(false);
    store.thaw();
    await leecher.stream.closed;
    expect(store.inner.session(session.sessionId).state).toBe("done");
  });
});

describe("a question about the owner", () => {
  test("that the database refuses is an error to be asked again, and nobody is told an owner", async () => {
    const here = await world();
    const { store, session, dial } = here;
    const [seeder, leecher] = await pair(here);
    store.refuse("commit");
    await leecher.send({ kind: "commit", epoch: 2 });
    expect(await leecher.next()).toMatchObject({
      kind: "error",
      code: "RELAY_UNAVAILABLE",
      retryable: true,
    });
    expect(await seeder.next()).toMatchObject({ kind: "peer", present: false });
    expect(store.inner.session(session.sessionId).owner).toBe("seeder");
    store.heal();
    const again = await RawPeer.open(await dial(), session, "leecher", leecher.identity);
    expect((await again.rejoin()).welcome).toMatchObject({ owner: "seeder", ownerEpoch: 0 });
    await again.send({ kind: "commit", epoch: 2 });
    expect(await again.until("owner")).toMatchObject({ owner: "leecher", ownerEpoch: 2 });
    expect(await seeder.until("owner")).toMatchObject({ owner: "leecher", ownerEpoch: 2 });
  });

  test("whose answer was lost after it was carried out is answered the same when asked again", async () => {
    const here = await world();
    const { store, session, dial } = here;
    const [, leecher] = await pair(here);
    store.mute("commit");
    await leecher.send({ kind: "commit", epoch: 2 });
    expect(await leecher.next()).toMatchObject({ kind: "error", retryable: true });
    store.heal();
    const again = await RawPeer.open(await dial(), session, "leecher", leecher.identity);
    expect((await again.rejoin()).welcome).toMatchObject({ owner: "leecher", ownerEpoch: 2 });
    await again.send({ kind: "commit", epoch: 2 });
    expect(await again.until("owner")).toMatchObject({ owner: "leecher", ownerEpoch: 2 });
  });

  test("a revoke whose second half is lost is asked again and ends the same", async () => {
    const here = await world();
    const { store, session, dial } = here;
    const [seeder] = await pair(here);
    store.mute("setState");
    await seeder.send({ kind: "revoke", reason: "no" });
    expect(await seeder.until("error")).toMatchObject({ retryable: true });
    store.heal();
    const again = await RawPeer.open(await dial(), session, "seeder", seeder.identity);
    await again.rejoin();
    await again.send({ kind: "revoke", reason: "no" });
    expect(await again.until("owner")).toMatchObject({ owner: "seeder", state: "cancelled" });
  });

  test("is asked a few times at once and no more", async () => {
    const here = await world();
    const [, leecher] = await pair(here);
    here.store.freeze("commit");
    for (let epoch = 1; epoch <= 5; epoch++) await leecher.send({ kind: "commit", epoch });
    expect(await leecher.next()).toMatchObject({ kind: "error", code: "LIMIT_EXCEEDED" });
  });

  test("a peer that cannot be let in is told to come again", async () => {
    const { store, session, dial } = await world();
    store.refuse("useTicket", "rejoin");
    for (const token of [session.tokens.seeder, undefined]) {
      const peer = await RawPeer.open(await dial(), session, "seeder");
      await peer.hello(token);
      if (token === undefined) await peer.prove();
      expect(await peer.next()).toMatchObject({
        kind: "error",
        code: "RELAY_UNAVAILABLE",
        retryable: true,
      });
    }
  });
});

test("a stream that dies before its twin comes does not wait for it", async () => {
  const here = await world();
  const peers = await pair(here);
  const [seeder, leecher] = peers;
  const dead = await seeder.openStream(3);
  // It has to be there before it dies.
  await passes(await spliced(peers, 4), 1);
  dead.abort("LINK_CLOSED", "given up");
  await dead.closed;
  await passes(await spliced(peers, 5), 1);

  const again = await seeder.openStream(3);
  await passes([again, await leecher.openStream(3)], 7);
});

test("Switchboard takes another way of checking proofs", async () => {
  const checked: string[] = [];
  const here = await world(inMemory, {
    verifyProof: (key, signature) => {
      checked.push(toHex(key));
      return Promise.resolve(signature.length === 64 && checked.length > 1);
    },
  });
  const [first] = await pair(here);
  const { session, dial } = here;
  const refused = await RawPeer.open(await dial(), session, "seeder", first.identity);
  await refused.hello();
  await refused.prove();
  expect(await refused.next()).toMatchObject({ code: "PROOF_INVALID" });
  await (await RawPeer.open(await dial(), session, "seeder", first.identity)).rejoin();
  expect(checked).toEqual(Array.from({ length: 2 }, () => toHex(first.identity.publicKey)));
});

describe.each(ways)("Switchboard.close() %s", (_name, way) => {
  test("tells every peer when to come back, and they do", async () => {
    const store = new GatedStore();
    const session = makeSession(store);
    const make = (): Switchboard => new Switchboard({ store, log: () => {} });
    let current = make();
    const dial = await way((incoming) => current.accept(incoming));
    const raw = await (await RawPeer.open(await dial(), session, "seeder")).join();
    const heard: string[] = [];
    const control = await RelayControl.join({
      ticket: {
        relayUrl: "https://memory:1",
        certificateHashes: [],
        sessionId: session.sessionId,
        role: "leecher",
        token: session.tokens.leecher,
        secret: new Uint8Array(32),
      },
      identity: PeerIdentity.generate(),
      dial,
      onConnection: (connected, detail) => heard.push(connected ? "connected" : detail),
    });
    closers.push(() => control.close());
    await control.pairing();

    const toldAt = performance.now();
    const closing = current.close();
    current = make();
    closers.push(() => current.close());
    const { reconnectInMs, tryForMs } = await raw.until("goAway");
    expect(reconnectInMs).toBeGreaterThan(0);
    expect(tryForMs).toBeGreaterThan(reconnectInMs);
    await raw.link.close("OK", "gone");
    await closing;
    await vi.waitFor(() => expect(heard.at(-1)).toBe("connected"), 10_000);
    // It waits as long as it was told to, less the jitter.
    expect(performance.now() - toldAt).toBeGreaterThan(reconnectInMs / 2);
    expect(heard).toContain("the relay is going down");
    const again = await RawPeer.open(await dial(), session, "seeder", raw.identity);
    await again.rejoin();
    await again.paired();
  });
});

test("a peer that is told to leave stays while its time is not up, and its streams go on until then", async () => {
  const { dial, session, switchboard } = await world(inMemory, { random: () => 0.999 });
  const seeder = await (await RawPeer.open(await dial(), session, "seeder")).join();
  const leecher = await (await RawPeer.open(await dial(), session, "leecher")).join();
  await seeder.paired();
  await leecher.paired();
  const closing = switchboard.close();
  const told = await seeder.until("goAway");
  await leecher.until("goAway");
  expect(told.reconnectInMs).toBeGreaterThanOrEqual(500);
  // Also one that is opened only now: a hand-over that has begun may need it.
  const mine = await seeder.openStream(0);
  const theirs = await leecher.openStream(0);
  await mine.write(Uint8Array.of(7));
  expect(await theirs.read()).toEqual(Uint8Array.of(7));
  // But nobody new.
  const late = await RawPeer.open(await dial(), makeSession(new GatedStore()), "seeder");
  await expect(late.join()).rejects.toThrow("RELAY_DRAINING");
  await seeder.link.close("OK", "gone");
  await leecher.link.close("OK", "gone");
  await closing;
});

test("RelayControl asks often for as long as a relay that goes down says another is to come", async () => {
  const store = new GatedStore();
  const session = makeSession(store);
  let current = new Switchboard({ store, log: () => {}, random: () => 0 });
  const dial = await inMemory((incoming) => current.accept(incoming));
  let attempts = 0;
  const lost: number[] = [];
  const control = await RelayControl.join({
    ticket: {
      relayUrl: "https://memory:1",
      certificateHashes: [],
      sessionId: session.sessionId,
      role: "leecher",
      token: session.tokens.leecher,
      secret: new Uint8Array(32),
    },
    identity: PeerIdentity.generate(),
    dial: () => {
      attempts++;
      lost.push(performance.now());
      return dial();
    },
  });
  closers.push(() => control.close());
  await current.close();
  // The old one says that it is going down, again and again.
  await vi.waitFor(() => expect(attempts).toBeGreaterThanOrEqual(9), 20_000);
  const gaps = lost.slice(2).map((at, i) => at - (lost[i + 1] ?? 0));
  // Without the promise the waits grow to five seconds and half of that more.
  expect(Math.max(...gaps)).toBeLessThan(2_500);
  current = new Switchboard({ store, log: () => {} });
  closers.push(() => current.close());
  const again = await (await RawPeer.open(await dial(), session, "seeder")).join();
  await again.paired();
}, 40_000);

test("Switchboard gives a token for discovery to a peer that asks for it, and takes it back", async () => {
  const events: string[] = [];
  const token = new Uint8Array(16).fill(7);
  const discovery = {
    ports: [3478, 3479] as const,
    hold: () => {
      events.push("held");
      return { token, release: () => events.push("released") };
    },
  };
  const { dial, session } = await world(inMemory, { discovery });
  // An older peer, which says nothing of direct paths.
  const raw = await (await RawPeer.open(await dial(), session, "leecher")).join();
  expect(raw.welcome?.features).toBe(FEATURES.direct | FEATURES.signals | FEATURES.commands);
  expect(events).toEqual([]);

  const { sessionId, tokens } = session;
  const control = await RelayControl.join({
    ticket: {
      relayUrl: "https://memory:1",
      certificateHashes: [],
      sessionId,
      role: "seeder",
      token: tokens.seeder,
      secret: new Uint8Array(32),
    },
    identity: PeerIdentity.generate(),
    dial,
  });
  await control.pairing();
  expect(control.discovery).toMatchObject({ token, ports: [3478, 3479] });
  await control.close();
  await vi.waitFor(() => expect(events).toEqual(["held", "released"]));
});
