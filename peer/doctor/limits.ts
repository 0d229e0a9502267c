/**
 * Bounds of `memferry doctor`. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Resolving the relay's name. */
export const RESOLVE_DEADLINE_MS = 5_000;
/** Each other probe of the network; they run side by side. */
export const PROBE_DEADLINE_MS = 5_000;
/** A program that is asked, as `ip`. */
export const PROGRAM_DEADLINE_MS = 2_000;
/** An answer of the relay's. */
export const ANSWER_BYTES_MAX = 64 * 1024;
