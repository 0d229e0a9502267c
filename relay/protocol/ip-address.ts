/**
 * IP addresses as bytes and as text. One spelling of each: what is not written that way by the rules is no address.
 *
 * @module
 */

const IPV4_BYTES = 4;
const IPV6_BYTES = 16;
/** `::ffff:0:0/96`: an IPv4 address in IPv6 clothing (RFC 4291, section 2.5.5.2). */
const MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

/**
 * @param text IPv4 in dotted decimal without leading zeros, or IPv6 in any of its forms (RFC 4291, section 2.2), the
 *   one with a dotted tail included; no brackets, no zone, no space.
 * @returns 4 or 16 bytes in network order; undefined for anything else, so also for octal, hexadecimal and short IPv4.
 */
export function parseIpAddress(text: string): Uint8Array<ArrayBuffer> | undefined {
  return text.includes(":") ? parseIpv6(text) : parseIpv4(text);
}

function parseIpv4(text: string): Uint8Array<ArrayBuffer> | undefined {
  const parts = text.split(".");
  if (parts.length !== IPV4_BYTES) return undefined;
  const bytes = new Uint8Array(IPV4_BYTES);
  for (const [i, part] of parts.entries()) {
    if (!/^(?:0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    bytes[i] = Number(part);
  }
  return bytes;
}

function parseIpv6(text: string): Uint8Array<ArrayBuffer> | undefined {
  const halves = text.split("::");
  const [front = "", back] = halves;
  if (halves.length > 2) return undefined;
  // A dotted tail is only good at the very end.
  const head = groups(front, back === undefined);
  const tail = back === undefined ? [] : groups(back, true);
  if (head === undefined || tail === undefined) return undefined;
  const given = head.length + tail.length;
  // "::" stands for at least one group.
  if (back === undefined ? given !== IPV6_BYTES : given > IPV6_BYTES - 2) return undefined;
  const bytes = new Uint8Array(IPV6_BYTES);
  bytes.set(head);
  bytes.set(tail, IPV6_BYTES - tail.length);
  return bytes;
}

/** The bytes of groups between colons; none of an empty text. */
function groups(text: string, mayEndDotted: boolean): number[] | undefined {
  if (text === "") return [];
  const bytes: number[] = [];
  const parts = text.split(":");
  for (const [i, part] of parts.entries()) {
    if (part.includes(".")) {
      const ipv4 = mayEndDotted && i === parts.length - 1 ? parseIpv4(part) : undefined;
      if (ipv4 === undefined) return undefined;
      bytes.push(...ipv4);
    } else {
      if (!/^[0-9A-Fa-f]{1,4}$/.test(part)) return undefined;
      const group = Number.parseInt(part, 16);
      bytes.push(group >> 8, group & 0xff);
    }
  }
  return bytes;
}

/** The four bytes of an IPv4 address that is mapped into IPv6; anything else as it is. */
export function unmapped(bytes: Uint8Array): Uint8Array {
  const mapped = bytes.length === IPV6_BYTES && MAPPED_PREFIX.every((byte, i) => bytes[i] === byte);
  return mapped ? bytes.subarray(MAPPED_PREFIX.length) : bytes;
}

/**
 * @param bytes 4 or 16 of them.
 * @returns IPv4 in dotted decimal, also if it was mapped into IPv6; IPv6 in the shortest form (RFC 5952).
 */
export function formatIpAddress(bytes: Uint8Array): string {
  const plain = unmapped(bytes);
  if (plain.length === IPV4_BYTES) return plain.join(".");
  const words: number[] = [];
  for (let i = 0; i < IPV6_BYTES; i += 2) words.push(((plain[i] ?? 0) << 8) | (plain[i + 1] ?? 0));
  const { at, length } = longestZeros(words);
  const hex = (part: readonly number[]): string => part.map((word) => word.toString(16)).join(":");
  return length < 2 ? hex(words) : `${hex(words.slice(0, at))}::${hex(words.slice(at + length))}`;
}

/** The first of the longest runs of zeros. */
function longestZeros(words: readonly number[]): { at: number; length: number } {
  let best = { at: 0, length: 0 };
  let run = { at: 0, length: 0 };
  for (const [i, word] of words.entries()) {
    run =
      word === 0
        ? { at: run.length === 0 ? i : run.at, length: run.length + 1 }
        : { at: 0, length: 0 };
    if (run.length > best.length) best = run;
  }
  return best;
}
