import { networkInterfaces, type NetworkInterfaceInfo } from "node:os";

import fc from "fast-check";
import { expect, test } from "vitest";

import {
  CANDIDATE_KINDS,
  hostCandidates,
  isForbiddenAddress,
  mergeCandidates,
  type Candidate,
} from "../../../../peer/net/paths/candidates.ts";
import { CANDIDATES_MAX } from "../../../../peer/net/paths/limits.ts";
import { formatIpAddress, parseIpAddress } from "../../../../relay/protocol/ip-address.ts";

const FORBIDDEN = [
  "0.0.0.0",
  "0.1.2.3",
  "127.0.0.1",
  "127.255.255.254",
  "169.254.0.1",
  "169.254.169.254",
  "100.100.100.200",
  "168.63.129.16",
  "192.0.0.192",
  "224.0.0.1",
  "239.255.255.250",
  "240.0.0.1",
  "255.255.255.255",
];
const ALLOWED = [
  "1.1.1.1",
  "10.0.0.1",
  "100.64.0.1",
  "126.255.255.255",
  "128.0.0.1",
  "169.253.255.255",
  "172.16.0.1",
  "192.168.1.1",
  "203.0.113.7",
  "223.255.255.255",
];

/** Ways to write one IPv4 address into an IPv6 one. */
function embeddings(ipv4: string): string[] {
  const [a = 0, b = 0, c = 0, d = 0] = ipv4.split(".").map(Number);
  const word = (high: number, low: number): string => ((high << 8) | low).toString(16);
  const hex = `${word(a, b)}:${word(c, d)}`;
  const inverted = `${word(a ^ 255, b ^ 255)}:${word(c ^ 255, d ^ 255)}`;
  return [
    `::ffff:${ipv4}`,
    `::FFFF:${hex}`,
    `0:0:0:0:0:ffff:${hex}`,
    `0000:0000:0000:0000:0000:ffff:${ipv4}`,
    `64:ff9b::${ipv4}`,
    `64:ff9b::${hex}`,
    `2002:${hex}::1`,
    `2001:0:cb00:7107:0:0:${inverted}`,
    `2001:0:${hex}:0:0:34ff:8ef8`,
    `2001:db8::5efe:${ipv4}`,
    `2001:db8::200:5efe:${hex}`,
  ];
}

test.each(FORBIDDEN)("isForbiddenAddress() forbids %s, however it is written", (address) => {
  expect(isForbiddenAddress(address)).toBe(true);
  for (const text of embeddings(address)) expect(isForbiddenAddress(text), text).toBe(true);
});

test.each(ALLOWED)("isForbiddenAddress() allows %s, however it is written", (address) => {
  expect(isForbiddenAddress(address)).toBe(false);
  for (const text of embeddings(address)) expect(isForbiddenAddress(text), text).toBe(false);
});

test.each([
  "::",
  "::1",
  "0:0:0:0:0:0:0:1",
  "::127.0.0.1",
  "::ffff:0:127.0.0.1",
  "64:ff9b:1::1.1.1.1",
  "100::1",
  "fe80::1",
  "febf::1",
  "fe80::1%eth0",
  "fec0::1",
  "ff02::1",
  "ff0e::1",
  "fd00:ec2::254",
  "FD00:0EC2::254",
  "fd20:ce::254",
])("isForbiddenAddress() forbids %s", (address) => {
  expect(isForbiddenAddress(address)).toBe(true);
});

test.each(["2001:db8::1", "2606:4700::1111", "fc00::1", "fd00::1", "fd12:3456::1"])(
  "isForbiddenAddress() allows %s",
  (address) => {
    expect(isForbiddenAddress(address)).toBe(false);
  },
);

// inet_aton would make addresses of them, most of them loopback.
test.each([
  "",
  "0",
  "127.1",
  "127.0.1",
  "2130706433",
  "0x7f.0.0.1",
  "0x7f000001",
  "0177.0.0.1",
  "010.0.0.1",
  "1.2.3.256",
  "1.2.3.4.5",
  "1.2.3.4 ",
  " 1.2.3.4",
  "1.2.3.4:80",
  "１.2.3.4",
  "[::ffff:1.2.3.4]",
  "::ffff:0177.0.0.1",
  "::ffff:0x7f.1",
  "localhost",
  "relay.example",
])("isForbiddenAddress() takes %j for no address", (text) => {
  expect(isForbiddenAddress(text)).toBe(true);
});

