/**
 * Which path two hosts can have, by what stands in front of them.
 *
 * @module
 */
import type { NatKind } from "../../support/wan/nat.ts";

export type Way = "direct" | "relayed";

/**
 * Two that keep one port for all destinations (`easy`, also twice in a row) let each other in if both send at once. A
 * `symmetric` one comes from a port that the other cannot know: a host without a router answers whoever comes, another
 * router drops it. Without UDP there is no direct path at all.
 */
export const EXPECTED: Readonly<Record<NatKind, Readonly<Record<NatKind, Way>>>> = {
  none: {
    none: "direct",
    easy: "direct",
    symmetric: "direct",
    "udp-blocked": "relayed",
    cgnat: "direct",
  },
  easy: {
    none: "direct",
    easy: "direct",
    symmetric: "relayed",
    "udp-blocked": "relayed",
    cgnat: "direct",
  },
  symmetric: {
    none: "direct",
    easy: "relayed",
    symmetric: "relayed",
    "udp-blocked": "relayed",
    cgnat: "relayed",
  },
  "udp-blocked": {
    none: "relayed",
    easy: "relayed",
    symmetric: "relayed",
    "udp-blocked": "relayed",
    cgnat: "relayed",
  },
  cgnat: {
    none: "direct",
    easy: "direct",
    symmetric: "relayed",
    "udp-blocked": "relayed",
    cgnat: "direct",
  },
};
