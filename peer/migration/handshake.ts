/**
 * How seeder and leecher agree on keys that the relay between them cannot learn.
 *
 * HPKE in PSK mode (RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM). The leecher is the
 * recipient with a key pair made for this one handshake, the seeder encapsulates to it with an ephemeral
 * key of its own, and the ticket's secret is the pre-shared key. So both sides prove that they hold the
 * ticket, and what was recorded stays closed even if the ticket leaks later. Each side then confirms the
 * whole transcript, which makes a downgrade or a swapped key an error here and not later.
 *
 * ```
 * leecher                                      seeder
 *   offer  { version, streams, public key, nonce }  →
 *   ←  answer { version, encapsulated key, nonce, confirmation }
 *   confirm { confirmation }  →
 * ```
 *
 * @module
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import { ByteReader, ByteWriter } from "../../relay/protocol/bytes.ts";
import type { MessageReader } from "../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import { MigrationError } from "../errors.ts";
import { relayRefusal } from "./sealed-stream.ts";

/** Another major version is refused, with both named. */
export const MIGRATION_MAJOR = 1;
export const MIGRATION_MINOR = 0;

/** Optional abilities, which both sides must have. */
export const FEATURES = {
  /** Takes chunks in parts. */
  parts: 1,
} as const;
/** Those that this version has. */
export const OWN_FEATURES = FEATURES.parts;

/** Data streams that a leecher may ask for. */
export const DATA_STREAMS_MAX = 64;

const KEY_BYTES = 32;
const NONCE_BYTES = 32;
const MESSAGE_BYTES_MAX = 256;
const OFFER = 1;
const ANSWER = 2;
const CONFIRM = 3;

/** What a finished handshake yields. */
export interface ChannelKeys {
  /** Secrets from which the keys of each stream are derived, one per direction. */
  readonly seederToLeecher: Uint8Array;
  readonly leecherToSeeder: Uint8Array;
  /** Both sides show the same eight hexadecimal digits, or somebody sits between them. */
  readonly fingerprint: string;
  readonly dataStreams: number;
  readonly features: number;
}

export interface HandshakeContext {
  readonly sessionId: Uint8Array;
  /** The ticket's secret: 32 bytes. */
  readonly secret: Uint8Array;
  /** Bits of optional abilities. */
  readonly features: number;
}

/** How the two sides agree on keys. */
export interface Handshake {
  leecher(
    stream: ByteStream,
    reader: MessageReader,
    context: HandshakeContext & { readonly dataStreams: number },
    onOffered?: () => void,
  ): Promise<ChannelKeys>;
  seeder(
    stream: ByteStream,
    reader: MessageReader,
    context: HandshakeContext,
    onKeys?: OnKeys,
  ): Promise<ChannelKeys>;
}

/**
 * The seeder has answered and has the keys; the leecher's proof that it has them too is still to come. What is sealed
 * now is for the holder of the ticket's secret alone, so it may be sent; nothing that comes back counts yet.
 */
export type OnKeys = (keys: ChannelKeys) => void;

/** The one that peers use. */
export const hpkeHandshake: Handshake = { leecher: leecherHandshake, seeder: seederHandshake };

/**
 * Does a handshake with itself: what is slow the first time is done before somebody waits. Changes nothing and fails
 * never.
 */
export async function warmUpHandshake(): Promise<void> {
  try {
    const recipientKey = await suite.kem.generateKeyPair();
    const psk = { id: new ArrayBuffer(KEY_BYTES), key: new ArrayBuffer(KEY_BYTES) };
    const { publicKey: recipientPublicKey } = recipientKey;
    const wire = await suite.kem.serializePublicKey(recipientPublicKey);
    const read = await suite.kem.deserializePublicKey(wire);
    const sender = await suite.createSenderContext({ recipientPublicKey: read, psk });
    const recipient = await suite.createRecipientContext({ recipientKey, enc: sender.enc, psk });
    await exportKeys((label) => recipient.export(label, KEY_BYTES));
  } catch {
    // The handshake itself says what is wrong.
  }
}

