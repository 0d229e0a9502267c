/**
 * What a person wants of the paths.
 *
 * @module
 */
export const PATH_POLICIES = ["auto", "relay", "direct"] as const;

/** `auto`: directly where the network lets it, else through the relay; the others: that way or not at all. */
export type PathPolicy = (typeof PATH_POLICIES)[number];
