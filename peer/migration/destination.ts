/**
 * Where a region is received.
 *
 * @module
 */
import type { ChunkStore } from "../region/region.ts";

/** What an earlier process left at this place. */
export interface KeptChunks {
  /**
   * Bitmap of the chunks that are the workload's already: marked present after the commit, and served as such.
   * Empty before it.
   */
  readonly present: Uint8Array;
  /** 32 bytes per chunk: what was verified when a present one was stored. */
  readonly presentHashes: Uint8Array;
  /** 32 bytes per chunk: what stands in the others now, by reading them; all zeros: not looked at. */
  readonly heldHashes: Uint8Array;
}

export interface Destination {
  /** Gate closed; every chunk absent but those of `kept.present`. */
  readonly region: ChunkStore;
  /** Only where a process goes on that another one began. */
  readonly kept?: KeptChunks;
  /** Whether programs read the region through us, so that the first read they are served ends the downtime. */
  readonly exported: boolean;
  /** Told of chunks that somebody waits for; set by the leecher. */
  onFault: ((indexes: Uint32Array) => void) | undefined;
}
