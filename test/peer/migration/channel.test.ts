import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { expect, test, vi } from "vitest";
import {
  keepPinging,
  MessageChannel,
  receiveOffer,
  type Channel,
} from "../../../peer/migration/channel.ts";
import { leecherHandshake, seederHandshake } from "../../../peer/migration/handshake.ts";
import { RECORD_OVERHEAD_BYTES, SealedStream } from "../../../peer/migration/sealed-stream.ts";
import { RttMeter } from "../../../peer/net/rtt-meter.ts";
import { encodeFrame } from "../../../relay/protocol/frame.ts";
import { MessageReader } from "../../../relay/protocol/message-stream.ts";
import { pipe, type Wire } from "../../support/wire.ts";

const sessionId = randomBytes(16);
const secret = randomBytes(32);

async function handshake(wire: Wire, leecherSecret = secret) {
  const [a, b] = [wire.a, wire.b];
  const failing = async <T>(side: "a" | "b", work: Promise<T>): Promise<T> => {
    try {
      return await work;
    } catch (error) {
      (side === "a" ? a : b).abort("LINK_CLOSED", "failed");
      throw error;
    }
  };
  return await Promise.allSettled([
    failing("a", seederHandshake(a, new MessageReader(a), { sessionId, secret, features: 5 })),
    failing(
      "b",
      leecherHandshake(b, new MessageReader(b), {
        sessionId,
        secret: leecherSecret,
        features: 4,
        dataStreams: 3,
      }),
    ),
  ]);
}

test("a handshake gives both sides the same keys, fingerprint and common features", async () => {
  const [seeder, leecher] = await handshake(pipe());
  expect(seeder).toEqual(leecher);
  expect(seeder).toMatchObject({ status: "fulfilled", value: { dataStreams: 3, features: 4 } });
});

test("two handshakes with one secret share no key", async () => {
  const [first] = await handshake(pipe());
  const [second] = await handshake(pipe());
  expect(first.status).toBe("fulfilled");
  expect(first).not.toEqual(second);
});

test("a handshake with another secret is refused on both sides", async () => {
  const outcomes = await handshake(pipe(), randomBytes(32));
  for (const outcome of outcomes) expect(outcome.status).toBe("rejected");
  expect(outcomes[1]).toMatchObject({ reason: { code: "CHANNEL_REFUSED" } });
});

test("a handshake in which any one byte is changed yields keys to nobody who was lied to", async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(330), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
      let seen = 0;
      const wire = pipe((bytes) => {
        const changed = Uint8Array.from(bytes);
        const offset = at - seen;
        seen += bytes.length;
        if (offset >= 0 && offset < changed.length) changed[offset] = (changed[offset] ?? 0) ^ flip;
        return changed;
      });
      const timer = setTimeout(() => {
        wire.a.abort("LINK_CLOSED", "stuck");
        wire.b.abort("LINK_CLOSED", "stuck");
      }, 300);
      const outcomes = await handshake(wire);
      clearTimeout(timer);
      const changed = seen > at;
      if (changed) expect(outcomes.some((outcome) => outcome.status === "rejected")).toBe(true);
    }),
    { numRuns: 60 },
  );
});

function sealedPair(wire: Wire, messageBytesMax = 1 << 20): [SealedStream, SealedStream] {
  const [one, two] = [randomBytes(32), randomBytes(32)];
  return [
    new SealedStream(wire.a, {
      streamIndex: 1,
      sendSecret: one,
      receiveSecret: two,
      messageBytesMax,
    }),
    new SealedStream(wire.b, {
      streamIndex: 1,
      sendSecret: two,
      receiveSecret: one,
      messageBytesMax,
    }),
  ];
}

test("SealedStream delivers messages of any size in order, whole, both ways", async () => {
  const [a, b] = sealedPair(pipe());
  const messages = [1, 5, 70_000, 1, 1 << 20].map((size) => randomBytes(size));
  void (async () => {
    for (const message of messages) await a.send(message.subarray(0, 1), message.subarray(1));
  })();
  for (const message of messages) {
    expect(Buffer.compare((await b.receive()) ?? new Uint8Array(), message)).toBe(0);
  }
  void b.send(Uint8Array.of(9));
  expect(await a.receive()).toEqual(Buffer.of(9));
});

test("SealedStream goes on after its keys moved on", async () => {
  const [a, b] = sealedPair(pipe());
  const count = 65_536 + 3;
  void (async () => {
    for (let i = 0; i < count; i++) await a.send(Uint8Array.of(i & 0xff));
  })();
  for (let i = 0; i < count; i++) {
    const received = await b.receive();
    if (received?.[0] !== (i & 0xff)) throw new Error(`record ${i} is wrong`);
  }
}, 60_000);

