/**
 * What the writers reported to be committed, and when.
 *
 * @module
 */
import { number, type Message } from "./program.ts";

interface Batch {
  readonly rows: number;
  readonly atMs: number;
}

/** CLOCK_MONOTONIC in milliseconds, the writers' clock. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

export class Tally {
  readonly #committed: [first: number, last: number][] = [];
  readonly #rewritten: (readonly [id: number, version: number])[] = [];
  readonly #batches: Batch[] = [];
  #rows = 0;
  #firstAtMs: number | undefined;
  #lastAtMs: number | undefined;

  /** For `onMessage` of a writer. */
  readonly note = (message: Message): void => {
    if (message["event"] !== "committed") return;
    const first = number(message, "first");
    const last = number(message, "last");
    const rows = first === 0 ? 0 : last - first + 1;
    if (rows > 0) this.#committed.push([first, last]);
    // The writer is part of the demo: it sends pairs of numbers.
    const rewritten = message["rewritten"] as readonly (readonly [number, number])[];
    this.#rewritten.push(...rewritten);
    this.#rows += rows;
    this.#firstAtMs ??= number(message, "firstAtMs");
    this.#lastAtMs = number(message, "lastAtMs");
    this.#batches.push({ rows, atMs: this.#lastAtMs });
  };

  get rows(): number {
    return this.#rows;
  }

  get committed(): readonly (readonly [first: number, last: number])[] {
    return this.#committed;
  }

  get rewritten(): readonly (readonly [id: number, version: number])[] {
    return this.#rewritten;
  }

  /** When the first transaction and the last were committed; `undefined` before there was one. */
  get firstAtMs(): number | undefined {
    return this.#firstAtMs;
  }

  get lastAtMs(): number | undefined {
    return this.#lastAtMs;
  }

  /** Rows up to this time, to the nearest report. */
  rowsUntil(atMs: number): number {
    return this.#batches.reduce((sum, batch) => (batch.atMs <= atMs ? sum + batch.rows : sum), 0);
  }
}
