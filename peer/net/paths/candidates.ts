/**
 * Addresses at which a peer may be reached directly, and those that nobody is ever sent to.
 *
 * @module
 */
import type { NetworkInterfaceInfo } from "node:os";

import { formatIpAddress, parseIpAddress, unmapped } from "../../../relay/protocol/ip-address.ts";
import type { SocketAddress } from "./datagram.ts";
import { CANDIDATES_MAX } from "./limits.ts";

/** In the order of preference. */
export const CANDIDATE_KINDS = ["host", "configured", "reflexive"] as const;

export interface Candidate extends SocketAddress {
  /** An interface's own, given by the user, or as the relay saw it. */
  readonly kind: (typeof CANDIDATE_KINDS)[number];
}

/** The network's bytes, and how many bits of them count. */
type Network = readonly [bytes: readonly number[], bits: number];

const FORBIDDEN_IPV4: readonly Network[] = [
  // "This network": Linux takes 0.0.0.0 for itself.
  [[0], 8],
  [[127], 8],
  // Link-local, the metadata of most clouds among them.
  [[169, 254], 16],
  // Protocol assignments, and metadata at 192.0.0.192.
  [[192, 0, 0], 24],
  // Metadata of clouds that put it elsewhere.
  [[100, 100, 100, 200], 32],
  [[168, 63, 129, 16], 32],
  [[224], 4],
  // Reserved, up to the broadcast address.
  [[240], 4],
];

const FORBIDDEN_IPV6: readonly Network[] = [
  // Unspecified, loopback, and all that embeds IPv4 in outdated ways. Mapped and NAT64 are looked into before.
  [[0x00], 8],
  // Discarded by routers.
  [[0x01, 0x00], 16],
  [[0xfe, 0x80], 10],
  // Site-local, which is no longer anything.
  [[0xfe, 0xc0], 10],
  [[0xff], 8],
  // Metadata.
  [[0xfd, 0x00, 0x0e, 0xc2], 32],
  [[0xfd, 0x20, 0x00, 0xce], 32],
];

/** `64:ff9b::/96` (RFC 6052). */
const NAT64: Network = [[0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0], 96];
/** `2002::/16`, then IPv4 (RFC 3056). */
const SIX_TO_FOUR: Network = [[0x20, 0x02], 16];
/** `2001::/32`, then the server's IPv4; the client's, inverted, at the end (RFC 4380). */
const TEREDO: Network = [[0x20, 0x01, 0, 0], 32];

/**
 * Whether no datagram may ever go there on another's word: loopback, link-local, metadata, multicast, broadcast and
 * reserved addresses, in every way to write or embed them, and all that is no address. Private ones are allowed: both
 * peers may be in one network.
 */
export function isForbiddenAddress(text: string): boolean {
  const parsed = parseIpAddress(text);
  return parsed === undefined || isForbidden(unmapped(parsed));
}

function isForbidden(bytes: Uint8Array): boolean {
  if (bytes.length === 4) return FORBIDDEN_IPV4.some((network) => isWithin(bytes, network));
  const embedded = embeddedIpv4(bytes);
  if (embedded.length > 0) return embedded.some(isForbidden);
  return FORBIDDEN_IPV6.some((network) => isWithin(bytes, network));
}

function embeddedIpv4(bytes: Uint8Array): Uint8Array[] {
  if (isWithin(bytes, NAT64)) return [bytes.subarray(12)];
  if (isWithin(bytes, SIX_TO_FOUR)) return [bytes.subarray(2, 6)];
  if (isWithin(bytes, TEREDO)) {
    return [bytes.subarray(4, 8), bytes.subarray(12).map((byte) => byte ^ 0xff)];
  }
  // ISATAP (RFC 5214), under any prefix.
  const isIsatap =
    ((bytes[8] ?? 0) & 0xfd) === 0 && isWithin(bytes.subarray(9), [[0, 0x5e, 0xfe], 24]);
  return isIsatap && !isWithin(bytes, [[0xfe, 0x80], 10]) ? [bytes.subarray(12)] : [];
}

function isWithin(address: Uint8Array, [bytes, bits]: Network): boolean {
  return bytes.every((byte, i) => {
    const mask = i * 8 + 8 <= bits ? 0xff : (0xff << (8 - (bits & 7))) & 0xff;
    return (((address[i] ?? 0) ^ byte) & mask) === 0;
  });
}

/** Those of this host's interfaces, as `os.networkInterfaces()` lists them. */
export function hostCandidates(
  interfaces: Readonly<Record<string, readonly NetworkInterfaceInfo[] | undefined>>,
  port: number,
): Candidate[] {
  return Object.values(interfaces).flatMap((list) =>
    (list ?? []).flatMap(({ address, internal }): Candidate[] => {
      const parsed = internal ? undefined : parseIpAddress(address);
      if (parsed === undefined || isForbidden(unmapped(parsed))) return [];
      return [{ address: formatIpAddress(parsed), port, kind: "host" }];
    }),
  );
}

/**
 * What is left of one's own or of another's candidates: each address once, under its best kind, none that is forbidden,
 * at most `CANDIDATES_MAX`. If there are more, every kind and family that is there keeps its share.
 */
export function mergeCandidates(candidates: Iterable<Candidate>): Candidate[] {
  const known = new Map<string, Candidate>();
  for (const { address: text, port, kind } of candidates) {
    const parsed = parseIpAddress(text);
    const isPort = Number.isInteger(port) && port > 0 && port <= 0xffff;
    if (parsed === undefined || !isPort || isForbidden(unmapped(parsed))) continue;
    const address = formatIpAddress(parsed);
    const key = `${address} ${port}`;
    const before = known.get(key);
    if (before !== undefined && rank(before) <= rank({ kind })) continue;
    known.set(key, { address, port, kind });
  }
  const groups = CANDIDATE_KINDS.flatMap((kind) => {
    const ofKind = [...known.values()].filter((one) => one.kind === kind);
    return [
      ofKind.filter(({ address }) => address.includes(":")),
      ofKind.filter(({ address }) => !address.includes(":")),
    ];
  });
  const kept = new Set<Candidate>();
  for (let turn = 0; turn < CANDIDATES_MAX; turn++) {
    for (const group of groups) {
      const one = group[turn];
      if (one !== undefined && kept.size < CANDIDATES_MAX) kept.add(one);
    }
  }
  return [...kept].toSorted((a, b) => rank(a) - rank(b));
}

function rank({ kind }: Pick<Candidate, "kind">): number {
  return CANDIDATE_KINDS.indexOf(kind);
}
