/**
 * Bounds of what the relay keeps. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Chunks of a region whose index is kept: 4 GiB of hashes, 8 TiB of memory in chunks of 64 KiB. */
export const INDEX_CHUNKS_MAX = 2 ** 27;
/** Deltas this large are folded into the base, */
export const INDEX_DELTA_BYTES_FOLD = 64 * 1024 * 1024;
/** and so are deltas above this part of the base, */
export const INDEX_DELTA_RATIO_FOLD = 0.1;
/** but not below this: a fold rewrites every segment. */
export const INDEX_DELTA_BYTES_FOLD_MIN = 64 * 1024;
/** Deltas that cannot be folded, their base not being here, are refused above this. */
export const INDEX_DELTA_BYTES_MAX = 256 * 1024 * 1024;
/** Chunks that one call of `read` may ask for. */
export const INDEX_READ_CHUNKS_MAX = 64 * 1024;
/** Segments of one statement: half a megabyte of hashes. */
export const INDEX_SEGMENTS_PER_STATEMENT = 16;
/** Events of a session; later ones are dropped, except how it ended. */
export const EVENTS_PER_SESSION_MAX = 10_000;
/** How long a ticket may wait to be used, unless its maker says otherwise. */
export const TICKET_LIFETIME_MS = 10 * 60 * 1000;
export const TICKET_LIFETIME_MS_MAX = 24 * 60 * 60 * 1000;
/** Keys of a project that were revoked or have expired; the oldest beyond that are forgotten. */
export const DEAD_API_KEYS_PER_PROJECT_MAX = 200;
/** How long a key may be good; ten years. */
export const API_KEY_LIFETIME_MS_MAX = 3_653 * 24 * 60 * 60 * 1000;
/** How long a cookie is good. */
export const SIGN_IN_LIFETIME_MS = 12 * 60 * 60 * 1000;
/** Cookies of one API key; the oldest ends for the next. */
export const SIGN_INS_PER_KEY_MAX = 20;
/** A peer whose relay was not heard to speak of it for this long is not taken for connected, in seconds. */
export const PEER_SILENT_S = 60;
