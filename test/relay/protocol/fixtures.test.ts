/**
 * The relay protocol's bytes are those that were recorded: see `test/fixtures/README.md`.
 */
import { expect, test } from "vitest";

import { memoryRelay } from "../../../peer/net/memory-link.ts";
import { ByteWriter, toBase64Url } from "../../../relay/protocol/bytes.ts";
import { decodeFrame, encodeFrame, FRAME_HEADER_BYTES } from "../../../relay/protocol/frame.ts";
import { MessageReader, readFrame } from "../../../relay/protocol/message-stream.ts";
import { decodeTicket } from "../../../relay/protocol/ticket.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../../relay/protocol/version.ts";
import { Switchboard } from "../../../relay/switchboard/switchboard.ts";
import { allFrames, recordFrames, recordTickets } from "../../fixtures/relay-recordings.ts";
import { ticketExamples } from "../../fixtures/tickets.ts";
import { hexOf, recordedBytes } from "../../fixtures/wire-file.ts";
import { pipe } from "../../support/wire.ts";
import { GatedStore, makeSession, RawPeer } from "../switchboard/harness.ts";

const frames = recordedBytes("frames");
const tickets = recordedBytes("tickets");

test("encodeFrame() gives the recorded bytes", () => {
  const now = recordFrames().map(({ name, bytes }) => [name, bytes] as const);
  expect(hexOf(now)).toEqual(hexOf(frames));
});

test("decodeFrame() gives the values of the recorded bytes", () => {
  for (const { name, value } of allFrames) {
    const bytes = frames.get(name) ?? new Uint8Array();
    const decoded = decodeFrame(bytes[4] ?? 0, bytes.subarray(FRAME_HEADER_BYTES));
    expect(decoded, name).toEqual(value);
  }
});

test("every number that decodeFrame() knows is recorded", () => {
  const recorded = new Set([...frames.values()].map((bytes) => bytes[4]));
  const known = Array.from({ length: 256 }, (_, number) => number).filter(isKnown);
  expect(recorded).toEqual(new Set(known));
});

/** A number that is not known is passed over, whatever follows it; else no bytes are a frame or an error. */
function isKnown(number: number): boolean {
  try {
    return decodeFrame(number, new Uint8Array()) !== undefined;
  } catch {
    return true;
  }
}

test("encodeTicket() gives the recorded text", () => {
  const now = recordTickets().map(({ name, bytes }) => [name, bytes] as const);
  expect(hexOf(now)).toEqual(hexOf(tickets));
});

test("decodeTicket() gives the values of the recorded text", () => {
  for (const { name, value } of ticketExamples) {
    const text = `memferry1_${toBase64Url(tickets.get(name) ?? new Uint8Array())}`;
    expect(decodeTicket(text), name).toEqual(value);
  }
});

test("readFrame() passes over the kinds of a later minor version", async () => {
  const { a, b } = pipe();
  const unknown = Uint8Array.of(3, 0, 0, 0, 0x3f, 1, 2, 3);
  const empty = Uint8Array.of(0, 0, 0, 0, 0xff);
  const ping = encodeFrame({ kind: "ping", nonce: 5 });
  for (const bytes of [unknown, ping, empty, unknown, ping]) await b.write(Uint8Array.from(bytes));
  const reader = new MessageReader(a);
  expect(await readFrame(reader, 512)).toEqual({ kind: "ping", nonce: 5 });
  expect(await readFrame(reader, 512)).toEqual({ kind: "ping", nonce: 5 });
});

/** A peer by hand, linked to a relay in memory. */
async function atRelay(run: (peer: RawPeer) => Promise<void>): Promise<void> {
  const store = new GatedStore();
  const switchboard = new Switchboard({ store, log: () => undefined });
  const network = memoryRelay((incoming) => switchboard.accept(incoming));
  try {
    const link = await network.dial({ url: "https://memory:1", certificateHashes: [] });
    await run(await RawPeer.open(link, makeSession(store), "seeder"));
  } finally {
    await switchboard.close();
    network.close("LINK_CLOSED", "the test is over");
  }
}

// The fields of a later major version may be others: a relay that looks at them first calls them malformed.
test.for([
  ["with fields of its own", Uint8Array.of(1, 2, 3)],
  ["with the fields of this one", undefined],
] as const)("a hello of another major version %s is refused, with both named", ([, own]) =>
  atRelay(async (peer) => {
    const fields = own ?? (frames.get("hello: by ticket") ?? new Uint8Array()).subarray(7);
    const payload = new ByteWriter()
      .u16(PROTOCOL_MAJOR + 6)
      .bytes(fields)
      .finish();
    await peer.stream.write(
      new ByteWriter().u32(payload.length).u8(1).bytes(payload).finish().slice(),
    );
    expect(await peer.next()).toMatchObject({
      kind: "error",
      code: "VERSION_UNSUPPORTED",
      message: expect.stringMatching(
        `version ${PROTOCOL_MAJOR} .* the peer ${PROTOCOL_MAJOR + 6}`,
      ) as unknown,
    });
  }),
);

test("a hello of a later minor version with features that nobody knows is welcome", () =>
  atRelay(async (peer) => {
    const { session, role, identity } = peer;
    await peer.send({
      kind: "hello",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR + 9,
      features: 0xffff_ffff,
      role,
      sessionId: session.sessionId,
      peerKey: identity.publicKey,
      token: session.tokens[role],
    });
    expect(await peer.until("welcome")).toMatchObject({
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
    });
    // An unknown kind is no error at the relay either.
    await peer.stream.write(Uint8Array.of(2, 0, 0, 0, 0x3f, 7, 7));
    await peer.send({ kind: "ping", nonce: 9 });
    expect(await peer.until("pong")).toEqual({ kind: "pong", nonce: 9 });
  }));

test("the recorded hello and welcome are of the version that is spoken", () => {
  // Another major version takes new recordings, and the old ones go.
  for (const { value } of allFrames) {
    if (value.kind === "hello" || value.kind === "welcome")
      expect(value.major).toBe(PROTOCOL_MAJOR);
    if (value.kind === "welcome") expect(value.minor).toBe(PROTOCOL_MINOR);
  }
});
