/**
 * All chance of one simulated run, drawn from its seed.
 *
 * @module
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** sfc32, its state spread from the seed (Chris Doty-Humphrey, PractRand). */
  constructor(seed: number) {
    this.#a = seed >>> 0;
    this.#b = Math.imul(seed ^ 0x5bd1e995, 0x9e3779b9) >>> 0;
    this.#c = Math.floor(seed / 2 ** 32) >>> 0;
    for (let i = 0; i < 12; i++) this.#next();
  }

  /** In `[0, 1)`. */
  unit(): number {
    return this.#next() / 2 ** 32;
  }

  /** A whole number in `[0, bound)`. */
  below(bound: number): number {
    return Math.floor(this.unit() * bound);
  }

  /** In `[least, most)`. */
  between(least: number, most: number): number {
    return least + this.unit() * (most - least);
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(choices: readonly [T, ...T[]]): T {
    return choices[this.below(choices.length)] ?? choices[0];
  }

  /** Mostly short, at times much longer. */
  delay(meanMs: number): number {
    return -Math.log(1 - this.unit()) * meanMs;
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.#next() & 0xff);
  }

  #next(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    return sum >>> 0;
  }
}
