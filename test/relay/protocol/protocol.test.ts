import fc from "fast-check";
import { expect, test } from "vitest";
import {
  ByteReader,
  ByteWriter,
  fromBase64Url,
  toBase64Url,
} from "../../../relay/protocol/bytes.ts";
import { ProtocolError, ProtocolErrorNumber } from "../../../relay/protocol/errors.ts";
import {
  decodeFrame,
  encodeFrame,
  FRAME_HEADER_BYTES,
  PROGRESS_FIELDS,
  type Frame,
  type Progress,
} from "../../../relay/protocol/frame.ts";
import { SESSION_STATES } from "../../../relay/protocol/ids.ts";
import { MessageReader, readFrame } from "../../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { decodeTicket, encodeTicket, TICKET_PREFIX } from "../../../relay/protocol/ticket.ts";
import { PROTOCOL_MAJOR } from "../../../relay/protocol/version.ts";

const bytes = (count: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: count, maxLength: count });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const port = fc.integer({ min: 1, max: 0xffff });
const text = fc.string({ unit: "grapheme-ascii", maxLength: 100 });
const role = fc.constantFrom("seeder" as const, "leecher" as const);
const state = fc.constantFrom(...SESSION_STATES);
const code = fc.constantFrom(
  ...(Object.keys(ProtocolErrorNumber) as (keyof typeof ProtocolErrorNumber)[]),
);
const progress = fc
  .array(fc.double({ min: 0, max: 2 ** 52, noNaN: true }), {
    minLength: PROGRESS_FIELDS.length,
    maxLength: PROGRESS_FIELDS.length,
  })
  // Every field of Progress is named in PROGRESS_FIELDS.
  .map(
    (values) =>
      Object.fromEntries(PROGRESS_FIELDS.map((f, i) => [f, values[i] ?? 0])) as unknown as Progress,
  );

const frame: fc.Arbitrary<Frame> = fc.oneof(
  fc.record({
    kind: fc.constant("hello" as const),
    major: fc.constant(PROTOCOL_MAJOR),
    minor: u16,
    features: u32,
    role,
    sessionId: bytes(16),
    peerKey: bytes(32),
    token: fc.option(bytes(32), { nil: undefined }),
  }),
  fc.record({
    kind: fc.constant("stream" as const),
    sessionId: bytes(16),
    role,
    streamSecret: bytes(16),
    pairing: u32,
    streamIndex: u16,
  }),
  fc.record({ kind: fc.constant("proof" as const), signature: bytes(64) }),
  fc.record({ kind: fc.constant("commit" as const), epoch: u32 }),
  fc.record({ kind: fc.constant("revoke" as const), reason: text }),
  fc.record({
    kind: fc.constant("describe" as const),
    regionName: text,
    regionBytes: fc.integer({ min: 1, max: 2 ** 50 }),
    chunkBytes: fc.integer({ min: 12, max: 22 }).map((n) => 2 ** n),
    host: text,
    version: text,
  }),
  fc.record({ kind: fc.constant("phase" as const), state, reason: text }),
  fc.record({ kind: fc.constant("progress" as const), progress }),
  fc.record({
    kind: fc.constant("indexSegment" as const),
    epoch: u32,
    segment: u32,
    hashes: fc.integer({ min: 1, max: 40 }).chain((n) => bytes(n * 32)),
  }),
  fc.record({
    kind: fc.constant("indexDelta" as const),
    entries: fc.integer({ min: 1, max: 40 }).chain((n) => bytes(n * 40)),
  }),
  fc.record({ kind: fc.constant("indexRoot" as const), epoch: u32, root: bytes(32) }),
  fc.record({ kind: fc.constant("ping" as const), nonce: u32 }),
  fc.constant({ kind: "bye" as const }),
  fc.record({ kind: fc.constant("challenge" as const), challenge: bytes(32) }),
  fc.record({
    kind: fc.constant("welcome" as const),
    major: u16,
    minor: u16,
    features: u32,
    streamSecret: bytes(16),
    owner: role,
    ownerEpoch: u32,
    state,
  }),
  fc.record({ kind: fc.constant("peer" as const), present: fc.boolean(), pairing: u32 }),
  fc.record({
    kind: fc.constant("owner" as const),
    owner: role,
    ownerEpoch: u32,
    state,
    reason: text,
  }),
  fc.record({
    kind: fc.constant("command" as const),
    command: fc.constantFrom("finalize" as const, "cancel" as const),
    reason: text,
  }),
  fc.record({ kind: fc.constant("pong" as const), nonce: u32 }),
  fc.record({ kind: fc.constant("goAway" as const), reconnectInMs: u32, tryForMs: u32 }),
  fc.record({
    kind: fc.constant("throttled" as const),
    limitName: text,
    bytesPerS: fc.maxSafeNat(),
    retryInMs: u32,
  }),
  fc.record({
    kind: fc.constant("terms" as const),
    terms: fc.record({
      mode: fc.constantFrom(undefined, "live" as const, "precopy" as const),
      downtimeTargetMs: u32,
      maxRounds: u32,
    }),
  }),
  fc.record({ kind: fc.constant("error" as const), code, retryable: fc.boolean(), message: text }),
  fc.record({
    kind: fc.constant("discovery" as const),
    token: bytes(16),
    ports: fc.tuple(port, port),
  }),
);

