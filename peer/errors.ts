/**
 * What can go wrong in a migration.
 *
 * @module
 */
import { ProtocolError } from "../relay/protocol/errors.ts";

/** Stable across releases; docs/errors.md gives cause and remedy for each. */
export type MigrationErrorCode =
  | "CHANNEL_REFUSED"
  | "CHANNEL_CORRUPT"
  | "MESSAGE_MALFORMED"
  | "MESSAGE_UNEXPECTED"
  | "VERSION_UNSUPPORTED"
  | "REGION_MISMATCH"
  | "CHUNK_MISMATCH"
  | "ROOT_MISMATCH"
  | "SOURCE_CHANGED"
  | "STORE_FULL"
  | "STORE_FAILED"
  | "HOOK_FAILED"
  | "SUSPEND_TIMEOUT"
  | "CANCELLED"
  | "PEER_LOST"
  | "PEER_FAILED"
  | "RELAY_LOST"
  | "RESUME_INVALID"
  | "USAGE";

export class MigrationError extends Error {
  override readonly name = "MigrationError";
  readonly code: MigrationErrorCode;

  constructor(code: MigrationErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The other side ended the migration, and says why. */
export function gaveUp(side: "source" | "destination", reason: string): MigrationError {
  return new MigrationError("PEER_FAILED", `the ${side} gave up: ${reason}`);
}

/**
 * Whether another channel may do better: what the network did, and not what one of the two sides is.
 *
 * A damaged record or handshake counts as the network's: whoever damages can only delay.
 */
export function isTransient(error: unknown): boolean {
  if (error instanceof ProtocolError) return true;
  return (
    error instanceof MigrationError &&
    (error.code === "PEER_LOST" ||
      error.code === "CHANNEL_CORRUPT" ||
      error.code === "CHANNEL_REFUSED")
  );
}
