/**
 * IP addresses as bytes and as text in one canonical form.
 *
 * @module
 */
import { isIP, SocketAddress } from "node:net";

/** @throws RangeError unless it is an IPv4 address in dotted form or an IPv6 address without a zone. */
export function addressToBytes(address: string): Uint8Array {
  const family = isIP(address);
  if (family === 4) return Uint8Array.from(address.split("."), Number);
  if (family !== 6 || address.includes("%")) throw new RangeError(`${address} is no address`);
  const halves = address.split("::");
  const groups = (text: string | undefined): number[] =>
    text === undefined || text === "" ? [] : text.split(":").flatMap(groupOf);
  const [front, back] = [groups(halves[0]), groups(halves[1])];
  const zeros = halves.length === 2 ? 8 - front.length - back.length : 0;
  const all = [...front, ...new Array<number>(zeros).fill(0), ...back];
  return Uint8Array.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

/** One group, or the dotted end of an address, which is two. */
function groupOf(text: string): number[] {
  if (!text.includes(".")) return [Number.parseInt(text, 16)];
  const [a = 0, b = 0, c = 0, d = 0] = text.split(".").map(Number);
  return [(a << 8) | b, (c << 8) | d];
}

/** @param bytes 4 or 16; an IPv4 address mapped into IPv6 comes out as IPv4. */
export function bytesToAddress(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  if (MAPPED.every((byte, i) => bytes[i] === byte)) return bytes.subarray(12).join(".");
  const groups = Array.from({ length: 8 }, (_, i) =>
    (((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0)).toString(16),
  );
  return new SocketAddress({ address: groups.join(":"), family: "ipv6" }).address;
}

const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
