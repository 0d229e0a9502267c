/**
 * What a migration tells the program that runs it.
 *
 * @module
 */
import type { LinkKind } from "../../relay/protocol/stream.ts";
import type { OfferedRegion } from "./messages.ts";

export type Phase =
  | "joined"
  | "tracking"
  | "precopy"
  | "finalizing"
  | "suspended"
  | "committed"
  | "postcopy"
  | "paused"
  | "done"
  | "cancelled"
  | "failed";

export interface MigrationTotals {
  readonly downtimeMs: number;
  readonly totalMs: number;
  /** Chunk bytes sent, before zero chunks are left out. */
  readonly bytesTotal: number;
  /** Bytes on the wire between this peer and the other, both ways, seals and headers included. */
  readonly bytesWire: number;
  readonly rounds: number;
  readonly path: LinkKind;
  /** Hexadecimal; empty if it was never known here. */
  readonly rootHash: string;
  /** Chunks that came with other bytes than the source hashed, and were fetched again. */
  readonly refetchedChunks: number;
}

/** How a migration ended. */
export type MigrationOutcome = { readonly error: unknown } | { readonly totals: MigrationTotals };

export type MigrationEvent =
  | { readonly event: "phase"; readonly phase: Phase; readonly detail?: string }
  | {
      readonly event: "channel";
      readonly path: LinkKind;
      readonly fingerprint: string;
      readonly regions: readonly OfferedRegion[];
      /** Of all regions together. */
      readonly bytes: number;
      readonly chunkBytes: number;
    }
  | {
      readonly event: "round";
      readonly round: number;
      readonly dirtyBytes: number;
      readonly dirtyBytesPerS: number;
      /** Why pre-copy goes on, or ends. */
      readonly verdict?: string;
    }
  | { readonly event: "suspended"; readonly epoch: number; readonly dirtyBytes: number }
  | { readonly event: "committed"; readonly epoch: number }
  | { readonly event: "resumed"; readonly downtimeMs: number }
  | { readonly event: "warning"; readonly code: string; readonly message: string }
  | ({ readonly event: "done" } & MigrationTotals);

export type OnMigrationEvent = (event: MigrationEvent) => void;

/** Numbers for a progress line. */
export interface MigrationProgress {
  readonly phase: Phase;
  readonly round: number;
  readonly bytesTotal: number;
  /** Never falls. */
  readonly bytesSent: number;
  /** Present and current at the destination; may fall when the source writes. */
  readonly bytesReady: number;
  readonly bytesWire: number;
  readonly bytesPerS: number;
  readonly dirtyBytesPerS: number;
  readonly rttMs: number;
  readonly regions: readonly RegionProgress[];
}

export interface RegionProgress {
  readonly name: string;
  readonly bytesTotal: number;
  readonly bytesReady: number;
}
