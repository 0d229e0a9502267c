import fc from "fast-check";
import { expect, test } from "vitest";

import { parseIpAddress } from "../../../relay/protocol/ip-address.ts";
import { parseAddressRange } from "../../../relay/runtime/address-range.ts";
import {
  addressesOf,
  checkUrl,
  isPublicAddress,
  type DestinationRules,
} from "../../../relay/webhooks/destination.ts";

const closed: DestinationRules = { allow: [], http: false };

function allowing(...texts: string[]): DestinationRules {
  const allow = texts.map((text) => parseAddressRange(text));
  return { allow: allow.filter((range) => range !== undefined), http: true };
}

function isPublic(text: string): boolean {
  const bytes = parseIpAddress(text);
  if (bytes === undefined) throw new Error(`${text} is no address`);
  return isPublicAddress(bytes);
}

test("isPublicAddress() refuses loopback, private, link-local, metadata, multicast and translated addresses", () => {
  for (const address of [
    "0.0.0.0",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.19.255.255",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
  ]) {
    expect([address, isPublic(address)]).toEqual([address, false]);
  }
  for (const address of [
    "1.1.1.1",
    "9.255.255.255",
    "100.63.255.255",
    "126.0.0.1",
    "128.0.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.167.1.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450::1",
  ]) {
    expect([address, isPublic(address)]).toEqual([address, true]);
  }
});

test("isPublicAddress() refuses an IPv4 address in IPv6 clothing exactly where it refuses it plain", () => {
  fc.assert(
    fc.property(fc.ipV4(), (address) => {
      expect(isPublic(`::ffff:${address}`)).toBe(isPublic(address));
    }),
  );
});

test("checkUrl() refuses an address that is not public in whatever way it is written", () => {
  for (const host of [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0177.0.0.1",
    "127.0.0.1.",
    "0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:0:0:1]",
    "１２７.0.0.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "[fd00:ec2::254]",
    "10.1",
    "[64:ff9b::10.0.0.1]",
  ]) {
    expect(() => checkUrl(`https://${host}/hook`, closed), host).toThrow(
      /no public address|no URL/,
    );
  }
});

test("checkUrl() refuses what is not https, or holds a password, unless the operator lets it", () => {
  for (const url of [
    "http://hooks.example/",
    "ftp://hooks.example/",
    "file:///etc/passwd",
    "hooks.example",
    "https://user@hooks.example/",
    "https://u:p@hooks.example/",
    "https://hooks.example/#a",
    "javascript:alert(1)",
    `https://hooks.example/${"a".repeat(2048)}`,
    "",
  ]) {
    expect(() => checkUrl(url, closed), url).toThrow("url: ");
  }
  expect(checkUrl("https://hooks.example/a?b=c", closed).host).toBe("hooks.example");
  expect(checkUrl("http://10.1.2.3:81/", allowing("10.0.0.0/8")).host).toBe("10.1.2.3:81");
  expect(() => checkUrl("http://11.1.2.3/", allowing("10.0.0.0/8"))).not.toThrow();
  expect(() => checkUrl("http://192.168.0.1/", allowing("10.0.0.0/8"))).toThrow(
    "no public address",
  );
});

test("addressesOf() refuses a name with any address that is not allowed, and gives the addresses to connect to", async () => {
  const ask = (rules: DestinationRules, ...addresses: string[]) =>
    addressesOf(new URL("https://hooks.example"), rules, () => Promise.resolve(addresses));
  await expect(ask(closed, "8.8.8.8", "10.0.0.1")).rejects.toThrow("not public");
  await expect(ask(closed, "fe80::1%eth0")).rejects.toThrow("not public");
  await expect(ask(allowing("::/0"), "2001:4860::1%eth0")).rejects.toThrow("not public");
  await expect(ask(closed, "127.0.0.1")).rejects.toThrow("not public");
  await expect(ask(closed)).rejects.toThrow("no address");
  expect(await ask(closed, "8.8.8.8", "::ffff:1.1.1.1")).toEqual(["8.8.8.8", "1.1.1.1"]);
  expect(await ask(allowing("10.0.0.0/8"), "10.0.0.1")).toEqual(["10.0.0.1"]);
});

test("addressesOf() does not ask the name service about an address", async () => {
  const refuse = () => Promise.reject(new Error("asked"));
  expect(await addressesOf(new URL("https://8.8.8.8/"), closed, refuse)).toEqual(["8.8.8.8"]);
});
