/**
 * What a session means to whoever watches it: in words, and as a colour.
 *
 * @module
 */
import type { SessionAction, SessionBody } from "../../../relay/app.ts";
import { bytes, duration, rate } from "../format.ts";

export type State = SessionBody["state"];
export type Tone = "good" | "busy" | "warn" | "bad" | "idle";

export const ENDED: ReadonlySet<State> = new Set(["done", "cancelled", "failed"]);
/** The workload's bytes are on their way. */
const MOVING: ReadonlySet<State> = new Set([
  "tracking",
  "precopy",
  "finalizing",
  "suspended",
  "committed",
  "postcopy",
]);

export const STATE_LABELS: Readonly<Record<State, string>> = {
  pending: "waiting for peers",
  joined: "joined",
  tracking: "tracking",
  precopy: "pre-copy",
  finalizing: "finalizing",
  suspended: "suspended",
  committed: "committed",
  postcopy: "post-copy",
  paused: "paused",
  done: "done",
  cancelled: "cancelled",
  failed: "failed",
};

export function toneOf(state: State): Tone {
  switch (state) {
    case "done":
      return "good";
    case "failed":
      return "bad";
    case "paused":
      return "warn";
    case "pending":
    case "joined":
    case "cancelled":
      return "idle";
    case "tracking":
    case "precopy":
    case "finalizing":
    case "suspended":
    case "committed":
    case "postcopy":
      return "busy";
  }
}

export function isMoving(session: SessionBody): boolean {
  return MOVING.has(session.state);
}

/** A name that is there in any case. */
export function nameOf(session: SessionBody): string {
  return session.name || session.region?.name || session.id.slice(0, 8);
}

export type RunsAt = "source" | "destination" | "suspended";

/** Where the workload runs now. While neither side may run it, it stands still. */
export function runsAt(session: SessionBody): RunsAt {
  const { holder } = session.authority;
  if (session.state === "suspended" && holder === "seeder") return "suspended";
  if (session.state === "committed") return "suspended";
  return holder === "seeder" ? "source" : "destination";
}

export const PATH_LABELS: Readonly<Record<NonNullable<SessionBody["path"]>["kind"], string>> = {
  direct: "direct",
  relayWebTransport: "relayed, WebTransport",
  relayWs: "relayed, WebSocket",
  memory: "in process",
};

export interface Verdict {
  readonly tone: Tone;
  /** In plain words, ending with a full stop. */
  readonly sentence: string;
  /** What would help, most useful first. */
  readonly remedies: readonly Remedy[];
}

export type Remedy =
  | { readonly kind: "action"; readonly action: SessionAction; readonly why: string }
  | {
      readonly kind: "limit";
      readonly limit: "bytesPerS" | "downtimeTargetMs";
      readonly why: string;
    }
  | { readonly kind: "advice"; readonly why: string };

/** Whether it will end by itself, why not, and what to press. */
export function verdictOf(session: SessionBody): Verdict {
  const { progress, state } = session;
  const quiet = (tone: Tone, sentence: string): Verdict => ({ tone, sentence, remedies: [] });
  switch (state) {
    case "pending": {
      const away = [
        ...(session.seeder.joinedAt === null ? ["source"] : []),
        ...(session.leecher.joinedAt === null ? ["destination"] : []),
      ];
      return quiet("idle", `Waiting for the ${away.join(" and the ") || "peers"} to join.`);
    }
    case "joined":
      return quiet("idle", "Both peers are here; the migration is about to begin.");
    case "done":
      return quiet("good", doneSentence(session));
    case "cancelled":
      return quiet(
        "idle",
        `Cancelled: the workload runs at the source. ${session.reason?.message ?? ""}`.trim(),
      );
    case "failed":
      return quiet(
        "bad",
        `Failed: ${session.reason?.message ?? "the reason is not known"}. The region is the ${session.authority.holder === "seeder" ? "source" : "destination"}'s.`,
      );
    case "paused":
      return {
        tone: "warn",
        sentence: pausedSentence(session),
        remedies: session.allowedActions
          .filter((action) => action === "cancel")
          .map((action) => ({ kind: "action", action, why: "if it is not coming back" })),
      };
    case "finalizing":
    case "suspended":
    case "committed":
      return quiet(
        "busy",
        "Switching over: the workload stands still until it runs at the destination.",
      );
    case "postcopy":
      return quiet(
        "busy",
        `The workload runs at the destination; ${bytes(progress?.bytesRemaining)} still come from the source as they are touched. If the path breaks, whoever touches a missing page waits until it is back.`,
      );
    case "tracking":
    case "precopy":
      return progress === null
        ? quiet("busy", "The first chunks are on their way.")
        : precopyVerdict(session, progress);
  }
}

