/**
 * What a leecher writes ahead, and what it takes from what an earlier process wrote.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import type { Journal, LeecherPhase, LeecherRecord } from "../journal/journal.ts";
import type { OnMigrationEvent } from "./events.ts";
import type { FinalizedMessage, OfferMessage } from "./messages.ts";

export class LeecherJournal {
  readonly #journal: Journal<LeecherRecord> | undefined;
  readonly #onEvent: OnMigrationEvent | undefined;
  /** What an earlier process left. */
  readonly restored: LeecherRecord | undefined;
  #offer: OfferMessage | undefined;
  #finalized: FinalizedMessage | undefined;
  #meanwhile: Promise<void> | undefined;

  constructor(journal: Journal<LeecherRecord> | undefined, onEvent: OnMigrationEvent | undefined) {
    this.#journal = journal;
    this.#onEvent = onEvent;
    this.restored = journal?.record;
    this.#offer = this.restored?.offer;
    this.#finalized = this.restored?.finalized;
  }

  /** What is owned here. @throws MigrationError `JOURNAL_INVALID` if that was never written down */
  owned(): { readonly offer: OfferMessage; readonly finalized: FinalizedMessage } {
    const [offer, finalized] = [this.#offer, this.#finalized];
    if (offer !== undefined && finalized !== undefined) return { offer, finalized };
    throw new MigrationError(
      "JOURNAL_INVALID",
      "the relay says that this side owns the region, and the journal knows nothing of it: type `memferry recover`",
    );
  }

  /** Nothing but the next record waits for this one, which says it if this one failed. */
  recordMeanwhile(phase: LeecherPhase): void {
    this.#meanwhile = this.record(phase);
    this.#meanwhile.catch(() => {});
  }

  /** @throws MigrationError `JOURNAL_FAILED` */
  async record(
    phase: LeecherPhase,
    learned: { readonly offer?: OfferMessage; readonly finalized?: FinalizedMessage } = {},
  ): Promise<void> {
    this.#offer = learned.offer ?? this.#offer;
    this.#finalized = learned.finalized ?? this.#finalized;
    const [offer, finalized] = [this.#offer, this.#finalized];
    const before = this.#meanwhile;
    this.#meanwhile = undefined;
    await before;
    await this.#journal?.write({
      phase,
      ...(offer === undefined ? {} : { offer }),
      ...(finalized === undefined ? {} : { finalized }),
    });
  }

  /** For a record that decides nothing any more, and only spares a later process a question. */
  async recordLater(phase: LeecherPhase): Promise<void> {
    await this.record(phase).catch((error: unknown) => {
      this.#onEvent?.({ event: "warning", code: "JOURNAL_FAILED", message: messageOf(error) });
    });
  }
}
