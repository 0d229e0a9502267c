/**
 * What happens in a project, as server-sent events that lose nothing.
 *
 * A stream begins with `snapshot` (the newest sessions) and goes on with `event`, one for each thing that happened, and
 * `session`, one for each session that looks different, with all that the API knows of it. Events carry ids: a reader
 * that comes back with the last one it saw gets those after it, from the database. States carry none, since the newest
 * is as good as all of them; what waits to be sent of these is a set of session ids.
 *
 * @module
 */
import type { ProjectEventRow } from "../db/project-events.ts";
import { Bell, eventText, HEARTBEAT, HEARTBEAT_MS, pulledStream } from "./pulled-stream.ts";
import type { SessionBody } from "./schemas.ts";

export interface EventStreamOptions {
  /** Where the reader's events begin: those after this number. */
  readonly after: number;
  /** Some events between what the reader has seen and what is kept are gone. */
  readonly hasGap: boolean;
  readonly wants: { readonly events: boolean; readonly sessions: boolean };
  readonly snapshot: () => Promise<readonly SessionBody[]>;
  /** Those of the ids that the reader may see. */
  readonly sessions: (ids: readonly string[]) => Promise<readonly SessionBody[]>;
  readonly events: (afterId: number) => Promise<readonly ProjectEventRow[]>;
  readonly subscribe: (listener: (sessionId: string) => void) => () => void;
  /** Whether the reader may still read. */
  readonly stillAllowed: () => Promise<boolean>;
  readonly onEnd: () => void;
  readonly signal: AbortSignal;
}

/** A session's changes are put together for this long. */
const COALESCE_MS = 250;
/** What other relays of the database wrote is found this often. */
const LOOK_MS = 1_000;
/** More changed sessions than this are a new snapshot. */
const CHANGED_MAX = 2_000;
const SESSIONS_PER_BATCH = 100;

export function eventBody({ id, at, type, subjectKind, subjectId, data }: ProjectEventRow) {
  const subject = { kind: subjectKind, id: subjectId };
  return { id, at: at.toISOString(), type, subject, data };
}

export function eventStream(options: EventStreamOptions): ReadableStream<Uint8Array> {
  const { wants } = options;
  const changed = new Set<string>();
  const bell = new Bell();
  let snapshotDue = true;
  let gapDue = options.hasGap;
  let last = options.after;
  let saidAtMs = performance.now();

  const unsubscribe = options.subscribe((sessionId) => {
    if (changed.size < CHANGED_MAX) {
      changed.add(sessionId);
    } else {
      changed.clear();
      snapshotDue = true;
    }
    bell.ring();
  });

  const begin = async (): Promise<string> => {
    snapshotDue = false;
    changed.clear();
    const sessions = wants.sessions ? await options.snapshot() : [];
    const gap = gapDue ? eventText("gap", { after: options.after }) : "";
    gapDue = false;
    return `retry: 1000\n${gap}${eventText("snapshot", { sessions }, last)}`;
  };

  const next = async (): Promise<string> => {
    if (snapshotDue) return await begin();
    const isChanged = changed.size > 0 || (await bell.rung(LOOK_MS));
    if (isChanged) await new Promise((resolve) => setTimeout(resolve, COALESCE_MS));
    let text = "";
    if (wants.events) {
      for (const row of await options.events(last)) {
        last = row.id;
        text += eventText("event", eventBody(row), row.id);
      }
    }
    if (wants.sessions && !snapshotDue) {
      const ids = [...changed].slice(0, SESSIONS_PER_BATCH);
      for (const id of ids) changed.delete(id);
      const bodies = ids.length === 0 ? [] : await options.sessions(ids);
      for (const body of bodies) text += eventText("session", body);
    } else {
      changed.clear();
    }
    if (text === "" && performance.now() - saidAtMs >= HEARTBEAT_MS) text = HEARTBEAT;
    if (text !== "") saidAtMs = performance.now();
    return text;
  };

  return pulledStream({
    next,
    stillAllowed: options.stillAllowed,
    signal: options.signal,
    onEnd: () => {
      unsubscribe();
      bell.ring();
      options.onEnd();
    },
  });
}
