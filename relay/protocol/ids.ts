/**
 * Names of things on the wire.
 *
 * @module
 */

/** Source or destination of a session. */
export type Role = "seeder" | "leecher";

export const ROLES = ["seeder", "leecher"] as const satisfies readonly Role[];

/** Who may run the workload. Nobody may while neither side has joined or after the region was given up. */
export type Owner = Role;

/** 16 random bytes, written as 32 hexadecimal digits in the API and the log. */
export const SESSION_ID_BYTES = 16;
/** Secret half of a ticket that the relay checks. */
export const TICKET_TOKEN_BYTES = 32;
/** Secret half of a ticket that the relay never sees. */
export const TICKET_SECRET_BYTES = 32;
/** An ed25519 public key. */
export const PEER_KEY_BYTES = 32;
/** The relay's ed25519 public key, which outlives its certificates. */
export const RELAY_IDENTITY_BYTES = 32;
export const SIGNATURE_BYTES = 64;
export const CHALLENGE_BYTES = 32;
/** What a peer shows to open more streams on its link. */
export const STREAM_SECRET_BYTES = 16;

/** Phases of a session, in the order they are met; the API, the log and the metrics use these words. */
export const SESSION_STATES = [
  "pending",
  "joined",
  "tracking",
  "precopy",
  "finalizing",
  "suspended",
  "committed",
  "postcopy",
  "paused",
  "done",
  "cancelled",
  "failed",
] as const;

export type SessionState = (typeof SESSION_STATES)[number];

/** A session in one of these never changes again. */
export function isEnded(state: SessionState): boolean {
  return state === "done" || state === "cancelled" || state === "failed";
}