test("decodeFrame() gives back what encodeFrame() took, and the header tells its length", () => {
  fc.assert(
    fc.property(frame, (given) => {
      const encoded = encodeFrame(given);
      const reader = new ByteReader(encoded);
      expect(reader.u32()).toBe(encoded.length - FRAME_HEADER_BYTES);
      const number = reader.u8();
      expect(decodeFrame(number, reader.rest())).toEqual(given);
    }),
    { numRuns: 1000 },
  );
});

test("decodeFrame() refuses every truncation and every byte too many", () => {
  fc.assert(
    fc.property(frame, fc.nat(), (given, cut) => {
      const encoded = encodeFrame(given);
      const payload = encoded.subarray(FRAME_HEADER_BYTES);
      fc.pre(payload.length > 0 && given.kind !== "indexSegment" && given.kind !== "indexDelta");
      const number = encoded[4] ?? 0;
      expect(() => decodeFrame(number, payload.subarray(0, cut % payload.length))).toThrow(
        ProtocolError,
      );
      expect(() => decodeFrame(number, Uint8Array.of(...payload, 0))).toThrow(ProtocolError);
    }),
    { numRuns: 500 },
  );
});

test("decodeFrame() never throws anything but a ProtocolError", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 255 }),
      fc.uint8Array({ maxLength: 200 }),
      (number, payload) => {
        try {
          decodeFrame(number, payload);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      },
    ),
    { numRuns: 3000 },
  );
});

// A writer once wrote to the buffer that its growth had just replaced.
test("ByteWriter keeps every field when it grows", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 40 }),
      fc.array(fc.tuple(fc.nat(3), u32)),
      (capacity, fields) => {
        const writer = new ByteWriter(capacity);
        for (const [width, value] of fields) {
          if (width === 0) writer.u8(value & 0xff);
          else if (width === 1) writer.u16(value & 0xffff);
          else if (width === 2) writer.u32(value);
          else writer.blob(new Uint8Array(value % 50).fill(value & 0xff));
        }
        const reader = new ByteReader(writer.finish());
        for (const [width, value] of fields) {
          if (width === 0) expect(reader.u8()).toBe(value & 0xff);
          else if (width === 1) expect(reader.u16()).toBe(value & 0xffff);
          else if (width === 2) expect(reader.u32()).toBe(value);
          else expect(reader.blob(50)).toEqual(new Uint8Array(value % 50).fill(value & 0xff));
        }
        reader.end();
      },
    ),
  );
});

test("ByteWriter.text() cuts at a character and ByteReader.text() reads the rest", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 50 }), fc.nat(60), (given, bytesMax) => {
      fc.pre(given.isWellFormed());
      const read = new ByteReader(new ByteWriter().text(given, bytesMax).finish()).text(bytesMax);
      expect(given.startsWith(read)).toBe(true);
    }),
  );
});

// A decoder that drops a byte order mark makes two names one, and what it decoded cannot be encoded again.
test("ByteReader.text() keeps a byte order mark", () => {
  const given = "\uFEFFdisk";
  expect(new ByteReader(new ByteWriter().text(given, 50).finish()).text(50)).toBe(given);
});

test("fromBase64Url() gives back what toBase64Url() took", () => {
  fc.assert(
    fc.property(fc.uint8Array(), (given) => {
      const encoded = toBase64Url(given);
      expect(encoded).toBe(Buffer.from(given).toString("base64url"));
      expect(fromBase64Url(encoded)).toEqual(given);
    }),
  );
});

const bare = fc.record({
  relayUrl: fc.constantFrom("https://relay.example:8443", "https://[::1]:9", "https://10.0.0.1"),
  certificateHashes: fc.array(bytes(32), { maxLength: 4 }),
  sessionId: bytes(16),
  role,
  token: bytes(32),
  secret: bytes(32),
});
const TICKET_FIXTURE =
  "memferry1_AQEBAQEBAQEBAQEBAQEBAQECAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDGgBodHRwczovL3JlbGF5LmV4YW1wbGU6ODQ0MwIEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFAQYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYG";

