/**
 * What state a session shows, and what may be done to it: pure functions of its record and of who is connected.
 *
 * ```
 * pending → joined → tracking → precopy → finalizing → suspended → committed → postcopy → done
 *    └────────┴─────────┴──────────┴──────────┴───────────┴→ cancelled     failed: recover, if committed
 * ```
 *
 * The record says how far a session came; whether it goes on at the moment, only who is connected says. A relay that
 * was killed writes nothing down, and after it nobody is connected.
 *
 * @module
 */
import { isEnded, type Role, type SessionState } from "../protocol/ids.ts";
import type { SessionHold, SessionMode, SessionPolicy } from "../db/schema.ts";

export const SESSION_ACTIONS = [
  "start",
  "finalize",
  "postcopy",
  "pause",
  "resume",
  "cancel",
  "recover",
  "rotateTickets",
  "check",
] as const;
export type SessionAction = (typeof SESSION_ACTIONS)[number];

export interface SessionFacts {
  /** As it is recorded. */
  readonly state: SessionState;
  readonly owner: Role;
  readonly hold: SessionHold;
  readonly mode: SessionMode;
  readonly policy: SessionPolicy;
  /** Of the peers, who is connected. */
  readonly here: Readonly<Record<Role, boolean>>;
  /** A ticket that nobody has used. */
  readonly hasUnusedTicket: boolean;
}

/**
 * States in which both peers are at work, and which therefore rest while one of them is away. Not `joined` and
 * `committed`: these say what was decided, whoever is there.
 */
export const AT_WORK: ReadonlySet<SessionState> = new Set([
  "tracking",
  "precopy",
  "finalizing",
  "suspended",
  "postcopy",
]);

/** States in which both peers are at work and the workload still runs at the source. */
const FINALIZABLE: ReadonlySet<SessionState> = new Set(["joined", "tracking", "precopy"]);
/** States in which a hold keeps chunks back; while the workload stands still nothing is kept. */
const HOLDABLE: ReadonlySet<SessionState> = new Set(["tracking", "precopy", "postcopy"]);

/** What is shown as the state. */
export function shownState(facts: SessionFacts): SessionState {
  return whyPaused(facts) === undefined ? facts.state : "paused";
}

export interface Pause {
  /** `PAUSED_BY_RELAY`: a peer is away; `PAUSED_BY_API`; `PAUSED_BY_POLICY`: it waits for `start`. */
  readonly code: "PAUSED_BY_RELAY" | "PAUSED_BY_API" | "PAUSED_BY_POLICY";
  readonly message: string;
}

/** Why a session that is at work rests; `undefined` if it does not. */
export function whyPaused({ state, hold, here }: SessionFacts): Pause | undefined {
  if (!AT_WORK.has(state)) return undefined;
  if (!here.seeder || !here.leecher) {
    const message =
      !here.seeder && !here.leecher
        ? "neither peer is connected"
        : `the ${here.seeder ? "leecher" : "seeder"} is not connected`;
    return { code: "PAUSED_BY_RELAY", message };
  }
  if (hold === "" || !HOLDABLE.has(state)) return undefined;
  return hold === "pause"
    ? { code: "PAUSED_BY_API", message: "somebody paused it: resume it" }
    : { code: "PAUSED_BY_POLICY", message: "it waits to be started" };
}

/** What stands in the way of a session's progress, in words for programs. */
export function blockedBy({ state, hold, here, hasUnusedTicket }: SessionFacts): string[] {
  if (isEnded(state)) return [];
  return [
    ...(here.seeder ? [] : ["seederAway"]),
    ...(here.leecher ? [] : ["leecherAway"]),
    ...(hasUnusedTicket ? ["ticketUnused"] : []),
    ...(hold === "pause" ? ["paused"] : hold === "start" ? ["notStarted"] : []),
  ];
}

/** Whether the policy lets a session hand over before everything is there. */
export function mayPostcopy({ mode, policy }: Pick<SessionFacts, "mode" | "policy">): boolean {
  return policy.allowPostcopy ?? mode === "live";
}

/** What the API would not refuse now, in the order of `SESSION_ACTIONS`. */
export function allowedActions(facts: SessionFacts): SessionAction[] {
  return SESSION_ACTIONS.filter((action) => isAllowed(action, facts));
}

function isAllowed(action: SessionAction, facts: SessionFacts): boolean {
  const { state, owner, hold, here } = facts;
  if (isEnded(state)) return action === "recover" && state === "failed" && owner === "leecher";
  const bothHere = here.seeder && here.leecher;
  switch (action) {
    case "start":
      return hold === "start";
    case "finalize":
      return owner === "seeder" && FINALIZABLE.has(shownState(facts)) && hold === "";
    case "postcopy":
      if (owner !== "seeder" || !mayPostcopy(facts)) return false;
      // Also when the hand-over is under way: then it no longer waits for the last chunks.
      if (state === "finalizing" || state === "suspended") return bothHere;
      return FINALIZABLE.has(shownState(facts)) && hold === "";
    case "pause":
      if (hold !== "") return false;
      return state === "pending" || state === "joined" || HOLDABLE.has(state);
    case "resume":
      return hold === "pause";
    case "cancel":
      return owner === "seeder";
    case "recover":
      return owner === "leecher";
    case "rotateTickets":
      return facts.hasUnusedTicket && owner === "seeder";
    case "check":
      return true;
  }
}
