/**
 * Downtime: from suspend to the first read served at the destination.
 *
 * The two hosts' clocks are never compared: the source says how long it had been suspended when it sent its last
 * word, which was half a round trip under way; the rest is measured here.
 *
 * @module
 */
import type { Destination } from "./destination.ts";
import type { OnMigrationEvent } from "./events.ts";
import { sleep } from "../sleep.ts";

/** How often the first served read is looked for. */
const POLL_MS = 2;
/** A workload that reads nothing for this long is not waiting: its start counts instead. */
const FIRST_READ_WAIT_MS = 30_000;
/** The same for one that has everything already. */
const FIRST_READ_GRACE_MS = 1_000;

export class DowntimeMeter {
  readonly #beforeMs: number;
  readonly #receivedAtMs: number;
  #downtimeMs = 0;
  #known = false;
  #told = false;

  /**
   * @param lastWord The source's: how long it had been suspended when it sent it, and when it came by our
   *   `performance.now()`.
   */
  constructor(
    lastWord: { readonly suspendedForMs: number; readonly receivedAtMs: number },
    rttMs: number,
  ) {
    this.#beforeMs = lastWord.suspendedForMs + rttMs / 2;
    this.#receivedAtMs = lastWord.receivedAtMs;
  }

  /** Until it is known, what it is at least. */
  get downtimeMs(): number {
    return this.#downtimeMs;
  }

  /** Starts with the resume hook's end; resolves when the first read was served or is not to be expected. */
  async measure(destination: Destination, openedAtMs: number, over: AbortSignal): Promise<void> {
    this.#end(performance.now());
    const { region, exported } = destination;
    while (exported && performance.now() - openedAtMs < FIRST_READ_WAIT_MS && !over.aborted) {
      const { firstServedAtMs } = region.stats();
      if (firstServedAtMs > 0) {
        this.#end(Math.max(openedAtMs, fromMonotonic(firstServedAtMs)));
        break;
      }
      await sleep(POLL_MS, over).catch(() => undefined);
    }
    this.#known = true;
  }

  /** Everything else is done: the workload may not have touched the region yet, and its first read still counts. */
  async settle(over: AbortSignal): Promise<void> {
    const untilMs = performance.now() + FIRST_READ_GRACE_MS;
    while (!this.#known && performance.now() < untilMs) await sleep(POLL_MS, over);
  }

  /** Says it, once. */
  tell(onEvent: OnMigrationEvent | undefined): void {
    if (this.#told) return;
    this.#told = true;
    onEvent?.({ event: "resumed", downtimeMs: this.#downtimeMs });
  }

  #end(atMs: number): void {
    this.#downtimeMs = this.#beforeMs + (atMs - this.#receivedAtMs);
  }
}

/** CLOCK_MONOTONIC milliseconds on the scale of `performance.now()`. */
function fromMonotonic(monotonicMs: number): number {
  const [seconds, nanoseconds] = process.hrtime();
  return performance.now() - (seconds * 1000 + nanoseconds / 1e6 - monotonicMs);
}
