/**
 * When to hand over: pure functions over measurements.
 *
 * @module
 */
import { ROUNDS_MAX } from "./limits.ts";
import type { Mode } from "./messages.ts";

export interface RoundMeasurement {
  readonly round: number;
  /** Dirty bytes that the destination has yet to receive. */
  readonly remainingBytes: number;
  /** The same at the end of the round before; `undefined` after the first. */
  readonly previousRemainingBytes: number | undefined;
  readonly sendBytesPerS: number;
  readonly rttMs: number;
}

export interface ConvergencePolicy {
  readonly mode: Mode;
  /** Downtime that the operator accepts. */
  readonly downtimeBudgetMs: number;
  /** After so many rounds it is handed over, whether that fits the budget or not; default: as many as are allowed. */
  readonly roundsMax?: number | undefined;
}

/**
 * - `continue`: another round makes the downtime shorter.
 * - `finalize`: the budget holds, or in hybrid mode rounds no longer help and post-copy ends it.
 * - `force`: pre-copy does not converge and has had all its rounds.
 */
export type ConvergenceVerdict = "continue" | "finalize" | "force";

/** A round that leaves this share of the one before is not worth another in hybrid mode. */
const STALL_RATIO = 0.7;
const HYBRID_ROUNDS_MAX = 8;

/**
 * How long the workload stays suspended if finalize starts now. In pre-copy it waits for the remaining dirty
 * bytes; in hybrid mode for the list of them only (stop-and-copy; Clark et al., NSDI 2005).
 *
 * @returns Milliseconds; `Infinity` while no rate is known and bytes remain.
 */
export function expectedDowntimeMs(measurement: RoundMeasurement, mode: Mode): number {
  const handOverMs = 2 * measurement.rttMs;
  if (mode !== "precopy" || measurement.remainingBytes === 0) return handOverMs;
  if (measurement.sendBytesPerS <= 0) return Number.POSITIVE_INFINITY;
  return handOverMs + (measurement.remainingBytes / measurement.sendBytesPerS) * 1000;
}

/** How many rounds there are at most. */
export function roundsMax({ mode, roundsMax: wanted }: ConvergencePolicy): number {
  const most = mode === "precopy" ? ROUNDS_MAX : HYBRID_ROUNDS_MAX;
  return wanted === undefined ? most : Math.min(wanted, most);
}

export function judgeConvergence(
  measurement: RoundMeasurement,
  policy: ConvergencePolicy,
): ConvergenceVerdict {
  // Nothing is left to send: waiting makes no downtime shorter, whatever the round trip is.
  if (measurement.remainingBytes === 0) return "finalize";
  if (policy.mode === "precopy") {
    if (expectedDowntimeMs(measurement, policy.mode) <= policy.downtimeBudgetMs) return "finalize";
    return measurement.round >= roundsMax(policy) ? "force" : "continue";
  }
  // Post-copy makes any remainder safe to leave, but each missing chunk may cost the workload a round trip:
  // go on while a round still shrinks it well and its transfer would take longer than the budget.
  const transferMs =
    measurement.sendBytesPerS > 0
      ? (measurement.remainingBytes / measurement.sendBytesPerS) * 1000
      : Number.POSITIVE_INFINITY;
  if (measurement.round >= roundsMax(policy)) return "finalize";
  // The first pass is the longest, so a second one is always short and always worth it.
  if (measurement.round < 2) return "continue";
  if (transferMs <= policy.downtimeBudgetMs) return "finalize";
  const previous = measurement.previousRemainingBytes;
  if (previous !== undefined && measurement.remainingBytes > previous * STALL_RATIO)
    return "finalize";
  return "continue";
}
