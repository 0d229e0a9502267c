/**
 * The ticket: everything one peer needs to join one session in one role, once.
 *
 * It is shown to a person and carried outside the relay. The relay knows `token` (as a hash) and never
 * learns `secret`, from which both peers derive the keys of the sealed channel.
 *
 * @module
 */
import { ByteReader, ByteWriter, fromBase64Url, toBase64Url } from "./bytes.ts";
import { ProtocolError } from "./errors.ts";
import {
  RELAY_IDENTITY_BYTES,
  ROLES,
  SESSION_ID_BYTES,
  TICKET_SECRET_BYTES,
  TICKET_TOKEN_BYTES,
  type Role,
} from "./ids.ts";
import { RELAY_CERTIFICATES_MAX } from "./limits.ts";

/** Prefix of a ticket's text; the digit is the version of what follows. */
export const TICKET_PREFIX = "memferry1_";

const URL_BYTES_MAX = 512;
const CERTIFICATE_HASH_BYTES = 32;
/** No identity; one follows. */
const IDENTITY_FLAGS = [false, true] as const;
const TICKET_TEXT_MAX = 2048;

export interface Ticket {
  /** `https://host:port`. */
  readonly relayUrl: string;
  /** SHA-256 of the relay's certificates; empty if the system's trust store decides. */
  readonly certificateHashes: readonly Uint8Array[];
  /**
   * The relay's identity (ed25519), which vouches for certificates that come after those above. Only together
   * with hashes: where the trust store decides, nobody needs to vouch.
   */
  readonly relayIdentity?: Uint8Array;
  readonly sessionId: Uint8Array;
  readonly role: Role;
  readonly token: Uint8Array;
  readonly secret: Uint8Array;
}

export function encodeTicket(ticket: Ticket): string {
  const writer = new ByteWriter();
  writer.u8(ROLES.indexOf(ticket.role));
  writer.bytes(ticket.sessionId).bytes(ticket.token).bytes(ticket.secret);
  writer.text(ticket.relayUrl, URL_BYTES_MAX);
  writer.u8(ticket.certificateHashes.length);
  for (const hash of ticket.certificateHashes) writer.bytes(hash);
  writer.u8(ticket.relayIdentity === undefined ? 0 : 1);
  if (ticket.relayIdentity !== undefined) writer.bytes(ticket.relayIdentity);
  return TICKET_PREFIX + toBase64Url(writer.finish());
}

/** @throws ProtocolError `TICKET_MALFORMED`, never with a part of the ticket in its message. */
export function decodeTicket(text: string): Ticket {
  const trimmed = text.trim();
  if (!trimmed.startsWith(TICKET_PREFIX) || trimmed.length > TICKET_TEXT_MAX) {
    throw new ProtocolError(
      "TICKET_MALFORMED",
      `this is not a ticket: one starts with ${TICKET_PREFIX} and is printed by \`memferry seed\``,
    );
  }
  try {
    const reader = new ByteReader(fromBase64Url(trimmed.slice(TICKET_PREFIX.length)));
    const role = ROLES[reader.u8()];
    const sessionId = reader.bytes(SESSION_ID_BYTES);
    const token = reader.bytes(TICKET_TOKEN_BYTES);
    const secret = reader.bytes(TICKET_SECRET_BYTES);
    const relayUrl = reader.text(URL_BYTES_MAX);
    const hashCount = reader.u8();
    if (role === undefined || hashCount > RELAY_CERTIFICATES_MAX || !isOrigin(relayUrl)) {
      throw new ProtocolError("TICKET_MALFORMED", "a field is out of range");
    }
    const certificateHashes: Uint8Array[] = [];
    for (let i = 0; i < hashCount; i++)
      certificateHashes.push(reader.bytes(CERTIFICATE_HASH_BYTES));
    const identified = IDENTITY_FLAGS[reader.u8()];
    if (identified === undefined || (identified && hashCount === 0)) {
      throw new ProtocolError("TICKET_MALFORMED", "a field is out of range");
    }
    const identity = identified ? { relayIdentity: reader.bytes(RELAY_IDENTITY_BYTES) } : {};
    reader.end();
    return { relayUrl, certificateHashes, ...identity, sessionId, role, token, secret };
  } catch (cause) {
    throw new ProtocolError(
      "TICKET_MALFORMED",
      "this ticket is damaged: copy it again, whole, from the output of `memferry seed`",
      { cause },
    );
  }
}

/** `https://` or `http://`, a host, a port, and nothing else. */
function isOrigin(url: string): boolean {
  return /^https?:\/\/(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?$/.test(url);
}
