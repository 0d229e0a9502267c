/**
 * Between an agent and the relay: JSON messages on one WebSocket connection, and what is signed and sealed.
 *
 * ```
 * agent                                          relay
 *   ←  challenge { nonce, identity }
 *   login { peerId, signature, enrollment? }  →
 *   ←  welcome { peerId, name }                    or refused { code, message }, and the end
 *   report { host, capabilities, regions, ... }  →  again whenever something changed
 *   ←  order { id, kind, body }                    again after each login until the agent has said that it is over
 *   orderState { id, state, ... }  →               again until the relay has kept it
 *   ←  orderKept { id, state }
 *   ←  probe {}                                    a report is due
 * ```
 *
 * Both sides look at every field of what the other one says (`relay/agents/messages.ts`,
 * `peer/agent/messages.ts`).
 *
 * @module
 */
import { ByteReader, ByteWriter, fromBase64Url, toBase64Url } from "./bytes.ts";
import { ProtocolError } from "./errors.ts";
import { RELAY_IDENTITY_BYTES, type Role } from "./ids.ts";
import { RELAY_CERTIFICATES_MAX } from "./limits.ts";

/** Where agents connect to. */
export const AGENT_PATH = "/agent";
/** One message, as UTF-8. */
export const AGENT_MESSAGE_BYTES_MAX = 64 * 1024;
/** The relay pings at this interval; a side that heard nothing for three of them takes the connection for lost. */
export const AGENT_PING_MS = 10_000;
export const AGENT_SILENCE_MAX_MS = 3 * AGENT_PING_MS;
/** From the connection to the login. */
export const AGENT_LOGIN_DEADLINE_MS = 10_000;
/** Regions that one agent offers, and hooks, directories and exports that it names. */
export const AGENT_NAMES_MAX = 64;

export const ENROLLMENT_TOKEN_BYTES = 32;

/** Prefix of an enrollment code; the digit is the version of what follows. */
export const ENROLLMENT_PREFIX = "memferry1e_";

const HASH_BYTES = 32;
const CODE_CHARS_MAX = 1024;

/** Names that the relay may pick from an agent's own configuration. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Whether it may be the name of a region, hook, directory or export: never a path. */
export function isAgentName(text: string): boolean {
  return NAME.test(text);
}

/** Everything that a host needs to become a peer; the relay keeps a hash of `token` alone. */
export interface EnrollmentCode {
  readonly token: Uint8Array;
  /** SHA-256 of the relay's certificates; empty if the system's trust store decides. */
  readonly certificateHashes: readonly Uint8Array[];
  /** The relay's ed25519 public key. */
  readonly relayIdentity: Uint8Array;
}

export function encodeEnrollmentCode(code: EnrollmentCode): string {
  const writer = new ByteWriter();
  writer.bytes(code.token).bytes(code.relayIdentity).u8(code.certificateHashes.length);
  for (const hash of code.certificateHashes) writer.bytes(hash);
  return ENROLLMENT_PREFIX + toBase64Url(writer.finish());
}

/** @throws ProtocolError `TICKET_MALFORMED`, never with a part of the code in its message. */
export function decodeEnrollmentCode(text: string): EnrollmentCode {
  const damaged = (cause?: unknown): ProtocolError =>
    new ProtocolError(
      "TICKET_MALFORMED",
      `this is no enrollment code: one starts with ${ENROLLMENT_PREFIX} and is in the answer of POST /v1/enrollments`,
      { cause },
    );
  const trimmed = text.trim();
  if (!trimmed.startsWith(ENROLLMENT_PREFIX) || trimmed.length > CODE_CHARS_MAX) throw damaged();
  try {
    const reader = new ByteReader(fromBase64Url(trimmed.slice(ENROLLMENT_PREFIX.length)));
    const token = reader.bytes(ENROLLMENT_TOKEN_BYTES);
    const relayIdentity = reader.bytes(RELAY_IDENTITY_BYTES);
    const hashCount = reader.u8();
    if (hashCount > RELAY_CERTIFICATES_MAX) throw damaged();
    const certificateHashes = Array.from({ length: hashCount }, () => reader.bytes(HASH_BYTES));
    reader.end();
    return { token, relayIdentity, certificateHashes };
  } catch (cause) {
    throw damaged(cause);
  }
}

const encoder = new TextEncoder();

function labelled(label: string, ...parts: readonly Uint8Array[]): Uint8Array {
  const writer = new ByteWriter();
  const name = encoder.encode(label);
  writer.u8(name.length).bytes(name);
  for (const part of parts) writer.u32(part.length).bytes(part);
  return writer.finish();
}

/** What an agent signs to log in: good at this relay, for this connection, and for nothing else. */
export function agentLoginMessage(login: {
  /** The relay's identity, as the agent knows it. */
  readonly relayIdentity: Uint8Array;
  /** The relay's challenge: 32 bytes, new for each connection. */
  readonly nonce: Uint8Array;
  readonly peerKey: Uint8Array;
}): Uint8Array {
  return labelled("memferry agent login 1", login.relayIdentity, login.nonce, login.peerKey);
}

