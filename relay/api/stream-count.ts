/**
 * Event streams that are open, by key and altogether.
 *
 * @module
 */
import { limitError, type RelayLimits } from "../limits.ts";

const RETRY_AFTER_S = 5;

export class StreamCount {
  readonly #limits: RelayLimits;
  readonly #byKey = new Map<string, number>();
  #total = 0;

  constructor(limits: RelayLimits) {
    this.#limits = limits;
  }

  get total(): number {
    return this.#total;
  }

  ofKey(keyId: string): number {
    return this.#byKey.get(keyId) ?? 0;
  }

  /**
   * @returns To be called once when the stream is over.
   * @throws RelayError `RATE_LIMITED`
   */
  open(keyId: string): () => void {
    const open = this.ofKey(keyId);
    const { eventStreamsPerKey, eventStreams } = this.#limits;
    const full = open >= eventStreamsPerKey;
    if (full || this.#total >= eventStreams) {
      const met = full
        ? { limitName: "eventStreamsPerKey" as const, limit: eventStreamsPerKey }
        : { limitName: "eventStreams" as const, limit: eventStreams };
      const message = "too many event streams are open: close one first";
      throw limitError("RATE_LIMITED", { ...met, retryAfterS: RETRY_AFTER_S }, message);
    }
    this.#byKey.set(keyId, open + 1);
    this.#total++;
    return () => {
      this.#total--;
      const left = this.ofKey(keyId) - 1;
      if (left > 0) this.#byKey.set(keyId, left);
      else this.#byKey.delete(keyId);
    };
  }
}
