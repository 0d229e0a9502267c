/**
 * What each of the two peers may say, and hears.
 *
 * @module
 */
import type { Command } from "../protocol/frame.ts";
import type { Role, SessionState } from "../protocol/ids.ts";

/** Phases that each role may report; the relay itself records `joined` and `committed`. */
export const PHASES_OF: Record<Role, ReadonlySet<SessionState>> = {
  seeder: new Set(["tracking", "precopy", "suspended", "failed"]),
  leecher: new Set(["finalizing", "postcopy", "paused", "done", "failed"]),
};

/** Who acts on a command. */
export const COMMANDED: Readonly<Record<Command, readonly Role[]>> = {
  finalize: ["leecher"],
  postcopy: ["leecher"],
  cancel: ["seeder", "leecher"],
  pause: ["seeder", "leecher"],
  resume: ["seeder", "leecher"],
};
