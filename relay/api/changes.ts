/**
 * Tells open event streams which sessions changed.
 *
 * @module
 */

export class Changes {
  readonly #listeners = new Set<(sessionId: string) => void>();

  /** @param sessionId 32 hexadecimal digits. */
  publish(sessionId: string): void {
    for (const listener of this.#listeners) listener(sessionId);
  }

  /** @returns Stops it. */
  subscribe(listener: (sessionId: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
