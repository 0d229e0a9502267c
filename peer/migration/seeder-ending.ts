/**
 * What a source knows of the destination at the end.
 *
 * @module
 */
import type { LinkKind } from "../../relay/protocol/stream.ts";
import type { MigrationEvent } from "./events.ts";

/** The destination's word that it has everything. */
export interface Confirmed {
  readonly root: Uint8Array;
  /** Whether the journal has it. */
  readonly recorded: boolean;
  readonly path: LinkKind;
}

export const RELEASE_UNCONFIRMED: MigrationEvent = {
  event: "warning",
  code: "RELEASE_UNCONFIRMED",
  message:
    "the relay says that the destination has everything; it did not say so itself, so the image here is kept",
};
