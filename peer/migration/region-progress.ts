/**
 * How far each region of a migration is.
 *
 * @module
 */
import type { RegionSlice } from "../region/region.ts";
import type { RegionProgress } from "./events.ts";

/** @param missingChunks How many of a region's chunks are not at the destination. */
export function regionProgress(
  regions: readonly RegionSlice[],
  chunkBytes: number,
  missingChunks: (slice: RegionSlice) => number,
): RegionProgress[] {
  return regions.map((slice) => ({
    name: slice.name,
    bytesTotal: slice.bytes,
    bytesReady: Math.max(0, slice.bytes - missingChunks(slice) * chunkBytes),
  }));
}
