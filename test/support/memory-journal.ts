/**
 * A journal in plain memory, which outlives the peer that writes it.
 *
 * @module
 */
import { MigrationError } from "../../peer/errors.ts";
import type { Journal } from "../../peer/journal/journal.ts";

export class MemoryJournal<R extends { readonly phase: string }> implements Journal<R> {
  record: R | undefined;
  /** Records of this phase cannot be written. */
  failing: R["phase"] | undefined;

  write(record: R): Promise<void> {
    if (record.phase === this.failing) {
      return Promise.reject(new MigrationError("JOURNAL_FAILED", "the disk is full"));
    }
    this.record = record;
    return Promise.resolve();
  }
}
