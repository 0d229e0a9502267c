/**
 * A source's progress, and its totals at the end.
 *
 * @module
 */
import { toHex } from "../../relay/protocol/bytes.ts";
import type { LinkKind } from "../../relay/protocol/stream.ts";
import type { ChunkStore } from "../region/region.ts";
import type { MigrationProgress, MigrationTotals, Phase } from "./events.ts";
import type { RateMeter } from "./rate-meter.ts";
import { regionProgress } from "./region-progress.ts";
import type { Schedule } from "./schedule.ts";

export function progressOfSource(
  region: ChunkStore,
  schedule: Schedule,
  source: {
    readonly phase: Phase;
    readonly round: number;
    readonly sent: RateMeter;
    readonly bytesWire: number;
    readonly dirtyBytesPerS: number;
  },
): MigrationProgress {
  const { phase, round, sent, bytesWire, dirtyBytesPerS } = source;
  const begun = phase !== "joined" && phase !== "tracking";
  return {
    phase,
    round,
    bytesTotal: region.bytes,
    bytesSent: sent.total,
    bytesReady: begun ? Math.max(0, region.bytes - schedule.size * region.chunkBytes) : 0,
    bytesWire,
    bytesPerS: sent.bytesPerS,
    dirtyBytesPerS,
    rttMs: 0,
    regions: regionProgress(region.regions, region.chunkBytes, (slice) =>
      begun ? schedule.count(slice) : slice.chunkCount,
    ),
  };
}

export function totalsOfSource(source: {
  readonly progress: MigrationProgress;
  readonly downtimeMs: number;
  readonly startedAtMs: number;
  /** Of the last round, in which the workload stands still. */
  readonly lastDirtyChunks: number;
  readonly path: LinkKind;
  readonly root: Uint8Array | undefined;
}): MigrationTotals {
  const { progress, downtimeMs, path, root } = source;
  return {
    downtimeMs,
    totalMs: performance.now() - source.startedAtMs,
    bytesTotal: progress.bytesTotal,
    bytesWire: progress.bytesWire,
    rounds: progress.round + (source.lastDirtyChunks > 0 ? 1 : 0),
    path,
    rootHash: root === undefined ? "" : toHex(root),
    refetchedChunks: 0,
  };
}
