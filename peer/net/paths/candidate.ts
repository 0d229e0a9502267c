/**
 * An address at which a peer may be reached.
 *
 * @module
 */
import type { SocketAddress } from "./datagram.ts";

/** Of an interface; as the relay saw it; as the operator named it. The order is that of the wire. */
export const CANDIDATE_KINDS = ["host", "reflexive", "configured"] as const;
export type CandidateKind = (typeof CANDIDATE_KINDS)[number];

export interface Candidate extends SocketAddress {
  readonly kind: CandidateKind;
}

/**
 * How what is in front of a host treats its datagrams: `none`: no address is changed; `endpoint-independent`: one
 * address outside, whoever is talked to ("easy"); `endpoint-dependent`: another for each ("symmetric"); `udp-blocked`:
 * no answer at all.
 */
export type NatKind = "none" | "endpoint-independent" | "endpoint-dependent" | "udp-blocked";
