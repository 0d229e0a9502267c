/**
 * What a leecher tells the relay of itself while it runs, for people.
 *
 * @module
 */
import { FaultMeter } from "./fault-meter.ts";
import { reportOf, type LeecherNumbers } from "./leecher-numbers.ts";
import type { SessionPort } from "./session-port.ts";

export class LeecherReports {
  readonly #meter = new FaultMeter();
  #faults = 0;
  #fingerprint = "";

  /** Missing chunks that a workload has touched. */
  get faults(): number {
    return this.#faults;
  }

  /** Of the channel of now. */
  set fingerprint(text: string) {
    this.#fingerprint = text;
  }

  asked(indexes: ArrayLike<number>): void {
    this.#faults += indexes.length;
    this.#meter.asked(Array.from(indexes));
  }

  stored(isReady: (index: number) => boolean): void {
    this.#meter.stored(isReady);
  }

  send(session: SessionPort, numbers: LeecherNumbers): void {
    const report = reportOf(numbers);
    if (report === undefined) return;
    session.reportProgress(report);
    session.reportMore?.({
      chunksReused: numbers.receiver?.reusedChunks ?? 0,
      faultP50Ms: this.#meter.quantileMs(0.5),
      faultP99Ms: this.#meter.quantileMs(0.99),
      roundsMax: numbers.rounds.most,
      fingerprint: this.#fingerprint,
    });
  }
}