/** What a peer signs so that others know its X25519 key. */
export function sealingKeyMessage(peerKey: Uint8Array, sealingKey: Uint8Array): Uint8Array {
  return labelled("memferry sealing key 1", peerKey, sealingKey);
}

/** What is authenticated with a ticket's token that the relay seals to a peer (the `info` of HPKE). */
export function sealedTokenInfo(sessionId: Uint8Array, role: Role): Uint8Array {
  return labelled("memferry ticket token 1", sessionId, encoder.encode(role));
}

export interface SecretContext {
  readonly sessionId: Uint8Array;
  readonly seederKey: Uint8Array;
  readonly leecherKey: Uint8Array;
}

/** What is authenticated with the session's secret that the seeder seals to the leecher (the `info` of HPKE). */
export function sealedSecretInfo(context: SecretContext): Uint8Array {
  const { sessionId, seederKey, leecherKey } = context;
  return labelled("memferry session secret 1", sessionId, seederKey, leecherKey);
}

/** What the seeder signs, so that the leecher knows whose secret it is. */
export function sealedSecretMessage(context: SecretContext, sealed: SealedBytes): Uint8Array {
  return labelled(
    "memferry sealed secret 1",
    sealedSecretInfo(context),
    sealed.encapsulated,
    sealed.ciphertext,
  );
}

/** HPKE's two outputs: base mode, X25519, HKDF-SHA256, AES-256-GCM (RFC 9180). */
export interface SealedBytes {
  readonly encapsulated: Uint8Array;
  readonly ciphertext: Uint8Array;
}

/** The same in base64url, as messages and orders carry it. */
export interface SealedText {
  readonly encapsulated: string;
  readonly ciphertext: string;
}

/** A session's secret on its way: sealed to the leecher, signed by the seeder. */
export interface SignedSealedText extends SealedText {
  readonly signature: string;
}

export function sealedToText(sealed: SealedBytes): SealedText {
  return {
    encapsulated: toBase64Url(sealed.encapsulated),
    ciphertext: toBase64Url(sealed.ciphertext),
  };
}

/** @throws ProtocolError `FRAME_MALFORMED` */
export function sealedFromText(text: SealedText): SealedBytes {
  return {
    encapsulated: fromBase64Url(text.encapsulated),
    ciphertext: fromBase64Url(text.ciphertext),
  };
}

/** Why an order failed before anything moved, or without anything that moves saying so itself. */
export const ORDER_PROBLEMS = [
  "AGENT_FAILED",
  "DIRECTORY_UNKNOWN",
  "DISK_TOO_SMALL",
  "EXPORT_NOT_ALLOWED",
  "HOOK_NOT_NAMED",
  "KEY_UNTRUSTED",
  "ORDER_EXPIRED",
  "ORDER_INVALID",
  "ORDER_LOST",
  "ORDER_UNSUPPORTED",
  "PATH_OUTSIDE",
  "PEER_NOT_ALLOWED",
  "REGION_NOT_OFFERED",
  "REGION_TOO_LARGE",
  "SECRET_UNREADABLE",
] as const;
export type OrderProblemCode = (typeof ORDER_PROBLEMS)[number];

/** A peer, as orders name one to another: who receives a secret checks the signature against `id`. */
export interface OrderPeer {
  /** The ed25519 public key, 64 hexadecimal digits. */
  readonly id: string;
  /** X25519 and its signature, base64url. */
  readonly sealingKey: string;
  readonly sealingKeySignature: string;
}

/** What orders that move a region have in common. */
interface MoveOrder {
  readonly sessionId: string;
  /** The ticket's token, sealed to the peer that gets the order. */
  readonly token: SealedText;
}

export interface SeedOrder extends MoveOrder {
  readonly region: string;
  readonly to: OrderPeer;
  readonly hooks: {
    readonly suspend?: string | undefined;
    readonly rollback?: string | undefined;
    readonly release?: string | undefined;
  };
}

export const ORDERED_MODES = ["live", "precopy", "postcopy"] as const;
export type OrderedMode = (typeof ORDERED_MODES)[number];

export interface LeechOrder extends MoveOrder {
  readonly from: OrderPeer;
  /** Absent until the seeder has made it; the order is not delivered before. */
  readonly secret?: SignedSealedText | undefined;
  /** The file's name in the directory. */
  readonly region: string;
  readonly bytes: number;
  readonly directory?: string | undefined;
  readonly export?: string | undefined;
  readonly mode: OrderedMode;
  /** `auto`, `manual`, or a percentage. */
  readonly finalize: string;
  readonly downtimeBudgetMs?: number | undefined;
  readonly hooks: { readonly resume?: string | undefined };
}

/** Ends the work of another order of the same peer. */
export interface CancelOrder {
  readonly orderId: string;
}
