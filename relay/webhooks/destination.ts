/**
 * Where a webhook may go: to public addresses, and to those that the operator names.
 *
 * A client chooses the URL and the relay makes the request, so the relay must not be made to ask what its own network
 * would not let the client ask (SSRF). A name is resolved once, every address it has is looked at, and the connection
 * goes to one of those: a name that resolves to something else a moment later (DNS rebinding) gains nothing.
 *
 * @module
 */
import { lookup } from "node:dns/promises";

import { RelayError } from "../errors.ts";
import { formatIpAddress, parseIpAddress, unmapped } from "../protocol/ip-address.ts";
import { inRange, parseAddressRange, type AddressRange } from "../runtime/address-range.ts";
import { WEBHOOK_URL_CHARS_MAX } from "./limits.ts";

export interface DestinationRules {
  /** Addresses that are not public and are allowed all the same. */
  readonly allow: readonly AddressRange[];
  /** Whether `http:` is allowed. */
  readonly http: boolean;
}

/** Every address of a name. */
export type Resolve = (hostname: string) => Promise<readonly string[]>;

export const resolveBySystem: Resolve = async (hostname) =>
  (await lookup(hostname, { all: true })).map(({ address }) => address);

/** IANA's registries of special-purpose addresses, and an address of one cloud that is in neither. */
const NOT_PUBLIC_IPV4 = ranges([
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  // Azure's own service for virtual machines.
  "168.63.129.16/32",
  // With the metadata services of nearly every cloud.
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.31.196.0/24",
  "192.52.193.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "192.175.48.0/24",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4",
]);
/** All of global unicast; what is not in it is loopback, link-local, private, multicast or a translation. */
const GLOBAL_IPV6 = ranges(["2000::/3"]);
const NOT_PUBLIC_IPV6 = ranges([
  // Teredo, benchmarking, ORCHID and more.
  "2001::/23",
  "2001:db8::/32",
  // 6to4: an IPv4 address is inside, of any kind.
  "2002::/16",
  "2620:4f:8000::/48",
  "3fff::/20",
]);

/** Whether anybody on the internet could ask this address, 4 or 16 bytes, as well as the relay. */
export function isPublicAddress(bytes: Uint8Array): boolean {
  const plain = unmapped(bytes);
  const within = (list: readonly AddressRange[]): boolean =>
    list.some((range) => inRange(plain, range));
  if (plain.length === 4) return !within(NOT_PUBLIC_IPV4);
  return within(GLOBAL_IPV6) && !within(NOT_PUBLIC_IPV6);
}

export function isAllowed(bytes: Uint8Array, rules: DestinationRules): boolean {
  return isPublicAddress(bytes) || rules.allow.some((range) => inRange(bytes, range));
}

/**
 * What can be said of a URL without asking the name service.
 *
 * @throws RelayError `REQUEST_INVALID` saying what is wrong with it.
 */
export function checkUrl(text: string, rules: DestinationRules): URL {
  const refuse = (why: string): never => {
    throw new RelayError("REQUEST_INVALID", `url: ${why}`, {
      details: { issues: [{ path: "url", message: why }] },
    });
  };
  if (text.length > WEBHOOK_URL_CHARS_MAX) refuse(`at most ${WEBHOOK_URL_CHARS_MAX} characters`);
  if (!URL.canParse(text)) refuse("is no URL");
  // The parser writes 127.1, 0x7f000001 and 2130706433 as what they are.
  const url = new URL(text);
  if (url.protocol !== "https:" && !(rules.http && url.protocol === "http:")) {
    refuse(rules.http ? "must begin with https:// or http://" : "must begin with https://");
  }
  if (url.username !== "" || url.password !== "") refuse("must not hold a user or a password");
  if (url.hash !== "") refuse("must not hold a fragment");
  const literal = literalOf(url);
  if (literal !== undefined && !isAllowed(literal, rules)) refuse("is no public address");
  return url;
}

/**
 * The addresses to connect to, as text.
 *
 * @throws Error if the name has none, or if any of them is not allowed: a name that is public in part is a trick.
 */
export async function addressesOf(
  url: URL,
  rules: DestinationRules,
  resolve: Resolve,
): Promise<readonly string[]> {
  const literal = literalOf(url);
  const texts = literal === undefined ? await resolve(url.hostname) : [formatIpAddress(literal)];
  if (texts.length === 0) throw new Error("its name has no address");
  return texts.map((text) => {
    const bytes = parseIpAddress(text.split("%")[0] ?? "");
    if (bytes === undefined || text.includes("%") || !isAllowed(bytes, rules)) {
      throw new Error("its address is not public, and the relay's operator has not allowed it");
    }
    return formatIpAddress(bytes);
  });
}

function literalOf({ hostname }: URL): Uint8Array | undefined {
  return parseIpAddress(hostname.replace(/^\[|\]$/g, ""));
}

function ranges(texts: readonly string[]): readonly AddressRange[] {
  return texts.map((text) => {
    const range = parseAddressRange(text);
    if (range === undefined) throw new Error(`${text} is no range of addresses`);
    return range;
  });
}
