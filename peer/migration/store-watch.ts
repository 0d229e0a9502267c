/**
 * What becomes of chunks that could not be stored, or were not what was promised.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import type { OnMigrationEvent } from "./events.ts";

export class StoreWatch {
  readonly #onEvent: OnMigrationEvent | undefined;
  #mismatchesTold = 0;
  #lacksRoom = false;

  constructor(onEvent: OnMigrationEvent | undefined) {
    this.#onEvent = onEvent;
  }

  /** The disk is full after the commit: everybody waits until it is not. */
  get lacksRoom(): boolean {
    return this.#lacksRoom;
  }

  /** @param mismatches How many chunks were fetched again so far. */
  stored(mismatches: number): void {
    this.#lacksRoom = false;
    if (mismatches <= this.#mismatchesTold) return;
    this.#mismatchesTold = mismatches;
    const message = `${mismatches} chunks came with other bytes than the source hashed; fetched again`;
    this.#onEvent?.({ event: "warning", code: "CHUNK_REFETCHED", message });
  }

  /** @returns Whether another attempt may do better: the workload is here already, and waits for room, too. */
  mayPass(error: unknown, committed: boolean): boolean {
    this.#lacksRoom = committed && error instanceof MigrationError && error.code === "STORE_FULL";
    if (!this.#lacksRoom) return false;
    const message = `${messageOf(error)}; it is tried again until there is room`;
    this.#onEvent?.({ event: "warning", code: "STORE_FULL", message });
    return true;
  }
}
