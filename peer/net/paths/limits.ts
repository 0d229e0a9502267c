/**
 * Bounds of looking for a direct path. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Addresses that a peer tells of itself, or believes of the other. */
export const CANDIDATES_MAX = 8;
/** Addresses of the relay that are asked, of each family. */
export const DISCOVERY_RELAYS_PER_FAMILY_MAX = 2;
/** When an address that has not answered is asked again, after the first time. */
export const DISCOVERY_RETRIES_MS = [100, 300, 700] as const;
/** How long all of it may take. */
export const DISCOVERY_DEADLINE_MS = 1_500;
/** How long the other addresses are waited for when one has answered at both ports. */
export const DISCOVERY_GRACE_MS = 300;
/** How long a router may take to let a port in. */
export const PORT_MAPPING_DEADLINE_MS = 2_000;
/** When it is asked again, after the first time. */
export const PORT_MAPPING_RETRY_MS = [250, 750] as const;
/** How long the port is asked for; renewed at half of it. */
export const PORT_MAPPING_LIFETIME_S = 3_600;
/** A router that grants less is asked no oftener than this. */
export const PORT_MAPPING_RENEW_MS_MIN = 1_000;
