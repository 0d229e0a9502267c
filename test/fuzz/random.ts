/**
 * Chance that a seed and a case number repeat, cheap enough for millions of cases.
 *
 * @module
 */
export class CaseRandom {
  #state = 0;

  /** Begins a case: the same numbers for the same two, whatever was before. */
  reset(seed: number, caseNumber: number): void {
    this.#state = Math.imul(seed ^ 0x9e37_79b9, 0x85eb_ca6b) ^ Math.imul(caseNumber, 0xc2b2_ae35);
    this.next();
  }

  /** 32 bits. */
  next(): number {
    this.#state = (this.#state + 0x9e37_79b9) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x85eb_ca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2_ae35);
    return (z ^ (z >>> 16)) >>> 0;
  }

  /** A whole number in `[0, bound)`. */
  below(bound: number): number {
    return this.next() % bound;
  }

  /** One of them. */
  of<T>(values: readonly T[]): T {
    // The index is below the length; an empty list is a mistake of the caller's.
    return values[this.below(values.length)] as T;
  }

  bytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    for (let i = 0; i < count; i++) bytes[i] = this.next();
    return bytes;
  }
}
