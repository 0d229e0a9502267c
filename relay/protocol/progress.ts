/**
 * What a peer reports of a migration that goes on.
 *
 * @module
 */

/** Each is a finite number, at least 0. */
export interface Progress {
  readonly round: number;
  readonly chunksTotal: number;
  readonly chunksSent: number;
  readonly chunksReady: number;
  readonly chunksDirty: number;
  readonly chunksZero: number;
  readonly bytesTotal: number;
  readonly bytesSent: number;
  readonly bytesWire: number;
  readonly bytesRemaining: number;
  readonly dirtyBytesPerS: number;
  readonly sendBytesPerS: number;
  readonly rttMs: number;
  /** Estimate of the downtime if finalize began now; 0 if unknown. */
  readonly expectedDowntimeMs: number;
  /** Measured; 0 until it is known. */
  readonly downtimeMs: number;
  readonly faults: number;
}

export const PROGRESS_FIELDS = [
  "round",
  "chunksTotal",
  "chunksSent",
  "chunksReady",
  "chunksDirty",
  "chunksZero",
  "bytesTotal",
  "bytesSent",
  "bytesWire",
  "bytesRemaining",
  "dirtyBytesPerS",
  "sendBytesPerS",
  "rttMs",
  "expectedDowntimeMs",
  "downtimeMs",
  "faults",
] as const satisfies readonly (keyof Progress)[];
