/**
 * Bounds of what the switchboard holds for a session. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Reports of a session that wait for the database: phases, descriptions. */
export const RECORDS_WAITING_MAX = 256;
/** Bytes of a session's chunk index that wait for the database. */
export const INDEX_BYTES_WAITING_MAX = 4 * 1024 * 1024;
/** Segments of it that are written at once. */
export const RECORDS_TOGETHER_MAX = 16;
/** How long a peer is held back when either is full, before the next reports are dropped. */
export const RECORD_PATIENCE_MS = 1_000;
/** Between two attempts to write a phase down, */
export const RECORD_RETRY_MS = 1_000;
/** and how many there are. */
export const RECORD_ATTEMPTS_MAX = 600;
/** How long a question about the owner lets phases that were reported before it go first. */
export const DECISION_PATIENCE_MS = 100;
/** Questions about the owner that one peer may have open. */
export const DECISIONS_WAITING_MAX = 4;
/** How long a goodbye waits until what was reported before it is written down. */
export const GOODBYE_PATIENCE_MS = 2_000;
/** When the first peers of a relay that goes down are to leave and come back, */
export const GO_AWAY_RECONNECT_MS = 500;
/** how many of them a second, so that the next relay is not stormed, */
export const GO_AWAY_PEERS_PER_S = 200;
/** and how long they are to try. */
export const GO_AWAY_TRY_FOR_MS = 60_000;
/** How long a relay that goes down waits for its peers to leave, unless its configuration says otherwise. */
export const DRAIN_DEADLINE_MS = 5_000;
