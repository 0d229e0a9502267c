/**
 * Bounds of address discovery at the relay, and of what its WebSockets keep. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Tokens of peers that are connected, or were until lately. */
export const DISCOVERY_PEER_TOKENS_MAX = 20_000;
/** Tokens that the API gave to anybody who asked. */
export const DISCOVERY_OPEN_TOKENS_MAX = 2_000;
/** A token's life, once its peer has left; from the start if there was none. */
export const DISCOVERY_TOKEN_LIFETIME_MS = 10 * 60_000;
/** Answers that one token gets in that time. */
export const DISCOVERY_ANSWERS_PER_TOKEN = 64;
/** Answers to one network (an IPv4 /24, an IPv6 /56): a second, */
export const DISCOVERY_ANSWERS_PER_NETWORK_S = 32;
/** and at once. */
export const DISCOVERY_ANSWERS_PER_NETWORK_BURST = 256;
/** Networks whose answers are counted. */
export const DISCOVERY_NETWORKS_MAX = 10_000;
/** Buffers of messages that passed, of 64 KiB each, kept for the next ones. */
export const FRAME_BUFFERS_KEPT_MAX = 64;
