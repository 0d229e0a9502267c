/**
 * What a seeder writes ahead, and what it takes from what an earlier process wrote.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import type { Journal, SeederPhase, SeederRecord } from "../journal/journal.ts";
import type { OnMigrationEvent } from "./events.ts";
import { EPOCHS_RESERVED } from "./limits.ts";

/** The answer to `finalize`. */
export type Finalized = NonNullable<SeederRecord["finalized"]>;

export class SeederJournal {
  readonly #journal: Journal<SeederRecord> | undefined;
  readonly #onEvent: OnMigrationEvent | undefined;
  /** What an earlier process left. */
  readonly restored: SeederRecord | undefined;
  /**
   * 0, or the epoch that stands for all that an earlier process knew of dirty chunks. Copies which that process may
   * have sent are tagged with epochs up to it, or were read after its workload stood still.
   */
  readonly folded: number;
  #epochsReserved: number;
  /** As far as a record that was written says so: one that failed reserves nothing. */
  #epochsDurable: number;
  #finalized: Finalized | undefined;

  constructor(journal: Journal<SeederRecord> | undefined, onEvent: OnMigrationEvent | undefined) {
    this.#journal = journal;
    this.#onEvent = onEvent;
    const record = journal?.record;
    this.restored = record?.phase === "offered" ? undefined : record;
    this.#epochsReserved = this.restored?.epochsReserved ?? 0;
    this.#epochsDurable = this.#epochsReserved;
    this.#finalized = this.restored?.finalized;
    this.folded = this.#finalized?.epoch ?? this.#epochsReserved;
  }

  /** @throws MigrationError `JOURNAL_FAILED` */
  async record(phase: SeederPhase, finalized = this.#finalized): Promise<void> {
    const epochsReserved = this.#epochsReserved;
    await this.#journal?.write(
      finalized === undefined ? { phase, epochsReserved } : { phase, epochsReserved, finalized },
    );
    this.#epochsDurable = Math.max(this.#epochsDurable, epochsReserved);
    this.#finalized = finalized;
  }

  /**
   * For a record that decides nothing any more, and only spares a later process a question.
   *
   * @returns Whether it is durable.
   */
  async recordLater(phase: SeederPhase): Promise<boolean> {
    try {
      await this.record(phase);
      return true;
    } catch (error) {
      this.#onEvent?.({ event: "warning", code: "JOURNAL_FAILED", message: messageOf(error) });
      return false;
    }
  }

  /** Before `epoch` is closed and the next one begins. @throws MigrationError `JOURNAL_FAILED` */
  async reserveEpochs(epoch: number): Promise<void> {
    if (epoch + 1 < this.#epochsDurable) return;
    // Ahead of the write: a record that is written meanwhile must not take it back.
    this.#epochsReserved = epoch + EPOCHS_RESERVED;
    await this.record("tracking");
  }
}
