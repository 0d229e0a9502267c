import fc from "fast-check";
import { expect, test } from "vitest";

import {
  decodeDiscoveryRequest,
  decodeDiscoveryResponse,
  DISCOVERY_REQUEST_BYTES,
  encodeDiscoveryRequest,
  encodeDiscoveryResponse,
} from "../../../relay/protocol/discovery.ts";
import { formatIpAddress } from "../../../relay/protocol/ip-address.ts";
import {
  DISCOVERY_TOKEN,
  discoveryAnswers,
  discoveryMac as mac,
  discoveryRequest,
  recordDiscovery,
} from "../../fixtures/relay-recordings.ts";
import { hexOf, recordedBytes } from "../../fixtures/wire-file.ts";

const bytes = (count: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: count, maxLength: count });
const transactionId = bytes(12);
const token = bytes(16);
const address = fc.oneof(bytes(4), bytes(16)).map(formatIpAddress);
const response = fc.record({ transactionId, address, port: fc.integer({ min: 1, max: 0xffff }) });

test("the datagrams of discovery are those that were recorded", () => {
  const recorded = recordedBytes("discovery");
  const now = recordDiscovery().map(({ name, bytes: encoded }) => [name, encoded] as const);
  expect(hexOf(now)).toEqual(hexOf(recorded));
  const of = (name: string): Uint8Array => recorded.get(name) ?? new Uint8Array();
  expect(decodeDiscoveryRequest(of(discoveryRequest.name))).toEqual(discoveryRequest.value);
  for (const { name, value } of discoveryAnswers) {
    expect(decodeDiscoveryResponse(of(name), DISCOVERY_TOKEN, mac), name).toEqual(value);
  }
});

test("decodeDiscoveryRequest() gives back what was encoded, and nothing of what was changed", () => {
  fc.assert(
    fc.property(
      transactionId,
      token,
      fc.nat(127),
      fc.integer({ min: 1, max: 255 }),
      (id, t, at, x) => {
        const encoded = encodeDiscoveryRequest({ transactionId: id, token: t });
        expect(encoded.length).toBe(DISCOVERY_REQUEST_BYTES);
        expect(decodeDiscoveryRequest(encoded)).toEqual({ transactionId: id, token: t });
        expect(decodeDiscoveryRequest(encoded.subarray(0, at))).toBeUndefined();
        expect(decodeDiscoveryRequest(Uint8Array.of(...encoded, 0))).toBeUndefined();
        encoded[at] = (encoded[at] ?? 0) ^ x;
        // Any transaction id and any token are good ones.
        if (at < 5 || at >= 33) expect(decodeDiscoveryRequest(encoded)).toBeUndefined();
      },
    ),
  );
});

test("decodeDiscoveryResponse() gives back what was encoded, shorter than a request", () => {
  fc.assert(
    fc.property(response, token, (given, t) => {
      const encoded = encodeDiscoveryResponse(given, t, mac);
      expect(encoded.length).toBeLessThan(DISCOVERY_REQUEST_BYTES);
      expect(decodeDiscoveryResponse(encoded, t, mac)).toEqual(given);
    }),
    { numRuns: 500 },
  );
});

test("decodeDiscoveryResponse() refuses every changed bit, cut and other token", () => {
  fc.assert(
    fc.property(response, token, token, fc.nat(), (given, t, other, at) => {
      const encoded = encodeDiscoveryResponse(given, t, mac);
      fc.pre(!t.every((byte, i) => byte === other[i]));
      expect(decodeDiscoveryResponse(encoded, other, mac)).toBeUndefined();
      expect(
        decodeDiscoveryResponse(encoded.subarray(0, at % encoded.length), t, mac),
      ).toBeUndefined();
      const bit = at % (encoded.length * 8);
      encoded[bit >> 3] = (encoded[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(decodeDiscoveryResponse(encoded, t, mac)).toBeUndefined();
    }),
    { numRuns: 500 },
  );
});

test("decodeDiscoveryResponse() refuses what is well signed and not well formed", () => {
  const signed = (edit: (body: Uint8Array) => void): Uint8Array => {
    const [, v6] = discoveryAnswers;
    if (v6 === undefined) throw new Error("no example");
    const encoded = encodeDiscoveryResponse(v6.value, DISCOVERY_TOKEN, mac);
    const body = encoded.subarray(0, -16);
    edit(body);
    return Uint8Array.of(...body, ...mac(DISCOVERY_TOKEN, body).subarray(0, 16));
  };
  const mask = [...count(12), 0x0c, 0x6d, 0x66, 0x61];
  const decode = (datagram: Uint8Array): unknown =>
    decodeDiscoveryResponse(datagram, DISCOVERY_TOKEN, mac);
  expect(decode(signed(() => {}))).toBeDefined();
  expect(decode(signed((body) => body.set([4], 16)))).toBeUndefined();
  expect(decode(signed((body) => body.set([5], 16)))).toBeUndefined();
  // Port 0.
  expect(decode(signed((body) => body.set([mask[10] ?? 0, mask[11] ?? 0], 17)))).toBeUndefined();
  // IPv4 in IPv6 clothing.
  const mapped = [...new Uint8Array(10), 0xff, 0xff, 203, 0, 113, 7];
  expect(
    decode(
      signed((body) =>
        body.set(
          mapped.map((byte, i) => byte ^ (mask[i] ?? 0)),
          19,
        ),
      ),
    ),
  ).toBeUndefined();
});

/** The transaction id of the examples. */
function count(length: number): number[] {
  return Array.from({ length }, (_, i) => 0x30 + i);
}
