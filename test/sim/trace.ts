/**
 * What happened in a run: its hash tells two runs apart, its end tells people why one failed.
 *
 * @module
 */
const KEPT = 250;

export class Trace {
  readonly #nowMs: () => number;
  readonly #all: boolean;
  readonly #lines: string[] = [];
  #hash = 0x811c9dc5;
  #count = 0;

  /** @param all Keeps every line instead of the last ones. */
  constructor(nowMs: () => number, all: boolean) {
    this.#nowMs = nowMs;
    this.#all = all;
  }

  get count(): number {
    return this.#count;
  }

  /** Of all events so far, their times and their order. */
  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, "0");
  }

  add(actor: string, what: string): void {
    this.#count++;
    const line = `${this.#nowMs().toFixed(3).padStart(12)}  ${actor.padEnd(12)}  ${what}`;
    let hash = this.#hash;
    for (let i = 0; i < line.length; i++) hash = Math.imul(hash ^ line.charCodeAt(i), 0x01000193);
    this.#hash = hash;
    this.#lines.push(line);
    if (!this.#all && this.#lines.length > 2 * KEPT) this.#lines.splice(0, KEPT);
  }

  /** @param count How many of the last ones. */
  lines(count = KEPT): string[] {
    return this.#all ? this.#lines : this.#lines.slice(-count);
  }
}
