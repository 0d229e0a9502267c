/**
 * Which rows are missing, there twice, damaged, or older than what was acknowledged.
 *
 * @module
 */
import { isWhole, type Row } from "./ledger.ts";

export interface Expectation {
  /** Rows 1 to this were there before. */
  readonly priorRows: number;
  /** First and last number of rows that were acknowledged, in the order in which that happened. */
  readonly committed: readonly (readonly [first: number, last: number])[];
  /** Rows that were rewritten, and the version that was acknowledged. */
  readonly rewritten: readonly (readonly [id: number, version: number])[];
}

export interface Audit {
  readonly rows: number;
  /** Acknowledged and not there. */
  readonly rowsLost: number;
  /** There more than once, or acknowledged by two writers. */
  readonly rowsDuplicated: number;
  /** There, but with a checksum that does not match. */
  readonly rowsDamaged: number;
  /** There, but as before a change that was acknowledged. */
  readonly rowsStale: number;
  /** There, though nobody was told so: at most one can be under way when a writer is stopped hard. */
  readonly rowsUnacknowledged: number;
}

export interface Verdict extends Audit {
  /** `ok`, or the first complaints of SQLite. */
  readonly integrity: string;
}

export class Auditor {
  readonly #expected = new Set<number>();
  readonly #versions = new Map<number, number>();
  readonly #seen = new Set<number>();
  #acknowledgedTwice = 0;
  #seenTwice = 0;
  #damaged = 0;
  #stale = 0;
  #unacknowledged = 0;

  constructor({ priorRows, committed, rewritten }: Expectation) {
    for (const [first, last] of [[1, priorRows] as const, ...committed]) {
      for (let id = first; id <= last; id++) {
        if (this.#expected.has(id)) this.#acknowledgedTwice++;
        this.#expected.add(id);
      }
    }
    for (const [id, version] of rewritten) {
      this.#versions.set(id, Math.max(version, this.#versions.get(id) ?? 0));
    }
  }

  see(row: Row): void {
    if (this.#seen.has(row.id)) this.#seenTwice++;
    this.#seen.add(row.id);
    if (!this.#expected.has(row.id)) this.#unacknowledged++;
    if (!isWhole(row)) this.#damaged++;
    else if (row.version < (this.#versions.get(row.id) ?? 0)) this.#stale++;
  }

  verdict(): Audit {
    let lost = 0;
    for (const id of this.#expected) if (!this.#seen.has(id)) lost++;
    return {
      rows: this.#seen.size,
      rowsLost: lost,
      rowsDuplicated: this.#acknowledgedTwice + this.#seenTwice,
      rowsDamaged: this.#damaged,
      rowsStale: this.#stale,
      rowsUnacknowledged: this.#unacknowledged,
    };
  }
}
