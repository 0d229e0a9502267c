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
  | "JOURNAL_INVALID"
  | "JOURNAL_FAILED"
  | "REGION_MOVED"
  | "THREAD_FAILED"
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

/** What the relay and the other peer are told: nothing of this host's paths, commands or messages. */
const PUBLIC_REASONS: Readonly<Record<MigrationErrorCode, string>> = {
  CHANNEL_REFUSED: "the peers could not agree on keys",
  CHANNEL_CORRUPT: "records between the peers were damaged",
  MESSAGE_MALFORMED: "a message of the other peer made no sense",
  MESSAGE_UNEXPECTED: "a message of the other peer had no place",
  VERSION_UNSUPPORTED: "the peers speak different versions of the migration protocol",
  REGION_MISMATCH: "the place at the destination does not fit the region",
  CHUNK_MISMATCH: "a chunk came twice with other bytes than the source hashed",
  ROOT_MISMATCH: "source and destination differ",
  SOURCE_CHANGED: "the source's file was truncated or replaced",
  STORE_FULL: "the destination's disk is full",
  STORE_FAILED: "the destination cannot store",
  HOOK_FAILED: "a hook failed",
  SUSPEND_TIMEOUT: "the workload was not suspended in time",
  CANCELLED: "the migration was cancelled",
  PEER_LOST: "the other peer was lost",
  PEER_FAILED: "the other peer failed",
  RELAY_LOST: "the relay was lost",
  RESUME_INVALID: "there was nothing to go on with",
  JOURNAL_INVALID: "a journal is damaged",
  JOURNAL_FAILED: "a journal cannot be written",
  REGION_MOVED: "the region was handed over before",
  THREAD_FAILED: "a peer's thread failed",
  USAGE: "a peer was started wrongly",
};

export function publicReason(error: unknown): string {
  if (!(error instanceof MigrationError)) return "an error of the host";
  // What these two say comes from the other side or from a constant of ours: it was public before.
  if (error.code === "CANCELLED" || error.code === "PEER_FAILED") return error.message;
  return PUBLIC_REASONS[error.code];
}
