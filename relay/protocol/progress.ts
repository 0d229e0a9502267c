/**
 * What a peer reports of a migration that goes on.
 *
 * @module
 */

import type { LinkKind } from "./stream.ts";

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

/** The rest, which a relay may not know: its numbers are 0 where nothing is known. */
export interface ProgressMore {
  /** That were at the destination before, and not sent. */
  readonly chunksReused: number;
  /** From a workload's touch of a missing chunk to its being there, over the last of them. */
  readonly faultP50Ms: number;
  readonly faultP99Ms: number;
  /** After so many rounds the hand-over is forced. */
  readonly roundsMax: number;
  /** The way that the bytes take now. */
  readonly path: LinkKind | undefined;
  /** As both peers show it; empty until they have met. */
  readonly fingerprint: string;
}

export const PROGRESS_MORE_FIELDS = [
  "chunksReused",
  "faultP50Ms",
  "faultP99Ms",
  "roundsMax",
] as const satisfies readonly (keyof ProgressMore)[];

/** On the wire a path is its place in here, plus 1. */
export const PATH_KINDS = [
  "websocket",
  "webtransport",
  "direct",
  "memory",
] as const satisfies readonly LinkKind[];

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
