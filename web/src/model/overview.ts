/**
 * A project's sessions in a few numbers.
 *
 * @module
 */
import type { SessionBody } from "../../../relay/app.ts";
import { attentionOf, ENDED, isMoving } from "./session.ts";

const DAY_MS = 86_400_000;

export interface Overview {
  readonly attention: readonly { readonly session: SessionBody; readonly why: string }[];
  readonly live: readonly SessionBody[];
  readonly sendBytesPerS: number;
  readonly direct: number;
  readonly relayed: number;
  readonly downtimeP50Ms: number | null;
  readonly downtimeP95Ms: number | null;
  readonly doneToday: number;
  readonly failedToday: number;
}

export function overviewOf(sessions: readonly SessionBody[], nowMs: number): Overview {
  const live = sessions.filter(({ state }) => !ENDED.has(state));
  const today = sessions.filter(
    ({ timings }) => timings.endedAt !== null && nowMs - Date.parse(timings.endedAt) < DAY_MS,
  );
  const moving = live.filter(isMoving);
  const downtimes = today
    .flatMap(({ timings }) => (timings.downtimeMs === null ? [] : [timings.downtimeMs]))
    .sort((a, b) => a - b);
  const attention = [...live, ...today.filter(({ state }) => state === "failed")]
    .flatMap((session) => {
      const need = attentionOf(session);
      return need === undefined ? [] : [{ session, ...need }];
    })
    .sort((a, b) => a.rank - b.rank);
  return {
    attention,
    live,
    sendBytesPerS: moving.reduce((sum, { progress }) => sum + (progress?.sendBytesPerS ?? 0), 0),
    direct: moving.filter(({ path }) => path?.kind === "direct").length,
    relayed: moving.filter(({ path }) => path !== null && path.kind !== "direct").length,
    downtimeP50Ms: quantile(downtimes, 0.5),
    downtimeP95Ms: quantile(downtimes, 0.95),
    doneToday: today.filter(({ state }) => state === "done").length,
    failedToday: today.filter(({ state }) => state === "failed").length,
  };
}

/** Of sorted values, the smallest that at least this share of them does not exceed. */
export function quantile(sorted: readonly number[], share: number): number | null {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? null;
}
