/**
 * What a migration is, told by its sessions: pure functions of them.
 *
 * @module
 */
import type { MigrationPolicy } from "../db/schema.ts";
import { isEnded, SESSION_STATES } from "../protocol/ids.ts";
import type { SessionBody } from "./schemas.ts";

export const MIGRATION_ACTIONS = ["finalize", "cancel"] as const;
export type MigrationAction = (typeof MIGRATION_ACTIONS)[number];

/** Beside the states of sessions: `partial`, some of its sessions are done and others are not and never will be. */
export const MIGRATION_STATES = [...SESSION_STATES, "partial"] as const;
export type MigrationState = (typeof MIGRATION_STATES)[number];

type Member = Pick<SessionBody, "state" | "authority" | "allowedActions">;

/**
 * While one session goes on the migration is as far as the one that is least far; a failed or paused one is told at
 * once. After all have ended it is `done` only if they all are.
 */
export function migrationState(members: readonly Pick<Member, "state">[]): MigrationState {
  const states = members.map(({ state }) => state);
  for (const telling of ["failed", "paused"] as const) if (states.includes(telling)) return telling;
  const least = SESSION_STATES.find((state) => !isEnded(state) && states.includes(state));
  if (least !== undefined) return least;
  if (states.every((state) => state === "done")) return states.length === 0 ? "pending" : "done";
  return states.includes("done") ? "partial" : "cancelled";
}

/**
 * What the API would not refuse now. With `consistency: all` one session that cannot hand over yet keeps the others from
 * it, and one that has moved keeps all from being cancelled.
 */
export function migrationActions(
  members: readonly Member[],
  { consistency }: MigrationPolicy,
): MigrationAction[] {
  const isAll = consistency === "all";
  const waiting = members.filter(
    ({ state, authority }) => !isEnded(state) && authority.holder === "seeder",
  );
  const moved = members.some(({ authority }) => authority.holder === "leecher");
  return MIGRATION_ACTIONS.filter((action) => {
    if (action === "cancel" && isAll && moved) return false;
    const able = waiting.filter(({ allowedActions }) => allowedActions.includes(action)).length;
    return able > 0 && (!isAll || able === waiting.length);
  });
}
