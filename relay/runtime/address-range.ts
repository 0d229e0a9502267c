/**
 * Ranges of IP addresses, as operators write them: `10.0.0.0/8`, `fd00::/8`, `192.0.2.7`.
 *
 * @module
 */
import { formatIpAddress, parseIpAddress, unmapped } from "../protocol/ip-address.ts";

export interface AddressRange {
  /** 4 or 16, in network order; those after the prefix are 0. */
  readonly bytes: Uint8Array;
  readonly prefixBits: number;
}

/** @returns Undefined for what is no range; bits after the prefix must be 0, or somebody meant another range. */
export function parseAddressRange(text: string): AddressRange | undefined {
  const [address = "", bits, ...more] = text.split("/");
  const bytes = parseIpAddress(address);
  if (bytes === undefined || more.length > 0) return undefined;
  if (bits !== undefined && !/^(?:0|[1-9]\d{0,2})$/.test(bits)) return undefined;
  const prefixBits = bits === undefined ? bytes.length * 8 : Number(bits);
  if (prefixBits > bytes.length * 8) return undefined;
  const range = { bytes, prefixBits };
  const outside = bytes.some((byte, i) => (byte & ~maskOf(prefixBits, i)) !== 0);
  return outside ? undefined : range;
}

/** Whether an address, of 4 or 16 bytes, is in the range; one of IPv4 in IPv6 clothing counts as what it is. */
export function inRange(address: Uint8Array, range: AddressRange): boolean {
  const plain = unmapped(address);
  return (
    plain.length === range.bytes.length &&
    plain.every((byte, i) => (byte & maskOf(range.prefixBits, i)) === range.bytes[i])
  );
}

export function formatAddressRange({ bytes, prefixBits }: AddressRange): string {
  return `${formatIpAddress(bytes)}/${prefixBits}`;
}

/** The bits of the byte at `i` that are part of the prefix. */
function maskOf(prefixBits: number, i: number): number {
  const bits = Math.min(8, Math.max(0, prefixBits - 8 * i));
  return (0xff << (8 - bits)) & 0xff;
}
