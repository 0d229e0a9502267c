/**
 * What a migration's thread can be told meanwhile.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";

export interface Running {
  /** Aborted, with a text, by a cancel that comes before there is a migration to cancel. */
  readonly stop: AbortController;
  committed: () => boolean;
  cancel: ((reason: string) => Promise<boolean>) | undefined;
  finalize: (() => void) | undefined;
  abandon: ((reason: string) => void) | undefined;
}

/** @throws MigrationError `CANCELLED` if it was cancelled so far */
export function goOn({ stop }: Running): void {
  if (stop.signal.aborted) throw new MigrationError("CANCELLED", String(stop.signal.reason));
}
