/**
 * A region as the migration sees it.
 *
 * @module
 */
import type { NativeRegion } from "../../native/index.ts";

/** The part of the addon's region that moves chunks; see `native/types.ts` for each promise. */
export type ChunkStore = Pick<
  NativeRegion,
  | "bytes"
  | "chunkBytes"
  | "chunkCount"
  | "read"
  | "hash"
  | "store"
  | "sync"
  | "setPresent"
  | "setGate"
  | "quiesce"
  | "stats"
  | "retryFaults"
>;

/**
 * The hash of a chunk as it was last sent; `undefined` if it never was or is being sent now, so that nobody can
 * say in which state it will arrive.
 */
export type SentHash = (index: number) => Uint8Array | undefined;

/** How the source's writes are found, and how its workload is held still. */
export interface DirtySource {
  /** Forgets the writes so far: everything is sent once anyway. */
  begin(): Promise<void>;
  /**
   * The chunks written since the last call or `begin`. What was written before the call is in this set or an
   * earlier one; a chunk read after the call has those writes.
   *
   * @returns A bitmap, the caller's own.
   */
  collect(sentHash: SentHash): Promise<Uint8Array>;
  /** Lets no further write through and waits for those under way; a `collect` after it gets the last ones. */
  freeze(): Promise<void>;
  /** Undoes `freeze`: the workload goes on here. */
  thaw(): void;
  /** The region lives elsewhere: every access here fails from now on. */
  fence(): void;
}
