/**
 * Sizes of the demo's database, for those who do not open it.
 *
 * @module
 */

/** SQLite's page. */
export const PAGE_BYTES = 4_096;
/** A row of the data that is there before: with SQLite's own overhead, one page. */
export const PRIOR_PAYLOAD_BYTES = 3_900;