test("isForbiddenAddress() judges an address by what it is, not by how it is written", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 4, maxLength: 4 }), (bytes) => {
      const address = formatIpAddress(bytes);
      const forbidden = isForbiddenAddress(address);
      for (const text of embeddings(address).slice(0, 7)) {
        expect(isForbiddenAddress(text), text).toBe(forbidden);
      }
    }),
  );
});

const address = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }).map(formatIpAddress),
  fc.uint8Array({ minLength: 16, maxLength: 16 }).map(formatIpAddress),
  fc.constantFrom(
    ...FORBIDDEN,
    ...ALLOWED,
    "::1",
    "2001:db8::1",
    "2001:DB8:0::1",
    "::ffff:10.0.0.1",
  ),
);
const candidate: fc.Arbitrary<Candidate> = fc.record({
  address,
  port: fc.integer({ min: -1, max: 65_536 }),
  kind: fc.constantFrom(...CANDIDATE_KINDS),
});

test("mergeCandidates() keeps a few good ones, each once, in order, with every family", () => {
  fc.assert(
    fc.property(fc.array(candidate, { maxLength: 40 }), (given) => {
      const merged = mergeCandidates(given);
      expect(merged.length).toBeLessThanOrEqual(CANDIDATES_MAX);
      const keys = merged.map((one) => `${one.address} ${one.port}`);
      expect(new Set(keys).size).toBe(keys.length);
      const ranks = merged.map(({ kind }) => CANDIDATE_KINDS.indexOf(kind));
      expect(ranks).toEqual(ranks.toSorted((a, b) => a - b));
      for (const one of merged) {
        expect(isForbiddenAddress(one.address)).toBe(false);
        expect(formatIpAddress(parseIpAddress(one.address) ?? new Uint8Array())).toBe(one.address);
        expect(one.port).toBeGreaterThan(0);
        expect(one.port).toBeLessThan(65_536);
      }
      const good = given.filter(
        (one) => !isForbiddenAddress(one.address) && one.port > 0 && one.port < 65_536,
      );
      const canonical = (one: Candidate): string =>
        formatIpAddress(parseIpAddress(one.address) ?? new Uint8Array());
      for (const isSix of [true, false]) {
        const of = (list: Candidate[]): boolean =>
          list.some((one) => canonical(one).includes(":") === isSix);
        expect(of(merged)).toBe(of(good));
      }
      expect(mergeCandidates(merged)).toEqual(merged);
    }),
  );
});

test("mergeCandidates() lets many interfaces not push out what the relay saw", () => {
  const hosts = Array.from({ length: 30 }, (_, i): Candidate => {
    return { address: `10.0.${i}.1`, port: 9, kind: "host" };
  });
  const seen: Candidate = { address: "203.0.113.7", port: 50_000, kind: "reflexive" };
  expect(mergeCandidates([...hosts, seen, seen])).toHaveLength(CANDIDATES_MAX);
  expect(mergeCandidates([...hosts, seen, seen]).at(-1)).toEqual(seen);
});

test("hostCandidates() lists what an interface has, without loopback and link-local", () => {
  const info = (one: string, internal = false): NetworkInterfaceInfo =>
    // The fields that are read.
    ({ address: one, internal }) as NetworkInterfaceInfo;
  const interfaces = {
    lo: [info("127.0.0.1", true), info("::1", true)],
    eth0: [info("192.168.1.2"), info("fe80::1"), info("2001:DB8::2")],
    none: undefined,
    dummy: [info("10.9.9.9", true)],
  };
  expect(hostCandidates(interfaces, 7)).toEqual([
    { address: "192.168.1.2", port: 7, kind: "host" },
    { address: "2001:db8::2", port: 7, kind: "host" },
  ]);
  for (const one of hostCandidates(networkInterfaces(), 7)) {
    expect(isForbiddenAddress(one.address)).toBe(false);
  }
});