test("SealedStream does not open a record that was changed, repeated, left out or moved", async () => {
  const record = RECORD_OVERHEAD_BYTES + 3;
  const attacks: Record<string, (records: Uint8Array[]) => Uint8Array[]> = {
    changed: ([a = none, b = none]) => [a.map((byte, i) => (i === 7 ? byte ^ 1 : byte)), b],
    repeated: ([a = none, b = none]) => [a, a, b],
    "left out": ([, b = none]) => [b],
    moved: ([a = none, b = none]) => [b, a],
  };
  for (const [name, attack] of Object.entries(attacks)) {
    const capture = pipe();
    const [sender] = sealedPair(capture);
    const key = randomBytes(32);
    const source = pipe();
    const out = new SealedStream(source.a, {
      streamIndex: 1,
      sendSecret: key,
      receiveSecret: key,
      messageBytesMax: 100,
    });
    void sender;
    await out.send(Uint8Array.of(1, 2, 3));
    await out.send(Uint8Array.of(4, 5, 6));
    const sent: Uint8Array[] = [];
    while (sent.length < 2) sent.push((await source.b.read()) ?? none);
    expect(sent.map((bytes) => bytes.length)).toEqual([record, record]);
    const target = pipe();
    for (const bytes of attack(sent)) await target.a.write(bytes);
    const into = new SealedStream(target.b, {
      streamIndex: 1,
      sendSecret: key,
      receiveSecret: key,
      messageBytesMax: 100,
    });
    const readAll = async (): Promise<void> => {
      for (let i = 0; i < 3; i++) await into.receive();
    };
    await expect(readAll(), name).rejects.toMatchObject({ code: "CHANNEL_CORRUPT" });
  }
});

test("SealedStream does not open a record of another stream", async () => {
  const key = randomBytes(32);
  const wire = pipe();
  const options = { sendSecret: key, receiveSecret: key, messageBytesMax: 100 };
  await new SealedStream(wire.a, { ...options, streamIndex: 2 }).send(Uint8Array.of(1));
  const other = new SealedStream(wire.b, { ...options, streamIndex: 3 });
  await expect(other.receive()).rejects.toMatchObject({ code: "CHANNEL_CORRUPT" });
});

test("SealedStream refuses a longer message before reading it", async () => {
  const wire = pipe();
  const [, b] = sealedPair(wire, 100);
  await wire.a.write(Uint8Array.of(0xff, 0xff, 0xff, 0x7f, 0x80));
  await expect(b.receive()).rejects.toMatchObject({ code: "FRAME_TOO_LARGE" });
});

/** What `receiveOffer` and `keepPinging` use of a channel. */
function controlOnly(wire: Wire, stream: SealedStream): Channel {
  const control = new MessageChannel(stream);
  const abort = (reason: string): void => wire.b.abort("LINK_CLOSED", reason);
  // The rest of a channel is not touched by these two.
  return { control, abort } as Partial<Channel> as Channel;
}

test("receiveOffer does not wait for ever for a source whose offer is held back", async () => {
  vi.useFakeTimers();
  try {
    const wire = pipe();
    const [, leecher] = sealedPair(wire);
    const offer = receiveOffer(controlOnly(wire, leecher));
    const caught = offer.catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(await caught).toMatchObject({
      code: "LINK_CLOSED",
      message: "the source did not say in time what it offers",
    });
  } finally {
    vi.useRealTimers();
  }
});

test("keepPinging asks again what is not answered, so that a record that was left out is seen", async () => {
  vi.useFakeTimers();
  try {
    let dropped = 0;
    const wire = pipe((bytes) => (dropped++ === 0 ? none : bytes));
    const [seeder, leecher] = sealedPair(wire);
    const stop = new AbortController();
    const pinging = keepPinging(
      controlOnly(wire, leecher),
      new RttMeter(),
      () => 1_000,
      stop.signal,
    ).catch((error: unknown) => error);
    const seen = seeder.receive().catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(await seen).toMatchObject({ code: "CHANNEL_CORRUPT" });
    stop.abort(new Error("seen"));
    expect(await pinging).toEqual(new Error("seen"));
  } finally {
    vi.useRealTimers();
  }
});

test("a stream that the relay refuses to join is told so, and not as a wrong secret or damage", async () => {
  const refusal = encodeFrame({
    kind: "error",
    code: "STREAM_UNPAIRED",
    retryable: true,
    message: "this pairing is over",
  });
  const wanted = { code: "PEER_LOST", message: expect.stringContaining("this pairing is over") };
  const wire = pipe();
  await wire.a.write(refusal.slice());
  const context = { sessionId, secret, features: 0 };
  const refused = seederHandshake(wire.b, new MessageReader(wire.b), context);
  await expect(refused).rejects.toMatchObject(wanted);
  const data = pipe();
  await data.a.write(refusal.slice());
  await expect(sealedPair(data)[1].receive()).rejects.toMatchObject(wanted);
});

const none = new Uint8Array();
