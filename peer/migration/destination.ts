/**
 * Where a region is received.
 *
 * @module
 */
import type { ChunkStore } from "../region/region.ts";

export interface Destination {
  /** Every chunk absent, gate closed. */
  readonly region: ChunkStore;
  /** Whether programs read the region through us, so that the first read they are served ends the downtime. */
  readonly exported: boolean;
  /** Told of chunks that somebody waits for; set by the leecher. */
  onFault: ((indexes: Uint32Array) => void) | undefined;
}
