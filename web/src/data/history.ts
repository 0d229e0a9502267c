/**
 * What was measured of sessions while this page watched: a ring of samples each, for the charts.
 *
 * @module
 */
import type { SessionBody } from "../../../relay/app.ts";

/** Half an hour at one a second. */
const SAMPLES_MAX = 1_800;
const SESSIONS_MAX = 200;
const INTERVAL_MS = 900;

export interface Samples {
  /** Seconds since the epoch. */
  readonly at: number[];
  readonly sendBytesPerS: (number | null)[];
  readonly dirtyBytesPerS: (number | null)[];
  readonly rttMs: (number | null)[];
}

export class History {
  readonly #bySession = new Map<string, Samples>();

  of(id: string): Samples | undefined {
    return this.#bySession.get(id);
  }

  add(session: SessionBody, nowMs: number): void {
    const { progress } = session;
    if (progress === null) return;
    const kept = this.#bySession.get(session.id);
    const samples = kept ?? { at: [], sendBytesPerS: [], dirtyBytesPerS: [], rttMs: [] };
    const last = samples.at.at(-1);
    if (last !== undefined && nowMs / 1000 - last < INTERVAL_MS / 1000) return;
    samples.at.push(nowMs / 1000);
    samples.sendBytesPerS.push(progress.sendBytesPerS);
    samples.dirtyBytesPerS.push(progress.dirtyBytesPerS);
    samples.rttMs.push(session.path?.rttMs ?? null);
    if (samples.at.length > SAMPLES_MAX) {
      for (const column of Object.values(samples)) column.shift();
    }
    if (kept !== undefined) return;
    this.#bySession.set(session.id, samples);
    if (this.#bySession.size <= SESSIONS_MAX) return;
    const oldest = this.#bySession.keys().next().value;
    if (oldest !== undefined) this.#bySession.delete(oldest);
  }
}
