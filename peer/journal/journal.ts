/**
 * What a peer must still know after it was killed.
 *
 * A journal holds one record, replaced whole: a migration has a dozen transitions, and the last one says it all.
 * It is written ahead: a step that the other side or the workload can notice is taken only after the record that
 * announces it is durable.
 *
 * @module
 */
import type { FinalizedMessage, OfferMessage } from "../migration/messages.ts";

export interface Journal<R> {
  /** What was written last, by this process or one before it; `undefined` at a fresh start. */
  readonly record: R | undefined;
  /**
   * Replaces the record. Durable when it resolves; calls take effect in their order.
   *
   * @throws MigrationError `JOURNAL_FAILED`: the old record or the new one is there, whole.
   */
  write(record: R): Promise<void>;
}

export const SEEDER_PHASES = [
  /** The region is offered; nobody has asked for it. */
  "offered",
  /** Writes are tracked; the workload runs. */
  "tracking",
  /** The suspend hook has been, or is about to be, run. */
  "suspending",
  /** The workload stands still and the last word is on its way: only the relay knows the owner now. */
  "finalized",
  /** The leecher owns the region; the image here serves what it is still missing. */
  "committed",
  /** The leecher has everything. */
  "released",
  /** The attempt is over and the workload goes on here. */
  "rolledBack",
] as const;
export type SeederPhase = (typeof SEEDER_PHASES)[number];

export interface SeederRecord {
  readonly phase: SeederPhase;
  /** Epochs up to this one may have been used: a restarted seeder goes on above it. */
  readonly epochsReserved: number;
  /** The answer to `finalize`, from `finalized` on: asked again, it is the same. */
  readonly finalized?: Omit<FinalizedMessage, "kind">;
}

export const LEECHER_PHASES = [
  /** The ticket is used; nothing is here. */
  "joined",
  /** Chunks are coming in; the workload runs at the source. */
  "precopy",
  /** The relay is being asked to make this side the owner: only the relay knows the owner now. */
  "committing",
  /** This side owns the region. */
  "committed",
  /** The workload was started here. */
  "resumed",
  /** Every chunk is here, verified and durable; the source may not know it yet. */
  "complete",
  "done",
  /** The attempt is over and the workload goes on at the source. */
  "cancelled",
] as const;
export type LeecherPhase = (typeof LEECHER_PHASES)[number];

export interface LeecherRecord {
  readonly phase: LeecherPhase;
  readonly offer?: OfferMessage;
  /** The source's last word, from `committing` on. */
  readonly finalized?: FinalizedMessage;
}
