import fc from "fast-check";
import { expect, test } from "vitest";
import { MigrationError } from "../../../peer/errors.ts";
import { PARTS_MAX } from "../../../peer/migration/limits.ts";
import {
  decodeMessage,
  encodeChunksHeader,
  encodeMessage,
  MODES,
  ZERO_OFFSET,
  type Message,
} from "../../../peer/migration/messages.ts";

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const bytes = (count: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: count, maxLength: count });
const rate = fc.double({ min: 0, max: 1e15, noNaN: true });
const page = fc.record({
  first: fc.integer({ min: 0, max: 2 ** 28 }).map((n) => n * 8),
  bits: fc.uint8Array({ minLength: 0, maxLength: 8192 }),
});

const message: fc.Arbitrary<Message> = fc.oneof(
  fc.record({
    kind: fc.constant("offer" as const),
    regions: fc.uniqueArray(
      fc.record({
        name: fc.string({ unit: "binary", maxLength: 60 }).filter((s) => s.isWellFormed()),
        bytes: fc.integer({ min: 1, max: 2 ** 36 }),
      }),
      { minLength: 1, maxLength: 8, selector: (region) => region.name },
    ),
    chunkBytes: fc.integer({ min: 12, max: 22 }).map((n) => 2 ** n),
    hashKey: bytes(32),
    folded: u32,
  }),
  fc.record({
    kind: fc.constant("knows" as const),
    first: u32,
    hashes: fc.integer({ min: 1, max: 20 }).chain((count) => bytes(32 * count)),
  }),
  fc.record({ kind: fc.constant("accept" as const), mode: fc.constantFrom(...MODES) }),
  fc.constant({ kind: "track" as const }),
  fc.record({ kind: fc.constant("tracking" as const), epoch: u32 }),
  page.map((p) => ({ kind: "have" as const, ...p })),
  fc.record({ kind: fc.constant("want" as const), epoch: u32 }),
  fc.record({
    kind: fc.constant("credit" as const),
    bytes: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  }),
  fc.tuple(page, u32).map(([p, epoch]) => ({ kind: "dirty" as const, epoch, ...p })),
  fc.record({
    kind: fc.constant("round" as const),
    round: u32,
    epoch: u32,
    dirtyChunks: u32,
    dirtyBytesPerS: rate,
  }),
  fc.record({ kind: fc.constant("dirtyAck" as const), epoch: u32 }),
  fc.record({ kind: fc.constant("finalize" as const), deadlineMs: u32 }),
  fc.record({
    kind: fc.constant("finalized" as const),
    epoch: u32,
    suspendedForMs: rate,
    dirtyChunks: u32,
    root: fc.option(bytes(32), { nil: undefined }),
  }),
  fc.record({ kind: fc.constant("committed" as const), epoch: u32 }),
  fc.record({
    kind: fc.constant("fault" as const),
    indexes: fc.uint32Array({ minLength: 1, maxLength: 50 }),
  }),
  fc.record({ kind: fc.constant("done" as const), root: bytes(32) }),
  fc.constant({ kind: "released" as const }),
  fc.record({
    kind: fc.constant("abort" as const),
    reason: fc.string({ unit: "grapheme-ascii", maxLength: 200 }),
  }),
  fc.record({ kind: fc.constant("ping" as const), nonce: u32 }),
  fc.record({ kind: fc.constant("pong" as const), nonce: u32 }),
  fc.integer({ min: 2, max: PARTS_MAX }).chain((partCount) =>
    fc.record({
      kind: fc.constant("part" as const),
      serial: u32,
      epoch: u32,
      index: u32,
      part: fc.nat(partCount - 1),
      partCount: fc.constant(partCount),
      hash: bytes(32),
      payload: fc.uint8Array({ minLength: 1, maxLength: 500 }),
    }),
  ),
  fc
    .array(
      fc.record({ index: u32, offset: fc.oneof(u32, fc.constant(ZERO_OFFSET)), hash: bytes(32) }),
      {
        minLength: 1,
        maxLength: 20,
      },
    )
    .chain((entries) =>
      fc.record({
        kind: fc.constant("chunks" as const),
        epoch: u32,
        indexes: fc.constant(Uint32Array.from(entries, (e) => e.index)),
        offsets: fc.constant(Uint32Array.from(entries, (e) => e.offset)),
        hashes: fc.constant(Uint8Array.from(entries.flatMap((e) => [...e.hash]))),
        payload: fc.uint8Array({ maxLength: 500 }),
      }),
    ),
);

test("decodeMessage() gives back what encodeMessage() took", () => {
  fc.assert(
    fc.property(message, (given) => {
      expect(decodeMessage(encodeMessage(given))).toEqual(given);
    }),
    { numRuns: 500 },
  );
});

test("decodeMessage() refuses every truncation with a code", () => {
  fc.assert(
    fc.property(message, fc.nat(), (given, cut) => {
      // What ends with bytes of any length is whole at any length.
      fc.pre(given.kind !== "chunks" && given.kind !== "part");
      const whole = encodeMessage(given);
      const part = whole.subarray(0, cut % whole.length);
      expect(() => decodeMessage(part)).toThrow(MigrationError);
    }),
  );
});

test("decodeMessage() never throws anything but a MigrationError, whatever it is given", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 30 }),
      fc.uint8Array({ maxLength: 300 }),
      (number, rest) => {
        try {
          decodeMessage(Uint8Array.of(number, ...rest));
        } catch (error) {
          expect(error).toBeInstanceOf(MigrationError);
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test("decodeMessage() allocates nothing by a count that it has no bytes for", () => {
  const huge = Uint8Array.of(21, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff);
  expect(() => decodeMessage(huge)).toThrow(/chunk count 4294967295/);
});

test("decodeMessage() passes over a number of a later version", () => {
  expect(decodeMessage(Uint8Array.of(250, 1, 2, 3))).toBeUndefined();
});

test("encodeChunksHeader() and the payload after it are the message's bytes", () => {
  const chunks = {
    kind: "chunks" as const,
    epoch: 7,
    indexes: Uint32Array.of(3, 9),
    offsets: Uint32Array.of(0, ZERO_OFFSET),
    hashes: new Uint8Array(64).fill(5),
    payload: Uint8Array.of(1, 2, 3),
  };
  const joined = Buffer.concat([encodeChunksHeader(chunks), chunks.payload]);
  expect(Buffer.compare(joined, encodeMessage(chunks))).toBe(0);
});
