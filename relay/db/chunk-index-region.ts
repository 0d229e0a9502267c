/**
 * What the index knows of a region as a whole.
 *
 * @module
 */
import { ProtocolError } from "../protocol/errors.ts";
import { RelayError } from "../errors.ts";
import type { Row } from "./database.ts";

export interface RegionHead {
  readonly id: number;
  readonly baseGen: number;
  readonly chunkCount: number;
  readonly deltaBytes: number;
  /** The last epoch that the seeder may report, once the leecher is the owner. */
  readonly epochMax: number | undefined;
}

/** @throws RelayError `NOT_FOUND` */
export function headOf([row]: readonly Row[]): RegionHead {
  if (row === undefined) {
    throw new RelayError(
      "NOT_FOUND",
      "this session has no index: its region is not described yet, or too large",
    );
  }
  const epochMax = row["epoch_max"];
  return {
    id: Number(row["id"]),
    baseGen: Number(row["base_gen"]),
    chunkCount: Number(row["chunk_count"]),
    deltaBytes: Number(row["delta_bytes"]),
    epochMax: epochMax === null || epochMax === undefined ? undefined : Number(epochMax),
  };
}

/** @throws ProtocolError `FRAME_UNEXPECTED` */
export function requireEpoch({ epochMax }: RegionHead, epoch: number): void {
  if (epochMax === undefined || epoch <= epochMax) return;
  throw new ProtocolError(
    "FRAME_UNEXPECTED",
    `the index is reported as of epoch ${epoch}, and the leecher owns the region since ${epochMax - 1}`,
  );
}
