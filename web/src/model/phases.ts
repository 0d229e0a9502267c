/**
 * The way of a session through its phases, with times.
 *
 * @module
 */
import type { SessionBody } from "../../../relay/app.ts";
import { ENDED } from "./session.ts";

export interface PhaseStep {
  readonly key: string;
  readonly label: string;
  /** ISO 8601; null if it was not reached. */
  readonly at: string | null;
  /** Until the next one that was reached, or until now. */
  readonly lastedMs: number | null;
  readonly status: "past" | "now" | "ahead" | "never";
}

export function phasesOf(session: SessionBody, nowMs = Date.now()): readonly PhaseStep[] {
  const { timings, state } = session;
  const steps = [
    { key: "created", label: "created", at: timings.createdAt },
    { key: "joined", label: "joined", at: timings.joinedAt },
    { key: "started", label: "pre-copy", at: timings.startedAt },
    { key: "finalize", label: "finalizing", at: timings.finalizeAt },
    { key: "suspended", label: "suspended", at: timings.suspendedAt },
    { key: "committed", label: "committed", at: timings.committedAt },
    { key: "resumed", label: "post-copy", at: timings.resumedAt },
    { key: "done", label: "done", at: timings.doneAt },
  ];
  const ended = ENDED.has(state);
  const last = steps.findLastIndex(({ at }) => at !== null);
  const walked = steps.map((step, index): PhaseStep => {
    if (step.at === null) {
      return { ...step, lastedMs: null, status: ended || index < last ? "never" : "ahead" };
    }
    const next = steps.slice(index + 1).find(({ at }) => at !== null)?.at ?? null;
    const untilMs =
      next !== null ? Date.parse(next) : ended ? Date.parse(timings.endedAt ?? step.at) : nowMs;
    const isNow = index === last && !ended;
    return {
      ...step,
      // The last of an ended one lasts no time.
      lastedMs: step.key === "done" ? null : Math.max(0, untilMs - Date.parse(step.at)),
      status: isNow ? "now" : "past",
    };
  });
  if (state !== "cancelled" && state !== "failed") return walked;
  const reached = walked.filter(({ status }) => status !== "never");
  const end: PhaseStep = {
    key: state,
    label: state,
    at: timings.endedAt,
    lastedMs: null,
    status: "past",
  };
  return [...reached, end];
}