function precopyVerdict(
  session: SessionBody,
  progress: NonNullable<SessionBody["progress"]>,
): Verdict {
  const { dirtyBytesPerS, sendBytesPerS, convergence, etaMs, expectedDowntimeMs } = progress;
  const budgetMs = session.limits.downtimeTargetMs;
  if (progress.chunksReady === progress.chunksTotal && progress.chunksTotal > 0) {
    const finalize = session.allowedActions.includes("finalize");
    return {
      tone: "good",
      sentence: `All of it is at the destination${expectedDowntimeMs === null ? "" : `; switching over would take about ${duration(expectedDowntimeMs)}`}.`,
      remedies: finalize
        ? [{ kind: "action", action: "finalize", why: "nothing else is left to do" }]
        : [],
    };
  }
  const rates = `the workload dirties ${rate(dirtyBytesPerS)} and ${rate(sendBytesPerS)} are sent`;
  if (sendBytesPerS === 0) {
    return { tone: "warn", sentence: "Nothing is being sent at the moment.", remedies: [] };
  }
  if (convergence.verdict === "no") {
    const limited = session.limits.bytesPerS;
    const remedies: Remedy[] = [];
    if (limited !== undefined && sendBytesPerS > 0.8 * limited) {
      remedies.push({
        kind: "limit",
        limit: "bytesPerS",
        why: `the session is held to ${rate(limited)}: raise that`,
      });
    }
    if (session.allowedActions.includes("finalize")) {
      remedies.push({
        kind: "action",
        action: "finalize",
        why:
          session.mode === "live"
            ? "the workload moves now, and the rest follows while it runs"
            : `the workload stands still for about ${duration(expectedDowntimeMs)} while the rest is sent`,
      });
    }
    remedies.push({ kind: "advice", why: "slow the workload down for a while" });
    return { tone: "bad", sentence: `Not converging: ${rates}.`, remedies };
  }
  const downtime =
    expectedDowntimeMs === null ? "" : ` Expected downtime ${duration(expectedDowntimeMs)}`;
  const budget =
    expectedDowntimeMs === null || budgetMs === undefined
      ? ""
      : expectedDowntimeMs <= budgetMs
        ? `, within the budget of ${duration(budgetMs)}`
        : `, over the budget of ${duration(budgetMs)}`;
  const when = etaMs === null ? "" : `, about ${duration(etaMs)} left`;
  const over = budgetMs !== undefined && (expectedDowntimeMs ?? 0) > budgetMs;
  return {
    tone: over ? "warn" : "busy",
    sentence: `Converging: ${rates}${when}.${downtime === "" ? "" : `${downtime}${budget}.`}`,
    remedies: over
      ? [{ kind: "limit", limit: "downtimeTargetMs", why: "allow a longer standstill" }]
      : [],
  };
}

function pausedSentence(session: SessionBody): string {
  const why = session.reason?.message ?? "the path between the peers is down";
  const where = runsAt(session);
  const rest =
    where === "destination"
      ? "The workload runs at the destination and waits where it touches missing pages."
      : where === "source"
        ? "The workload runs at the source."
        : "The workload stands still.";
  return `Paused: ${why}. ${rest}`;
}

function doneSentence(session: SessionBody): string {
  const { timings, region } = session;
  const parts = [`${bytes(region?.bytes)} moved`];
  if (timings.totalMs !== null) parts.push(`in ${duration(timings.totalMs)}`);
  if (timings.downtimeMs !== null) parts.push(`with ${duration(timings.downtimeMs)} of downtime`);
  return `Done: ${parts.join(" ")}. The workload runs at the destination.`;
}

export interface Confirmation {
  readonly title: string;
  /** What happens, in the words of whoever runs the workload. */
  readonly consequence: string;
  readonly confirm: string;
  readonly dangerous: boolean;
}

export const ACTION_LABELS: Readonly<Record<string, string>> = {
  start: "Start",
  finalize: "Switch over",
  postcopy: "Post-copy now",
  pause: "Pause",
  resume: "Resume",
  cancel: "Cancel",
  recover: "Recover",
  rotateTickets: "New tickets",
  check: "Run checks",
};

export function confirmationOf(action: string, session: SessionBody): Confirmation {
  const label = ACTION_LABELS[action] ?? action;
  const title = `${label}: ${nameOf(session)}`;
  const expected = session.progress?.expectedDowntimeMs ?? null;
  const standstill = expected === null ? "for a moment" : `for about ${duration(expected)}`;
  const of = (consequence: string, dangerous = false): Confirmation => ({
    title,
    consequence,
    confirm: label,
    dangerous,
  });
  switch (action) {
    case "finalize":
      return of(
        `The workload is suspended ${standstill}, the rest is sent, and it resumes at the destination. Once it has moved there is no way back by cancelling.`,
      );
    case "postcopy":
      return of(
        `The workload resumes at the destination at once and its missing pages follow as they are touched. If the path breaks meanwhile, the workload stops until it returns.`,
        true,
      );
    case "cancel":
      return of(
        "The migration stops and what was copied is discarded. The workload stays at the source and keeps running. A new attempt needs new tickets.",
        true,
      );
    case "pause":
      return of(
        "No more chunks are sent until it is resumed. The workload keeps running at the source, and what it writes meanwhile is sent later.",
      );
    case "resume":
      return of("Chunks are sent again.");
    case "start":
      return of("The first pass over the region begins. The workload keeps running at the source.");
    case "recover":
      return of("The peers are told to connect again and to go on from where they were.");
    case "rotateTickets":
      return of("The tickets that were not used yet are void, and new ones are shown once.");
    case "check":
      return of("Both peers look at what the migration needs. Nothing is changed.");
    default:
      return of("");
  }
}

/** What needs somebody's eye: failed, stuck, not converging. The worst first. */
export function attentionOf(session: SessionBody): { rank: number; why: string } | undefined {
  const verdict = verdictOf(session);
  if (session.state === "failed") return { rank: 0, why: verdict.sentence };
  if (verdict.tone === "bad") return { rank: 1, why: verdict.sentence };
  if (session.state === "paused") return { rank: 2, why: verdict.sentence };
  if (verdict.tone === "warn") return { rank: 3, why: verdict.sentence };
  return undefined;
}
