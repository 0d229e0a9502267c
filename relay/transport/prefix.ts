/**
 * Which addresses count as one: who has one of them has the rest, or nearly.
 *
 * @module
 */
import { formatIpAddress, parseIpAddress, unmapped } from "../protocol/ip-address.ts";

const IPV4_PREFIX_BYTES = 3;
const IPV6_PREFIX_BYTES = 8;

/**
 * @param address As a socket tells it: perhaps with a zone, IPv4 perhaps mapped into IPv6.
 * @returns `203.0.113.0/24`, `2001:db8::/64`; `unknown` for what is no address.
 */
export function prefixOf(address: string): string {
  const bytes = parseIpAddress(address.replace(/%.*$/s, ""));
  if (bytes === undefined) return "unknown";
  const plain = unmapped(bytes);
  const isIpv4 = plain.length === 4;
  const kept = isIpv4 ? IPV4_PREFIX_BYTES : IPV6_PREFIX_BYTES;
  const prefix = new Uint8Array(plain.length);
  prefix.set(plain.subarray(0, kept));
  return `${formatIpAddress(prefix)}/${kept * 8}`;
}
