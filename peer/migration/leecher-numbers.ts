/**
 * A leecher's numbers, for people: its own progress, and what the relay shows.
 *
 * @module
 */
import type { Progress } from "../../relay/protocol/frame.ts";
import type { ChunkReceiver } from "./chunk-receiver.ts";
import type { Destination } from "./destination.ts";
import type { MigrationProgress, MigrationTotals, Phase } from "./events.ts";
import { regionProgress } from "./region-progress.ts";
import type { Rounds } from "./rounds.ts";

export interface LeecherNumbers {
  readonly phase: Phase;
  readonly rounds: Rounds;
  readonly destination: Destination | undefined;
  readonly receiver: ChunkReceiver | undefined;
  readonly bytesWire: number;
  readonly rttMs: number;
  readonly downtimeMs: number;
  readonly faults: number;
}

export function progressOf(numbers: LeecherNumbers): MigrationProgress {
  const { phase, rounds, destination, receiver, bytesWire, rttMs } = numbers;
  const region = destination?.region;
  return {
    phase,
    round: rounds.count,
    bytesTotal: region?.bytes ?? 0,
    bytesSent: receiver?.bytesReceived ?? 0,
    bytesReady: receiver?.bytesReady ?? 0,
    bytesWire,
    bytesPerS: receiver?.bytesPerS ?? 0,
    dirtyBytesPerS: rounds.dirtyBytesPerS,
    rttMs,
    regions: regionProgress(
      region?.regions ?? [],
      region?.chunkBytes ?? 0,
      (slice) => receiver?.missingIn(slice) ?? slice.chunkCount,
    ),
  };
}

/** `undefined` before anything is offered. */
export function reportOf(numbers: LeecherNumbers): Progress | undefined {
  const { rounds, destination, receiver, bytesWire, rttMs, downtimeMs, faults } = numbers;
  if (destination === undefined || receiver === undefined) return undefined;
  return {
    ...receiver.counts(),
    round: rounds.count,
    bytesTotal: destination.region.bytes,
    bytesWire,
    dirtyBytesPerS: rounds.dirtyBytesPerS,
    rttMs,
    expectedDowntimeMs: rounds.expectedDowntimeMs,
    downtimeMs,
    faults,
  };
}

export function totalsOf(
  { rounds, destination, receiver, downtimeMs }: LeecherNumbers,
  end: Pick<MigrationTotals, "totalMs" | "bytesWire" | "path" | "rootHash"> & {
    /** Of the last set, which makes a round of its own. */
    readonly lastDirtyChunks: number;
  },
): MigrationTotals {
  const { totalMs, bytesWire, path, rootHash, lastDirtyChunks } = end;
  return {
    downtimeMs,
    totalMs,
    bytesTotal: destination?.region.bytes ?? 0,
    bytesWire,
    rounds: rounds.count + (lastDirtyChunks > 0 ? 1 : 0),
    path,
    rootHash,
    refetchedChunks: receiver?.mismatches ?? 0,
  };
}
