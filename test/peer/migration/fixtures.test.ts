/**
 * The migration protocol's bytes are those that were recorded (`test/fixtures/README.md`), and versions get along.
 */
import { expect, test } from "vitest";

import { unseal } from "../../../peer/journal/envelope.ts";
import { leecherCodec, seederCodec } from "../../../peer/journal/records.ts";
import { MessageChannel } from "../../../peer/migration/channel.ts";
import {
  leecherHandshake,
  MIGRATION_MAJOR,
  seederHandshake,
  type ChannelKeys,
} from "../../../peer/migration/handshake.ts";
import { decodeMessage } from "../../../peer/migration/messages.ts";
import { MessageReader } from "../../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import {
  fixedHandshake,
  HANDSHAKE_CONTEXT,
  HANDSHAKE_FEATURES,
  HANDSHAKE_STREAMS,
  sealedStream,
} from "../../fixtures/handshake.ts";
import { JOURNAL_SESSION_ID, leecherJournals, seederJournals } from "../../fixtures/journals.ts";
import { otherLeecher, otherSeeder } from "../../fixtures/other-version.ts";
import {
  allMessages,
  recordHandshake,
  recordJournals,
  recordMessages,
} from "../../fixtures/peer-recordings.ts";
import { hexOf, recordedBytes, type Recorded } from "../../fixtures/wire-file.ts";
import { pipe } from "../../support/wire.ts";

const messages = recordedBytes("messages");
const journals = recordedBytes("journals");

const hexNow = (recorded: readonly Recorded[]): Record<string, string> =>
  hexOf(recorded.map(({ name, bytes }) => [name, bytes] as const));

test("encodeMessage() gives the recorded bytes", () => {
  expect(hexNow(recordMessages())).toEqual(hexOf(messages));
});

test("decodeMessage() gives the values of the recorded bytes", () => {
  for (const { name, value } of allMessages) {
    expect(decodeMessage(messages.get(name) ?? new Uint8Array()), name).toEqual(value);
  }
});

test("every number that decodeMessage() knows is recorded", () => {
  const recorded = new Set([...messages.values()].map((bytes) => bytes[0]));
  const known = Array.from({ length: 256 }, (_, number) => number).filter(isKnown);
  expect(recorded).toEqual(new Set(known));
});

/** A number that is not known is passed over, whatever follows it; else nothing is a message or an error. */
function isKnown(number: number): boolean {
  try {
    return decodeMessage(Uint8Array.of(number)) !== undefined;
  } catch {
    return true;
  }
}

test("a handshake with the recorded keys gives the recorded bytes, secrets and records", async () => {
  expect(hexNow(await recordHandshake())).toEqual(hexOf(recordedBytes("handshake")));
});

test("both sides of the recorded handshake agree", async () => {
  const { seeder, leecher } = await fixedHandshake();
  expect(seeder).toEqual(leecher);
  expect(seeder).toMatchObject({
    dataStreams: HANDSHAKE_STREAMS,
    features: HANDSHAKE_FEATURES.seeder & HANDSHAKE_FEATURES.leecher,
  });
});

test("SealedStream opens the recorded records", async () => {
  const recorded = recordedBytes("handshake");
  const keys = (await fixedHandshake()).seeder;
  const { a, b } = pipe();
  for (const which of ["first", "second"]) {
    await a.write(recorded.get(`record, ${which} of stream 2`) ?? new Uint8Array());
  }
  const opened = new MessageChannel(sealedStream(b, keys, "receives"));
  expect(await opened.receive()).toEqual({ kind: "ping", nonce: 0 });
  expect(await opened.receive()).toEqual({ kind: "ping", nonce: 1 });
});

test("a journal gives the recorded bytes, and what is recorded can be read", () => {
  expect(hexNow(recordJournals())).toEqual(hexOf(journals));
  const bodyOf = (name: string): unknown =>
    unseal("journal", JOURNAL_SESSION_ID, journals.get(name) ?? new Uint8Array(), name);
  for (const { name, value } of seederJournals) {
    expect(seederCodec.decode(bodyOf(name)), name).toEqual(value);
  }
  for (const { name, value } of leecherJournals) {
    expect(leecherCodec.decode(bodyOf(name)), name).toEqual(value);
  }
});

const FEATURES = 0b0101;
const ours = { ...HANDSHAKE_CONTEXT, features: FEATURES };

function secretsOf(keys: ChannelKeys): string[] {
  return [keys.seederToLeecher, keys.leecherToSeeder].map((bytes) =>
    Buffer.from(bytes).toString("hex"),
  );
}

test("a later minor version with more features is understood by both sides", async () => {
  const later = {
    ...HANDSHAKE_CONTEXT,
    major: MIGRATION_MAJOR,
    minor: 0xffff,
    features: 0xffff_fff0 | 0b0100,
  };
  const one = pipe();
  const [seeder, theirs] = await Promise.all([
    seederHandshake(one.a, new MessageReader(one.a), ours),
    otherLeecher(one.b, later),
  ]);
  expect(secretsOf(seeder)).toEqual(theirs);
  // Of what we do not have, nothing is agreed on.
  expect(seeder.features).toBe(0b0100);

  const two = pipe();
  const [leecher, answered] = await Promise.all([
    leecherHandshake(two.b, new MessageReader(two.b), { ...ours, dataStreams: 1 }),
    otherSeeder(two.a, later),
  ]);
  expect(secretsOf(leecher)).toEqual(answered);
  expect(leecher.features).toBe(0b0100);
});

test("another major version is refused by both sides, which name the two", async () => {
  const major = MIGRATION_MAJOR + 1;
  const refusal = {
    code: "VERSION_UNSUPPORTED",
    message: expect.stringMatching(`version ${major} .* this one ${MIGRATION_MAJOR}`) as unknown,
  };
  const next = { ...HANDSHAKE_CONTEXT, major, minor: 0, features: 0 };
  const one = pipe();
  const [refused] = await Promise.allSettled([
    closing(one.a, seederHandshake(one.a, new MessageReader(one.a), ours)),
    otherLeecher(one.b, next),
  ]);
  expect(refused).toMatchObject({ reason: refusal });

  const two = pipe();
  const [refusedToo] = await Promise.allSettled([
    closing(two.b, leecherHandshake(two.b, new MessageReader(two.b), { ...ours, dataStreams: 1 })),
    otherSeeder(two.a, next),
  ]);
  expect(refusedToo).toMatchObject({ reason: refusal });
});

/** Whoever refuses closes. */
async function closing<T>(stream: ByteStream, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } finally {
    stream.abort("LINK_CLOSED", "refused");
  }
}

test("MessageChannel.receive() passes over the numbers of a later minor version", async () => {
  const { seeder: keys } = await fixedHandshake();
  const { a, b } = pipe();
  const sender = sealedStream(a, keys);
  for (const bytes of [[250, 1, 2, 3], [0], [13, 9], [...(messages.get("ping: plain") ?? [])]]) {
    await sender.send(Uint8Array.from(bytes));
  }
  const channel = new MessageChannel(sealedStream(b, keys, "receives"));
  expect(await channel.receive()).toEqual({ kind: "ping", nonce: 2 });
});
