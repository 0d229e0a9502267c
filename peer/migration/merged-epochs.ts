/**
 * Up to which epoch a leecher knows what was written at the source.
 *
 * Dirty sets count only as a gapless sequence: a missing one would be silent corruption.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";

export class MergedEpochs {
  #last = 0;
  #hasBegun = false;

  /** The last epoch whose dirty set is merged whole; 0: none. */
  get last(): number {
    return this.#last;
  }

  /** Whether it is known from which epoch on this side needs dirty sets. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** Once; asked again it is nothing. What was written before `epoch` is in the copies that come. */
  begin(epoch: number): void {
    if (!this.#hasBegun) this.#last = epoch - 1;
    this.#hasBegun = true;
  }

  /**
   * The set of `epoch` has come whole.
   *
   * @param folded The epoch whose set stands for all that the source has forgotten, if it was started again.
   * @throws MigrationError `MESSAGE_UNEXPECTED` if a set before it is missing
   */
  merge(epoch: number, folded: number | undefined): void {
    if (epoch <= this.#last) return;
    if (epoch !== this.#last + 1 && epoch !== folded) {
      throw new MigrationError(
        "MESSAGE_UNEXPECTED",
        `the dirty set of epoch ${this.#last + 1} is missing`,
      );
    }
    this.#last = epoch;
  }
}
