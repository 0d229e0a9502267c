/**
 * What happens to the network in the middle of a migration.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";

import type { Family, Lab } from "../../support/wan/lab.ts";
import type { NatKind } from "../../support/wan/nat.ts";

const CUT_MS = 2_000;
const REBOOT_MS = 1_500;
/** Long enough for a path to be given up, not for the migration to end. */
const BLOCKED_MS = 4_000;

export interface Fault {
  readonly name: string;
  readonly happen: (lab: Lab, seeder: string, leecher: string) => Promise<unknown>;
}

export const FAULTS: readonly Fault[] = [
  {
    name: `link cut for ${CUT_MS / 1000} s`,
    happen: async (lab, _, leecher) => {
      await lab.cut(leecher);
      await sleep(CUT_MS);
      await lab.restore(leecher);
    },
  },
  {
    name: "leecher's router reboots",
    happen: async (lab, _, leecher) => lab.reboot(leecher, REBOOT_MS),
  },
  { name: "seeder's router reboots", happen: async (lab, seeder) => lab.reboot(seeder, REBOOT_MS) },
  {
    name: "leecher's address changes",
    happen: async (lab, _, leecher) => lab.changeAddress(leecher),
  },
  { name: "seeder's address changes", happen: async (lab, seeder) => lab.changeAddress(seeder) },
  {
    name: "both addresses change",
    happen: async (lab, ...peers) =>
      Promise.all(peers.map(async (peer) => lab.changeAddress(peer))),
  },
  {
    name: "UDP is blocked from now on",
    happen: async (lab, _, leecher) => lab.blockUdp(leecher, true),
  },
  {
    // Both find the direct path dead, and later both find it alive, each by itself.
    name: "both switch, and switch back",
    happen: async (lab, ...peers) => {
      await Promise.all(peers.map(async (peer) => lab.blockUdp(peer, true)));
      await sleep(BLOCKED_MS);
      await Promise.all(peers.map(async (peer) => lab.blockUdp(peer, false)));
    },
  },
];

/** Where it happens: on a direct path by IPv4 and by IPv6, and on a relayed one. */
export const FAULT_PAIRS: readonly { readonly family: Family; readonly nat: NatKind }[] = [
  { family: "v4", nat: "easy" },
  { family: "v4", nat: "symmetric" },
  { family: "v6", nat: "easy" },
];

export const MODES = ["precopy", "postcopy"] as const;
