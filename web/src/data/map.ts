/**
 * The map of a region as the relay computes it: one byte a cell.
 *
 * @module
 */
import { askBytes } from "./api.ts";
import type { MapWindow } from "../model/map-window.ts";

export interface MapState {
  readonly label: string;
  /** Of the custom properties `--map-…`. */
  readonly color: string;
}

/** By the code on the wire. */
export const MAP_STATES: readonly MapState[] = [
  { label: "missing", color: "missing" },
  { label: "sent", color: "sent" },
  { label: "dirty", color: "dirty" },
  { label: "zero", color: "zero" },
  { label: "reused", color: "reused" },
];

export interface RegionMapData {
  readonly cells: Uint8Array;
}

export async function loadMap(
  sessionId: string,
  { first, count }: MapWindow,
  cells: number,
  signal: AbortSignal,
): Promise<RegionMapData> {
  const query = new URLSearchParams({
    first: String(first),
    count: String(count),
    buckets: String(cells),
  });
  return { cells: await askBytes(`v1/sessions/${sessionId}/map?${query}`, signal) };
}