const suite = new CipherSuite({
  kem: new DhkemX25519HkdfSha256(),
  kdf: new HkdfSha256(),
  aead: new Aes256Gcm(),
});

/** @throws MigrationError `CHANNEL_REFUSED`, `VERSION_UNSUPPORTED` */
export async function leecherHandshake(
  stream: ByteStream,
  reader: MessageReader,
  context: HandshakeContext & { readonly dataStreams: number },
  onOffered?: () => void,
): Promise<ChannelKeys> {
  const keyPair = await suite.kem.generateKeyPair();
  const publicKey = new Uint8Array(await suite.kem.serializePublicKey(keyPair.publicKey));
  const offer = new ByteWriter()
    .u16(MIGRATION_MAJOR)
    .u16(MIGRATION_MINOR)
    .u32(context.features)
    .u8(context.dataStreams)
    .bytes(context.sessionId)
    .bytes(publicKey)
    .bytes(randomBytes(NONCE_BYTES))
    .finish();
  const offering = stream.write(message(OFFER, offer));
  onOffered?.();
  await offering;

  const answer = await expect(reader, ANSWER);
  const fields = new ByteReader(answer);
  requireMajor(fields.u16());
  fields.u16();
  const features = fields.u32();
  const encapsulated = fields.bytes(KEY_BYTES);
  fields.bytes(NONCE_BYTES);
  const confirmation = fields.bytes(KEY_BYTES);
  fields.end();

  const recipient = await suite
    .createRecipientContext({
      recipientKey: keyPair.privateKey,
      enc: buffer(encapsulated),
      info: buffer(infoOf(offer)),
      psk: { id: buffer(context.sessionId), key: buffer(context.secret) },
    })
    .catch((cause: unknown) => {
      throw refused(cause);
    });
  const transcript = transcriptOf(offer, answer.subarray(0, answer.length - KEY_BYTES));
  const keys = await exportKeys((label) => recipient.export(label, KEY_BYTES));
  requireConfirmation(keys.confirmSeeder, transcript, confirmation);
  await stream.write(message(CONFIRM, confirm(keys.confirmLeecher, transcript)));
  return channelKeys(keys, transcript, context.dataStreams, context.features & features);
}

/** @throws MigrationError `CHANNEL_REFUSED`, `VERSION_UNSUPPORTED` */
export async function seederHandshake(
  stream: ByteStream,
  reader: MessageReader,
  context: HandshakeContext,
  onKeys?: OnKeys,
): Promise<ChannelKeys> {
  const offer = await expect(reader, OFFER);
  const fields = new ByteReader(offer);
  requireMajor(fields.u16());
  fields.u16();
  const features = fields.u32();
  const dataStreams = fields.u8();
  const sessionId = fields.bytes(context.sessionId.length);
  const publicKey = fields.bytes(KEY_BYTES);
  fields.bytes(NONCE_BYTES);
  fields.end();
  if (!timingSafeEqual(sessionId, context.sessionId)) throw refused();
  if (dataStreams < 1 || dataStreams > DATA_STREAMS_MAX) throw refused();

  const sender = await suite
    .createSenderContext({
      recipientPublicKey: await suite.kem.deserializePublicKey(buffer(publicKey)),
      info: buffer(infoOf(offer)),
      psk: { id: buffer(context.sessionId), key: buffer(context.secret) },
    })
    .catch((cause: unknown) => {
      throw refused(cause);
    });
  const body = new ByteWriter()
    .u16(MIGRATION_MAJOR)
    .u16(MIGRATION_MINOR)
    .u32(context.features)
    .bytes(new Uint8Array(sender.enc))
    .bytes(randomBytes(NONCE_BYTES))
    .finish();
  const transcript = transcriptOf(offer, body);
  const keys = await exportKeys((label) => sender.export(label, KEY_BYTES));
  const answer = new ByteWriter().bytes(body).bytes(confirm(keys.confirmSeeder, transcript));
  const finished = channelKeys(keys, transcript, dataStreams, context.features & features);
  await stream.write(message(ANSWER, answer.finish()));
  onKeys?.(finished);

  const confirmation = await expect(reader, CONFIRM);
  requireConfirmation(keys.confirmLeecher, transcript, confirmation);
  return finished;
}

