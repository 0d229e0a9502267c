/**
 * Ctrl-C, and SIGTERM the same: the first asks for an orderly end, later ones insist.
 *
 * @module
 */
export class Interrupt {
  #count = 0;
  #onInterrupt: (count: number) => void = () => undefined;
  readonly #handle = (): void => {
    this.#count++;
    this.#onInterrupt(this.#count);
  };

  constructor() {
    process.on("SIGINT", this.#handle);
    process.on("SIGTERM", this.#handle);
    process.on("SIGHUP", this.#handle);
  }

  get count(): number {
    return this.#count;
  }

  /** @param onInterrupt Called with how many there were; at once if there was one already. */
  handle(onInterrupt: (count: number) => void): void {
    this.#onInterrupt = onInterrupt;
    if (this.#count > 0) onInterrupt(this.#count);
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#handle);
    process.off("SIGTERM", this.#handle);
    process.off("SIGHUP", this.#handle);
  }
}
