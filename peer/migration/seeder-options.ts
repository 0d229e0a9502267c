/**
 * What a seeder is told at its start.
 *
 * @module
 */
import type { Journal, SeederRecord } from "../journal/journal.ts";
import type { ChunkStore, DirtySource } from "../region/region.ts";
import type { OnMigrationEvent } from "./events.ts";
import type { Handshake } from "./handshake.ts";
import type { KeyedHash } from "./manifest.ts";
import type { OfferMessage } from "./messages.ts";
import type { SessionPort } from "./session-port.ts";

export interface SeederHooks {
  /** Stops the workload. When it returns, the workload writes no more. */
  readonly onSuspend?: (signal: AbortSignal) => Promise<void>;
  /** The migration ended after the suspend: the workload is to go on here. May run twice after a crash. */
  readonly onRollback?: (signal: AbortSignal) => Promise<void>;
  /** The destination has everything: the image here is no longer needed. */
  readonly onRelease?: (signal: AbortSignal) => Promise<void>;
}

export interface SeederOptions {
  readonly session: SessionPort;
  readonly sessionId: Uint8Array;
  /** The ticket's secret. */
  readonly secret: Uint8Array;
  /**
   * What migrates. Where the journal's record says `finalized` or `committed`, its gate is closed or fenced by
   * whoever opened it: nothing may have been written since that record.
   */
  readonly region: ChunkStore;
  readonly dirty: DirtySource;
  /** The key of the chunk hashes: the leecher gets it sealed, the relay never. */
  readonly hashKey: Uint8Array;
  readonly keyedHash: KeyedHash;
  /** With a record in it the seeder goes on from there. Without a journal nothing survives this process. */
  readonly journal?: Journal<SeederRecord>;
  readonly hooks?: SeederHooks;
  readonly onEvent?: OnMigrationEvent;
  readonly handshake?: Handshake;
}

/** @param folded Up to which epoch this side has forgotten what was written. */
export function offerOf(
  { region, hashKey }: Pick<SeederOptions, "region" | "hashKey">,
  folded: number,
): OfferMessage {
  return {
    kind: "offer",
    regions: region.regions.map(({ name, bytes }) => ({ name, bytes })),
    chunkBytes: region.chunkBytes,
    hashKey,
    folded,
  };
}
