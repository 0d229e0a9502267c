/**
 * Datagrams: nobody knows their sender, and what is wrong is dropped without a word.
 *
 * @module
 */
import { decodeNatPmp } from "../../peer/net/paths/port-mapping.ts";
import {
  decodeDiscoveryRequest,
  decodeDiscoveryResponse,
  encodeDiscoveryRequest,
  encodeDiscoveryResponse,
} from "../../relay/protocol/discovery.ts";
import { DISCOVERY_TOKEN, discoveryMac, recordDiscovery } from "../fixtures/relay-recordings.ts";
import { joined, mutate } from "./mutate.ts";
import { requireSame, requireThat, type Target } from "./targets.ts";

const MAC_BYTES = 16;
const datagrams = recordDiscovery().map(({ bytes }) => bytes);

/** Requests, and answers that half of the time are signed after they were damaged. */
export const discoveryTarget: Target = {
  name: "decodeDiscovery",
  weight: 15_000,
  make(random) {
    const damaged = mutate(random.of(datagrams), random, random.of(datagrams));
    if (random.below(2) === 0 || damaged.length < MAC_BYTES) return damaged;
    const body = damaged.slice(0, -MAC_BYTES);
    return joined(body, discoveryMac(DISCOVERY_TOKEN, body).subarray(0, MAC_BYTES));
  },
  check(input) {
    decodeNatPmp(input);
    const request = decodeDiscoveryRequest(input);
    const response = decodeDiscoveryResponse(input, DISCOVERY_TOKEN, discoveryMac);
    requireThat(request === undefined || response === undefined, "a datagram is two things");
    if (request !== undefined) requireSame(encodeDiscoveryRequest(request), input);
    if (response !== undefined) {
      requireSame(encodeDiscoveryResponse(response, DISCOVERY_TOKEN, discoveryMac), input);
    }
    return request === undefined && response === undefined ? "dropped" : "accepted";
  },
};