interface ExportedKeys {
  readonly seederToLeecher: Uint8Array;
  readonly leecherToSeeder: Uint8Array;
  readonly confirmSeeder: Uint8Array;
  readonly confirmLeecher: Uint8Array;
}

async function exportKeys(
  exportSecret: (label: ArrayBuffer) => Promise<ArrayBuffer>,
): Promise<ExportedKeys> {
  const secretOf = async (label: string): Promise<Uint8Array> =>
    new Uint8Array(await exportSecret(buffer(new TextEncoder().encode(label))));
  return {
    seederToLeecher: await secretOf("seeder to leecher"),
    leecherToSeeder: await secretOf("leecher to seeder"),
    confirmSeeder: await secretOf("confirm seeder"),
    confirmLeecher: await secretOf("confirm leecher"),
  };
}

function channelKeys(
  keys: ExportedKeys,
  transcript: Uint8Array,
  dataStreams: number,
  features: number,
): ChannelKeys {
  const fingerprint = createHmac("sha256", keys.confirmSeeder)
    .update("fingerprint")
    .update(transcript)
    .digest("hex")
    .slice(0, 8);
  return {
    seederToLeecher: keys.seederToLeecher,
    leecherToSeeder: keys.leecherToSeeder,
    fingerprint: `${fingerprint.slice(0, 4)}-${fingerprint.slice(4)}`,
    dataStreams,
    features,
  };
}

function infoOf(offer: Uint8Array): Uint8Array {
  return createHash("sha256").update("memferry channel 1").update(offer).digest();
}

function transcriptOf(offer: Uint8Array, answer: Uint8Array): Uint8Array {
  return createHash("sha256").update(infoOf(offer)).update(answer).digest();
}

function confirm(key: Uint8Array, transcript: Uint8Array): Uint8Array {
  return createHmac("sha256", key).update(transcript).digest();
}

function requireConfirmation(key: Uint8Array, transcript: Uint8Array, given: Uint8Array): void {
  const wanted = confirm(key, transcript);
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) throw refused();
}

function requireMajor(major: number): void {
  if (major === MIGRATION_MAJOR) return;
  throw new MigrationError(
    "VERSION_UNSUPPORTED",
    `the other peer speaks version ${major} of the migration protocol and this one ${MIGRATION_MAJOR}: install the same major version on both`,
  );
}

function refused(cause?: unknown): MigrationError {
  return new MigrationError(
    "CHANNEL_REFUSED",
    "the other peer does not hold this session's secret: the ticket is for another session, or something between the peers changed the handshake",
    cause === undefined ? undefined : { cause },
  );
}

async function expect(reader: MessageReader, kind: number): Promise<Uint8Array> {
  const received = await reader.next(MESSAGE_BYTES_MAX);
  if (received === null) {
    throw new MigrationError("PEER_LOST", "the other peer left during the handshake");
  }
  if (received.kind !== kind) throw relayRefusal(received) ?? refused();
  return received.payload;
}

function message(kind: number, payload: Uint8Array): Uint8Array {
  return new ByteWriter().u32(payload.length).u8(kind).bytes(payload).finish();
}

/** A copy in an ArrayBuffer of exactly its size, which is what the HPKE library takes. */
function buffer(bytes: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(bytes.length);
  new Uint8Array(copy).set(bytes);
  return copy;
}
