/**
 * A journal in plain memory, which outlives the peer that writes it.
 *
 * @module
 */
import type { Journal } from "../../peer/journal/journal.ts";

export class MemoryJournal<R> implements Journal<R> {
  record: R | undefined;
  /** All that was written, oldest first. */
  readonly written: R[] = [];

  /** @param failing Makes a write fail. */
  constructor(options: { readonly failing?: (record: R) => boolean } = {}) {
    this.#failing = options.failing;
  }

  readonly #failing: ((record: R) => boolean) | undefined;

  write(record: R): Promise<void> {
    if (this.#failing?.(record) === true) return Promise.reject(new Error("the disk is full"));
    this.record = record;
    this.written.push(record);
    return Promise.resolve();
  }
}
