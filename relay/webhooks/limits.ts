/**
 * Bounds of webhooks. Each has a line in docs/limits.md.
 *
 * @module
 */

export const WEBHOOK_URL_CHARS_MAX = 2_048;
export const EVENT_TYPES_PER_WEBHOOK_MAX = 32;
/** From the name's resolution to the answer's last byte. */
export const DELIVERY_DEADLINE_MS = 10_000;
/** Of an answer; nobody reads more of it. */
export const ANSWER_BYTES_MAX = 16 * 1024;
export const DELIVERIES_AT_ONCE_MAX = 16;
/** A receiver that is slow takes no more of those. */
export const DELIVERIES_AT_ONCE_PER_WEBHOOK_MAX = 4;
export const DELIVERY_ATTEMPTS_MAX = 12;
/** After the first attempt; three times as long after each, up to the longest, with jitter. */
export const RETRY_FIRST_MS = 5_000;
export const RETRY_MAX_MS = 3_600_000;
/** Events of one webhook that are made deliveries in one go. */
export const EVENTS_PER_ROUND_MAX = 500;
/** Between two looks at what is due. */
export const LOOK_INTERVAL_MS = 1_000;
/** Deliveries that are over are kept this long. */
export const DELIVERIES_KEPT_DAYS = 7;
/** How long the secret before a rotation still signs, unless it is said otherwise. */
export const PREVIOUS_SECRET_S = 24 * 3600;
export const PREVIOUS_SECRET_S_MAX = 7 * 24 * 3600;
