/**
 * The two datagrams by which a peer learns how its UDP socket looks from outside. README.md has the table.
 *
 * The request is longer than any answer, and an answer is only given to who holds a token that came over the
 * relay's TLS, so the port is of no use to anybody who wants to flood a third. First bytes are below 0x40, which
 * no packet of QUIC has (RFC 9443), so both may share a socket.
 *
 * @module
 */
import { ByteReader, ByteWriter } from "./bytes.ts";
import { ProtocolError } from "./errors.ts";
import { formatIpAddress, parseIpAddress, unmapped } from "./ip-address.ts";

export const DISCOVERY_VERSION = 1;
export const DISCOVERY_REQUEST_BYTES = 128;
/** Of an IPv6 address; that of an IPv4 address is shorter. */
export const DISCOVERY_RESPONSE_BYTES_MAX = 51;
export const DISCOVERY_TRANSACTION_BYTES = 12;
export const DISCOVERY_TOKEN_BYTES = 16;
const MAC_BYTES = 16;

const REQUEST_MAGIC = Uint8Array.of(0x0c, 0x6d, 0x66, 0x71);
const RESPONSE_MAGIC = Uint8Array.of(0x0c, 0x6d, 0x66, 0x61);

export interface DiscoveryRequest {
  /** Random; the answer repeats it. */
  readonly transactionId: Uint8Array;
  readonly token: Uint8Array;
}

export interface DiscoveryResponse {
  readonly transactionId: Uint8Array;
  /** The sender as the relay saw it: IPv4 dotted, or IPv6 in its shortest form. */
  readonly address: string;
  readonly port: number;
}

/** HMAC-SHA-256 of `message` under `key`: 32 bytes. */
export type DiscoveryMac = (key: Uint8Array, message: Uint8Array) => Uint8Array;

export function encodeDiscoveryRequest(request: DiscoveryRequest): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter(DISCOVERY_REQUEST_BYTES);
  writer.bytes(REQUEST_MAGIC).u8(DISCOVERY_VERSION).bytes(request.transactionId);
  writer.bytes(request.token);
  return writer.bytes(new Uint8Array(DISCOVERY_REQUEST_BYTES - writer.length)).finish();
}

/** @returns Undefined for what is no request of this version, byte for byte. */
export function decodeDiscoveryRequest(bytes: Uint8Array): DiscoveryRequest | undefined {
  if (bytes.length !== DISCOVERY_REQUEST_BYTES || !startsWith(bytes, REQUEST_MAGIC)) {
    return undefined;
  }
  const reader = new ByteReader(bytes.subarray(REQUEST_MAGIC.length));
  if (reader.u8() !== DISCOVERY_VERSION) return undefined;
  const transactionId = reader.bytes(DISCOVERY_TRANSACTION_BYTES);
  const token = reader.bytes(DISCOVERY_TOKEN_BYTES);
  return reader.rest().every((byte) => byte === 0) ? { transactionId, token } : undefined;
}

/** @throws ProtocolError `FRAME_MALFORMED` if `address` is none. */
export function encodeDiscoveryResponse(
  response: DiscoveryResponse,
  token: Uint8Array,
  mac: DiscoveryMac,
): Uint8Array<ArrayBuffer> {
  const { transactionId, port } = response;
  const parsed = parseIpAddress(response.address);
  if (parsed === undefined) throw new ProtocolError("FRAME_MALFORMED", "not an IP address");
  const address = unmapped(parsed);
  const writer = new ByteWriter(DISCOVERY_RESPONSE_BYTES_MAX);
  writer.bytes(RESPONSE_MAGIC).bytes(transactionId);
  writer.u8(address.length === 4 ? 4 : 6).u16(port ^ portMask(transactionId));
  writer.bytes(masked(address, transactionId));
  return writer.bytes(mac(token, writer.finish()).subarray(0, MAC_BYTES)).finish();
}

/** Whether it claims to be an answer: for who shares a socket with other datagrams. */
export function isDiscoveryResponse(bytes: Uint8Array): boolean {
  return startsWith(bytes, RESPONSE_MAGIC);
}

/** @returns Undefined for what is no answer that a holder of the token has made. */
export function decodeDiscoveryResponse(
  bytes: Uint8Array,
  token: Uint8Array,
  mac: DiscoveryMac,
): DiscoveryResponse | undefined {
  const short = DISCOVERY_RESPONSE_BYTES_MAX - 12;
  if (bytes.length !== short && bytes.length !== DISCOVERY_RESPONSE_BYTES_MAX) return undefined;
  if (!isDiscoveryResponse(bytes)) return undefined;
  const signed = bytes.subarray(0, -MAC_BYTES);
  if (!equal(bytes.subarray(-MAC_BYTES), mac(token, signed).subarray(0, MAC_BYTES))) {
    return undefined;
  }
  const reader = new ByteReader(signed.subarray(RESPONSE_MAGIC.length));
  const transactionId = reader.bytes(DISCOVERY_TRANSACTION_BYTES);
  const family = reader.u8();
  const port = reader.u16() ^ portMask(transactionId);
  const address = masked(reader.rest(), transactionId);
  const isOfFamily = address.length === (family === 4 ? 4 : 16) && (family === 4 || family === 6);
  // An IPv4 address has one form here, and it is the short one.
  if (!isOfFamily || port === 0 || unmapped(address) !== address) return undefined;
  return { transactionId, address: formatIpAddress(address), port };
}

/** There and back: some NATs rewrite every occurrence of an address, so it is never sent plain (RFC 8489, 14.2). */
function masked(address: Uint8Array, transactionId: Uint8Array): Uint8Array {
  const mask = Uint8Array.of(...transactionId, ...RESPONSE_MAGIC);
  return address.map((byte, i) => byte ^ (mask[i] ?? 0));
}

function portMask(transactionId: Uint8Array): number {
  return (transactionId[10] ?? 0) | ((transactionId[11] ?? 0) << 8);
}

function startsWith(bytes: Uint8Array, magic: Uint8Array): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/** In the same time wherever they differ. */
function equal(a: Uint8Array, b: Uint8Array): boolean {
  let different = a.length ^ b.length;
  for (const [i, byte] of a.entries()) different |= byte ^ (b[i] ?? 0);
  return different === 0;
}
