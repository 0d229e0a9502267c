/**
 * Bounds of the library. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Events that a listener may be behind before the oldest are dropped, and how many of the past a new one is told. */
export const EVENTS_QUEUED_MAX = 1_024;
/** Events on their way to a caller whose thread does not look; beyond, they are counted and not sent. */
export const EVENTS_UNDER_WAY_MAX = 1_024;
/** How long the migration waits for the caller's thread to flush an export, or to open what is received. */
export const ASK_DEADLINE_MS = 60_000;
/** How long the source's memory stays readable for a caller that has not yet heard of the commit. */
export const FENCE_PATIENCE_MS = 5_000;
/** How long a migration that is told to end may take before its thread is ended. */
export const LEAVE_PATIENCE_MS = 15_000;
