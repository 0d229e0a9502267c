/**
 * What kinds of routers there are between a host and the network, as rules of nftables.
 *
 * @module
 */

/**
 * - `none`: the host has a public address and no router.
 * - `easy`: one public port per port inside, for all destinations, the same number if it is free.
 * - `symmetric`: another port, at random, for each destination: nobody can know it beforehand.
 * - `udp-blocked`: as `easy`, but UDP does not pass.
 * - `cgnat`: two `easy` routers one behind the other, the outer one a carrier's.
 */
export const NAT_KINDS = ["none", "easy", "symmetric", "udp-blocked", "cgnat"] as const;
export type NatKind = (typeof NAT_KINDS)[number];

type Layer = "easy" | "symmetric" | "udp-blocked";

/** The routers in front of a host, the outermost first. */
export function layersOf(kind: NatKind): readonly Layer[] {
  switch (kind) {
    case "none":
      return [];
    case "cgnat":
      return ["easy", "easy"];
    case "easy":
    case "symmetric":
    case "udp-blocked":
      return [kind];
  }
}

/**
 * The router lets in what answers something that went out. New packets from outside are dropped, not refused: a refusal
 * would tell a peer that punches too early that nobody is there, and one that the router took for its own would occupy
 * the port that the host inside is about to get.
 */
export function routerRules(layer: Layer): string {
  return `
table inet lab {
  chain post {
    type nat hook postrouting priority srcnat;
    oifname "wan" masquerade${layer === "symmetric" ? " fully-random" : ""}
  }
  chain input {
    type filter hook input priority filter;
    iifname "wan" meta l4proto { tcp, udp } ct state new drop
  }
  chain forward {
    type filter hook forward priority filter;
    iifname "wan" ct state new drop
    ${layer === "udp-blocked" ? "meta l4proto udp drop" : ""}
  }
}
`;
}
