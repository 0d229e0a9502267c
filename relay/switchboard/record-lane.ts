/**
 * What peers report, on its way to the database: in order, bounded, and never in the way of what peers wait for.
 *
 * A database that stands still fills the lane. Then the peer is held back for a moment, which is the usual
 * backpressure of a database that is only slow; if that does not help, reports are dropped until it moves again.
 *
 * @module
 */
import { messageOf, ProtocolError } from "../protocol/errors.ts";
import {
  RECORD_ATTEMPTS_MAX,
  RECORD_PATIENCE_MS,
  RECORD_RETRY_MS,
  RECORDS_TOGETHER_MAX,
} from "./limits.ts";

export interface LaneRecord {
  /** For the log. */
  readonly what: string;
  /** How much of the lane it takes. */
  readonly weight: number;
  readonly write: () => Promise<void>;
  /** Tried again when the database fails: nobody else would report it once more. */
  readonly lasting?: boolean;
  /** May be written at the same time as others of this kind beside it. */
  readonly together?: boolean;
  /** The report itself was wrong. */
  readonly onRefused: (error: ProtocolError) => void;
}

export class RecordLane {
  readonly #weightMax: number;
  readonly #onLost: (what: string, reason: string) => void;
  readonly #waiting: LaneRecord[] = [];
  #weight = 0;
  #running: Promise<void> | undefined;
  /** Nothing was written for so long that waiting is of no use. */
  #stalled = false;
  readonly #closed = new AbortController();
  /** Told when something left the lane. */
  readonly #moved = new Set<() => void>();

  /** @param onLost Told of what will not be in the database. */
  constructor(weightMax: number, onLost: (what: string, reason: string) => void) {
    this.#weightMax = weightMax;
    this.#onLost = onLost;
  }

  get idle(): boolean {
    return this.#running === undefined;
  }

  /** Resolves at once unless the lane is full. @returns Whether the report was taken; if not, it is dropped. */
  async put(record: LaneRecord): Promise<boolean> {
    if (!this.#fits(record) && !this.#stalled) {
      const deadline = performance.now() + RECORD_PATIENCE_MS;
      while (!this.#fits(record) && !this.#closed.signal.aborted) {
        const leftMs = deadline - performance.now();
        if (leftMs <= 0) break;
        await this.#move(leftMs);
      }
      this.#stalled = !this.#fits(record);
    }
    if (!this.#fits(record)) {
      this.#onLost(record.what, "the database does not keep up");
      return false;
    }
    this.#waiting.push(record);
    this.#weight += record.weight;
    this.#running ??= this.#run();
    return true;
  }

  /** Resolves when everything is written or given up, or at the latest after `deadlineMs`. */
  async settled(deadlineMs: number): Promise<void> {
    const end = performance.now() + deadlineMs;
    while (!this.idle) {
      const leftMs = end - performance.now();
      if (leftMs <= 0) return;
      await this.#move(leftMs);
    }
  }

  /** Gives up what has not been written. */
  close(): void {
    this.#closed.abort();
    this.#notify();
  }

  #fits({ weight }: LaneRecord): boolean {
    // Whatever its weight, one is always taken.
    return this.#waiting.length === 0 || this.#weight + weight <= this.#weightMax;
  }

  async #run(): Promise<void> {
    for (let attempt = 1; !this.#closed.signal.aborted;) {
      const [record] = this.#waiting;
      if (record === undefined) break;
      if (record.together === true) {
        const others = this.#waiting.findIndex(({ together }) => together !== true);
        const found = others < 0 ? this.#waiting.length : others;
        const batch = this.#waiting.slice(0, Math.min(found, RECORDS_TOGETHER_MAX));
        await Promise.all(batch.map((one) => this.#write(one, RECORD_ATTEMPTS_MAX)));
        this.#drop(batch.length);
        continue;
      }
      if ((await this.#write(record, attempt)) && !this.#closed.signal.aborted) {
        attempt++;
        await this.#pause();
        continue;
      }
      attempt = 1;
      this.#drop(1);
    }
    for (const { what } of this.#waiting.splice(0)) this.#onLost(what, "the relay is going down");
    this.#weight = 0;
    this.#running = undefined;
    this.#notify();
  }

  #drop(count: number): void {
    for (const { weight } of this.#waiting.splice(0, count)) this.#weight -= weight;
    this.#stalled = false;
    this.#notify();
  }

  /** @returns Whether it is to be tried again. */
  async #write(record: LaneRecord, attempt: number): Promise<boolean> {
    try {
      await record.write();
    } catch (error) {
      if (error instanceof ProtocolError) {
        record.onRefused(error);
        return false;
      }
      if (record.lasting === true && attempt < RECORD_ATTEMPTS_MAX) {
        if (attempt === 1) this.#onLost(`${record.what} for now`, messageOf(error));
        return true;
      }
      this.#onLost(record.what, messageOf(error));
    }
    return false;
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const { signal } = this.#closed;
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, RECORD_RETRY_MS);
      signal.addEventListener("abort", done, { once: true });
    });
  }

  /** Resolves when something left the lane, or after `ms`. */
  #move(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#moved.delete(done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#moved.add(done);
    });
  }

  #notify(): void {
    for (const moved of this.#moved) moved();
  }
}

/** One session's reports, whoever is connected at the moment. */
export class SessionRecords {
  readonly phases: RecordLane;
  readonly index: RecordLane;
  /** The index of a region has its place once the region is described. */
  described: Promise<void> = Promise.resolve();
  progressQueued = false;

  constructor(
    bounds: { readonly phases: number; readonly indexBytes: number },
    onLost: (what: string, reason: string) => void,
  ) {
    this.phases = new RecordLane(bounds.phases, onLost);
    this.index = new RecordLane(bounds.indexBytes, onLost);
  }

  get idle(): boolean {
    return this.phases.idle && this.index.idle;
  }

  async settled(deadlineMs: number): Promise<void> {
    await Promise.all([this.phases.settled(deadlineMs), this.index.settled(deadlineMs)]);
  }

  close(): void {
    this.phases.close();
    this.index.close();
  }
}
