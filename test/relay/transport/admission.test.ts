import { expect, test } from "vitest";

import { relayLimits, type RelayLimits } from "../../../relay/limits.ts";
import { Admission, type Admitted } from "../../../relay/transport/admission.ts";
import { prefixOf } from "../../../relay/transport/prefix.ts";

function made(limits: Partial<RelayLimits>) {
  const refused: string[] = [];
  const time = { ms: 0 };
  const admission = new Admission({
    limits: relayLimits(limits),
    onRefused: (name) => refused.push(name),
    clock: () => time.ms,
  });
  return { admission, refused, time };
}

test.for([
  ["203.0.113.7", "203.0.113.0/24"],
  ["::ffff:203.0.113.9", "203.0.113.0/24"],
  ["::FFFF:cb00:7109", "203.0.113.0/24"],
  ["2001:db8:1:2:3::4", "2001:db8:1:2::/64"],
  ["fe80::1%eth0", "fe80::/64"],
  ["::1", "::/64"],
  ["", "unknown"],
  ["0x7f000001", "unknown"],
])("prefixOf() counts %s as %s", ([address = "", prefix = ""]) => {
  expect(prefixOf(address)).toBe(prefix);
});

test("admit() bounds the rate of a prefix, however its addresses are written", () => {
  const { admission, refused, time } = made({ acceptsPerPrefix: 2, acceptBurstPerPrefix: 4 });
  const addresses = ["203.0.113.1", "::ffff:203.0.113.2", "203.0.113.3", "203.0.113.4"];
  for (const address of addresses) admission.admit(address)?.closed();
  expect(admission.admit("203.0.113.5")).toBeUndefined();
  expect(refused).toEqual(["acceptsPerPrefix"]);
  expect(admission.admit("203.0.114.5")).toBeDefined();
  time.ms += 500;
  expect(admission.admit("203.0.113.6")).toBeDefined();
  expect(admission.admit("203.0.113.7")).toBeUndefined();
});

test("admit() bounds handshakes and connections, of a prefix and altogether", () => {
  const { admission, refused } = made({
    handshakesPerPrefix: 2,
    handshakes: 3,
    connectionsPerPrefix: 3,
    connections: 5,
  });
  const open = (address: string): Admitted | undefined => admission.admit(address);
  const first = open("10.0.0.1");
  const second = open("10.0.0.2");
  expect(open("10.0.0.3")).toBeUndefined();
  const elsewhere = open("10.0.1.1");
  expect(open("10.0.2.1")).toBeUndefined();
  first?.established();
  first?.established();
  const third = open("10.0.0.3");
  expect(third).toBeDefined();
  second?.established();
  expect(open("10.0.0.4")).toBeUndefined();
  elsewhere?.established();
  third?.established();
  expect(open("10.0.3.1")).toBeDefined();
  expect(open("10.0.4.1")).toBeUndefined();
  expect(refused).toEqual([
    "handshakesPerPrefix",
    "handshakes",
    "connectionsPerPrefix",
    "connections",
  ]);
  expect(admission.usedBy("10.0.0.200")).toEqual({ connections: 3, handshakes: 0 });
  first?.closed();
  first?.closed();
  expect(admission.usedBy("10.0.0.200")).toEqual({ connections: 2, handshakes: 0 });
  expect([admission.connections, admission.handshakes]).toEqual([4, 1]);
});

test("prefixes that are gone are forgotten within a bound, and none that is connected", () => {
  const { admission } = made({ connections: 1_000_000, handshakes: 1_000_000 });
  const kept = admission.admit("198.51.100.1");
  for (let i = 0; i < 30_000; i++) {
    admission.admit(`10.${i >> 8}.${i & 255}.1`)?.closed();
  }
  expect(admission.usedBy("198.51.100.9")).toEqual({ connections: 1, handshakes: 1 });
  kept?.closed();
  expect([admission.connections, admission.handshakes]).toEqual([0, 0]);
});