/** An identity stands beside the certificates that it may replace, or not at all. */
const ticket = fc
  .tuple(bare, fc.option(bytes(32), { nil: undefined }))
  .map(([given, relayIdentity]) =>
    relayIdentity === undefined || given.certificateHashes.length === 0
      ? given
      : { ...given, relayIdentity },
  );

test("decodeTicket() gives back what encodeTicket() took, also with space around it", () => {
  fc.assert(
    fc.property(ticket, (given) => {
      expect(decodeTicket(`  ${encodeTicket(given)}\n`)).toEqual(given);
    }),
  );
});

test("decodeTicket() refuses what is damaged without repeating a part of it", () => {
  fc.assert(
    fc.property(ticket, fc.nat(), (given, cut) => {
      const whole = encodeTicket(given);
      const damaged = whole.slice(0, cut % whole.length);
      try {
        decodeTicket(damaged);
        expect.unreachable();
      } catch (error) {
        expect(error).toMatchObject({ code: "TICKET_MALFORMED" });
        const told = String(error);
        const body = whole.slice(TICKET_PREFIX.length);
        for (let i = 0; i + 12 < body.length; i += 12)
          expect(told).not.toContain(body.slice(i, i + 12));
      }
    }),
  );
});

test("decodeTicket() refuses an identity without certificates, and a flag that is none", () => {
  fc.assert(
    fc.property(bare, bytes(32), fc.integer({ min: 2, max: 255 }), (given, identity, flag) => {
      const alone = { ...given, certificateHashes: [], relayIdentity: identity };
      const flagged = Buffer.from(encodeTicket(given).slice(TICKET_PREFIX.length), "base64url");
      flagged[flagged.length - 1] = flag;
      for (const text of [encodeTicket(alone), TICKET_PREFIX + flagged.toString("base64url")]) {
        expect(() => decodeTicket(text)).toThrow(
          expect.objectContaining({ code: "TICKET_MALFORMED" }),
        );
      }
    }),
  );
});

test("decodeTicket() reads the ticket of the fixture", () => {
  // The format is a contract between releases: this text is never to change.
  expect(decodeTicket(TICKET_FIXTURE)).toEqual({
    relayUrl: "https://relay.example:8443",
    certificateHashes: [new Uint8Array(32).fill(4), new Uint8Array(32).fill(5)],
    relayIdentity: new Uint8Array(32).fill(6),
    sessionId: new Uint8Array(16).fill(1),
    role: "leecher",
    token: new Uint8Array(32).fill(2),
    secret: new Uint8Array(32).fill(3),
  });
});

function streamOf(pieces: readonly Uint8Array[]): ByteStream {
  const left = [...pieces];
  return {
    read: () => Promise.resolve(left.shift() ?? null),
    write: () => Promise.resolve(),
    end: () => Promise.resolve(),
    abort: () => undefined,
    closed: new Promise(() => undefined),
  };
}

test("MessageReader finds frames however the bytes are cut, and hands over the rest", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(frame, { maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      fc.uint8Array({ maxLength: 4 }),
      async (frames, cuts, rest) => {
        const whole = Buffer.concat([...frames.map((f) => encodeFrame(f)), rest]);
        const pieces: Uint8Array[] = [];
        for (let at = 0, i = 0; at < whole.length; i++) {
          const end = at + (cuts[i % cuts.length] ?? 1);
          pieces.push(Uint8Array.from(whole.subarray(at, end)));
          at = end;
        }
        const reader = new MessageReader(streamOf(pieces));
        for (const expected of frames) {
          expect(await readFrame(reader, 1 << 20)).toEqual(expected);
        }
        if (rest.length === 0) expect(await readFrame(reader, 1 << 20)).toBeNull();
        else
          await expect(readFrame(reader, 1 << 20)).rejects.toMatchObject({
            code: "FRAME_MALFORMED",
          });
      },
    ),
    { numRuns: 100 },
  );
});

test("MessageReader refuses a frame by its header alone", async () => {
  const header = new ByteWriter()
    .u32(1 << 30)
    .u8(1)
    .finish();
  await expect(new MessageReader(streamOf([header])).next(512)).rejects.toMatchObject({
    code: "FRAME_TOO_LARGE",
  });
});

test("error numbers and frame numbers are each used once", () => {
  const numbers = Object.values(ProtocolErrorNumber);
  expect(new Set(numbers).size).toBe(numbers.length);
});
