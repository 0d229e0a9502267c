/**
 * Tickets, ownership and phases of sessions, as the switchboard asks for them.
 *
 * The row of a session decides who owns its region: a commit and a cancel both change that row under its
 * lock, so one of them finds the other done.
 *
 * @module
 */
import { createHash, timingSafeEqual } from "node:crypto";

import { and, eq, sql } from "drizzle-orm";

import { toHex } from "../protocol/bytes.ts";
import { ProtocolError } from "../protocol/errors.ts";
import { PROGRESS_FIELDS, type Progress } from "../protocol/frame.ts";
import { isEnded, type Role, type SessionState } from "../protocol/ids.ts";
import { TEXT_BYTES_MAX } from "../protocol/limits.ts";
import { RelayError } from "../errors.ts";
import type {
  CommitOutcome,
  JoinedSession,
  SessionBounds,
  SessionStore,
  StateChange,
} from "../switchboard/session-store.ts";
import { addProjectEvent, eventPart } from "./project-events.ts";
import { createChunkIndex, type ChunkIndex, type ChunkIndexOptions } from "./chunk-index.ts";
import { createRegionStatement } from "./chunk-index-statements.ts";
import type { Database, Orm, Row, Statement } from "./database.ts";
import { termsOf } from "./session-terms.ts";
import { EVENTS_PER_SESSION_MAX, INDEX_CHUNKS_MAX } from "./limits.ts";
import {
  project,
  session,
  sessionEvent,
  ticket,
  type ProjectLimits,
  type SessionLimits,
  type SessionTimes,
} from "./schema.ts";
import type { RelayLimits } from "../limits.ts";

export type EventData = Readonly<Record<string, string | number | boolean>>;

export interface DatabaseSessionStore extends SessionStore {
  readonly index: ChunkIndex;
  /** Adds to what a session has moved through the relay. */
  addUsage(sessionId: Uint8Array, moved: MovedBytes): Promise<void>;
}

/** Since it was last told. */
export interface MovedBytes extends Readonly<Record<Role, number>> {
  /** How long both peers were connected. */
  readonly pairedMs: number;
  /** The kind of link. */
  readonly path: string;
}

export interface SessionStoreOptions extends ChunkIndexOptions {
  /** Told once per session that ended with a measured downtime. */
  readonly onDowntime?: (downtimeMs: number) => void;
  /** Told once per session that is done: seconds since its peers had joined. */
  readonly onDone?: (seconds: number) => void;
  /** Of projects that have no bounds of their own. Default: no rate, the same weight. */
  readonly defaults?: ShareDefaults;
}

type ShareDefaults = Pick<RelayLimits, "relayedBytesPerS" | "relayWeight">;

export function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

const commitStatement: Statement = {
  name: "session_commit",
  text: `with changed as (
      update session set owner = 'leecher', owner_epoch = $2::bigint, state = 'committed',
        reason_code = '', reason_message = '', version = version + 1, event_seq = event_seq + 1,
        times = jsonb_build_object('committedAt', now()) || times, updated_at = now(), deadline_at = null
      where id = $1 and owner = 'seeder' and owner_epoch < $2::bigint
        and state not in ('cancelled', 'failed', 'done')
      returning id, project_id, owner, owner_epoch, state, event_seq
    ), noted as (
      insert into session_event (session_id, seq, type, data)
      select id, event_seq, 'committed', jsonb_build_object('by', 'leecher', 'epoch', owner_epoch)
      from changed
    ), ${eventPart("told", "changed", "'session.committed'", "jsonb_build_object('by', 'leecher', 'epoch', owner_epoch)")}
    select owner, owner_epoch, state from changed`,
};

/** A cancel counts against a commit: one statement, as the commit is. How it ended is always noted. */
const cancelStatement: Statement = {
  name: "session_cancel",
  text: `with changed as (
      update session set state = 'cancelled', reason_code = $2, reason_message = $3,
        version = version + 1, event_seq = event_seq + 1, updated_at = now(), ended_at = now(),
        deadline_at = null
      where id = $1 and owner = 'seeder' and state not in ('cancelled', 'failed', 'done')
      returning id, project_id, event_seq, progress
    ), noted as (
      insert into session_event (session_id, seq, type, data) select id, event_seq, 'cancelled', $4::jsonb
      from changed
    ), ${eventPart("told", "changed", "'session.cancelled'", "$4::jsonb")}
    select coalesce((progress->>'downtimeMs')::float8, 0) as downtime_ms from changed`,
};

const rejoinStatement: Statement = {
  name: "session_rejoin",
  text: `select ticket.peer_key, session.owner, session.owner_epoch, session.state,
      session.project_id, session.mode, session.limits, session.hold, project.limits as project_limits
    from ticket join session on session.id = ticket.session_id
    join project on project.id = session.project_id
    where ticket.session_id = $1 and ticket.role = $2`,
};

const holdStatement: Statement = {
  name: "session_hold",
  text: "select hold from session where id = $1",
};

const ownerStatement: Statement = {
  name: "session_owner",
  text: "select owner, owner_epoch, state from session where id = $1",
};

export function createSessionStore(
  database: Database,
  options: SessionStoreOptions = {},
): DatabaseSessionStore {
  async function ownerRow(id: string): Promise<Owned> {
    const [row] = await database.decide(ownerStatement, [id]);
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such session");
    return ownedOf(row);
  }

  async function cancel(id: string, change: StateChange): Promise<boolean> {
    const reason = plainText(change.reason);
    const { reasonCode } = reasonOf(change, reason);
    const data = JSON.stringify({ by: change.by, ...(reason === "" ? {} : { reason }) });
    const [row] = await database.decide(cancelStatement, [id, reasonCode, reason, data]);
    if (row === undefined) return (await ownerRow(id)).state === "cancelled";
    const downtimeMs = Number(row["downtime_ms"]);
    if (downtimeMs > 0) options.onDowntime?.(downtimeMs);
    return true;
  }

  return {
    index: createChunkIndex(database, options),

    async useTicket({ sessionId, role, token, peerKey }) {
      const id = toHex(sessionId);
      const given = sha256(token);
      return await database.transaction(async (tx) => {
        const tickets = await tx
          .select()
          .from(ticket)
          .where(eq(ticket.sessionId, id))
          .orderBy(ticket.role)
          .for("update");
        // Both are compared whatever the first says, and both as hashes: time tells nothing.
        const matches = tickets.filter((row) => timingSafeEqual(row.tokenHash, given));
        const match = matches[0];
        if (match === undefined) {
          throw new ProtocolError("TICKET_UNKNOWN", "this relay does not know the ticket");
        }
        if (match.role !== role) {
          throw new ProtocolError("TICKET_WRONG_ROLE", `this ticket is for the ${match.role}`);
        }
        const joined = await joinedSession(tx, id, sessionId, options.defaults);
        if (isEnded(joined.state)) {
          throw new ProtocolError("SESSION_ENDED", `the session is over: ${joined.state}`);
        }
        if (match.peerKey !== null) {
          if (timingSafeEqual(match.peerKey, peerKey)) return joined;
          throw new ProtocolError("TICKET_USED", "this ticket was used before, by another peer");
        }
        const used = await tx
          .update(ticket)
          .set({ usedAt: sql`now()`, peerKey })
          .where(
            and(
              eq(ticket.sessionId, id),
              eq(ticket.role, role),
              sql`${ticket.usedAt} is null`,
              sql`${ticket.expiresAt} > now()`,
            ),
          )
          .returning({ role: ticket.role });
        if (used.length === 0) {
          throw new ProtocolError("TICKET_EXPIRED", "this ticket was not used in time");
        }
        return joined;
      });
    },

    async rejoin({ sessionId, role, peerKey }) {
      const [row] = await database.decide(rejoinStatement, [toHex(sessionId), role]);
      const known = row?.["peer_key"];
      if (row === undefined || !(known instanceof Uint8Array) || !timingSafeEqual(known, peerKey)) {
        throw new ProtocolError("PEER_UNKNOWN", "this peer has not joined the session");
      }
      const bounds = boundsOf(
        String(row["project_id"]).replaceAll("-", ""),
        // Written by this relay's own API, from the same types.
        row["limits"] as SessionLimits,
        row["project_limits"] as ProjectLimits,
        options.defaults,
      );
      const terms = termsOf({
        mode: row["mode"] === "precopy" ? "precopy" : "live",
        // As above.
        limits: row["limits"] as SessionLimits,
      });
      return {
        sessionId: sessionId.slice(),
        ...ownedOf(row),
        bounds,
        held: row["hold"] !== "",
        terms,
      };
    },

    async commit(sessionId, epoch) {
      const id = toHex(sessionId);
      const [row] = await database.decide(commitStatement, [id, epoch]);
      const found = row === undefined ? await ownerRow(id) : ownedOf(row);
      return {
        ...found,
        committed: found.owner === "leecher" && found.ownerEpoch === epoch,
      };
    },

    async owner(sessionId): Promise<CommitOutcome> {
      const found = await ownerRow(toHex(sessionId));
      return { ...found, committed: found.owner === "leecher" };
    },

    async describe(sessionId, role, describe) {
      const id = toHex(sessionId);
      const peer = { host: plainText(describe.host), version: plainText(describe.version) };
      const changed = { updatedAt: sql`now()`, version: sql`${session.version} + 1` };
      const described = { by: role, host: peer.host, version: peer.version };
      if (role === "leecher") {
        await database.transaction(async (tx) => {
          await tx
            .update(session)
            .set({ leecher: peer, ...changed })
            .where(eq(session.id, id));
          await appendEvent(tx, id, "described", described);
        });
        return;
      }
      const { regionBytes, chunkBytes } = describe;
      const chunkCount = Math.ceil(regionBytes / chunkBytes);
      const updated = await database.transaction(async (tx) => {
        const rows = await tx
          .update(session)
          .set({
            seeder: peer,
            regionName: plainText(describe.regionName),
            regionBytes,
            chunkBytes,
            chunkCount,
            ...changed,
          })
          .where(
            and(
              eq(session.id, id),
              sql`(${session.regionBytes} is null or
                (${session.regionBytes} = ${regionBytes} and ${session.chunkBytes} = ${chunkBytes}))`,
            ),
          )
          .returning({ id: session.id });
        if (rows.length > 0) await appendEvent(tx, id, "described", { ...described, regionBytes });
        return rows;
      });
      if (updated.length === 0) {
        throw new ProtocolError("FRAME_UNEXPECTED", "the region of a session does not change");
      }
      if (chunkCount <= INDEX_CHUNKS_MAX)
        await database.query(createRegionStatement, [id, chunkCount]);
    },

    async setState(sessionId, change) {
      const id = toHex(sessionId);
      if (change.state === "cancelled") return await cancel(id, change);
      const outcome: {
        readonly recorded: boolean;
        readonly downtimeMs?: number;
        readonly seconds?: number | undefined;
      } = await database.transaction(async (tx) => {
        const [row] = await tx
          .select({
            projectId: session.projectId,
            limits: session.limits,
            state: session.state,
            owner: session.owner,
            reasonMessage: session.reasonMessage,
            eventSeq: session.eventSeq,
            progress: session.progress,
            times: session.times,
            unused: sql<number>`(select count(*)::int from ${ticket}
              where ${ticket.sessionId} = ${session.id} and ${ticket.usedAt} is null)`,
          })
          .from(session)
          .where(eq(session.id, id))
          .for("update");
        if (row === undefined) return { recorded: false };
        const verdict = judge({ ...row, bothJoined: Number(row.unused) === 0 }, change);
        if (verdict === "refuse") return { recorded: false };
        if (verdict === "same") return { recorded: true };

        const reason = plainText(change.reason);
        const ends = isEnded(change.state) && verdict === "change";
        const noted = row.eventSeq < EVENTS_PER_SESSION_MAX || ends;
        const seq = row.eventSeq + 1;
        const type = EVENT_TYPES[change.state] ?? change.state;
        const data = { by: change.by, ...(reason === "" ? {} : { reason }) };
        if (noted) await tx.insert(sessionEvent).values({ sessionId: id, seq, type, data });
        const { deadlineMs } = row.limits;
        const milestone = verdict === "change" ? MILESTONES[change.state] : undefined;
        const [written] = await tx
          .update(session)
          .set({
            ...(noted ? { eventSeq: seq } : {}),
            ...(verdict === "note" ? {} : { state: change.state, ...reasonOf(change, reason) }),
            // What is there stays: a milestone is the first time it was met.
            ...(milestone === undefined
              ? {}
              : {
                  times: sql`jsonb_build_object(${milestone}::text, now()) || ${session.times}`,
                }),
            ...(ends ? { endedAt: sql`now()`, deadlineAt: null } : {}),
            // It runs from the first step, once.
            ...(milestone === "startedAt" &&
            deadlineMs !== undefined &&
            row.times.startedAt === undefined
              ? { deadlineAt: sql`now() + ${deadlineMs} * interval '1 millisecond'` }
              : {}),
            version: sql`${session.version} + 1`,
            updatedAt: sql`now()`,
          })
          .where(eq(session.id, id))
          .returning({
            // By the database's clock, which set the other one.
            seconds: sql<
              string | null
            >`extract(epoch from now() - (${session.times}->>'joinedAt')::timestamptz)`,
          });
        if (noted) {
          const event = { projectId: row.projectId, type: `session.${type}`, data };
          await addProjectEvent(tx, { ...event, subjectKind: "session", subjectId: id });
        }
        const seconds = written?.seconds;
        const isDone = ends && change.state === "done" && typeof seconds === "string";
        return {
          recorded: true,
          downtimeMs: ends ? (row.progress?.downtimeMs ?? 0) : 0,
          seconds: isDone ? Number(seconds) : undefined,
        };
      });
      if (outcome.seconds !== undefined) options.onDone?.(outcome.seconds);
      if ((outcome.downtimeMs ?? 0) > 0) options.onDowntime?.(outcome.downtimeMs ?? 0);
      return outcome.recorded;
    },

    async saveProgress(sessionId, progress) {
      const known = Object.fromEntries(PROGRESS_FIELDS.map((field) => [field, progress[field]]));
      await database.run((orm) =>
        orm
          .update(session)
          .set({
            progress: sql`${JSON.stringify(known)}::jsonb`,
            progressAt: sql`now()`,
            percentSent: sql`greatest(${session.percentSent}, ${percentSent(progress)}::float8)`,
          })
          .where(eq(session.id, toHex(sessionId))),
      );
    },

    async isHeld(sessionId) {
      const [row] = await database.decide(holdStatement, [toHex(sessionId)]);
      return row !== undefined && row["hold"] !== "";
    },

    async addEvent(sessionId, type, data) {
      await database.transaction((tx) => appendEvent(tx, toHex(sessionId), type, data));
    },

    async addUsage(sessionId, { seeder, leecher, pairedMs, path }) {
      const values = [toHex(sessionId), seeder, leecher, path, Math.round(pairedMs)];
      await database.query(usageStatement, values);
    },
  };
}

/** Of the session, and of its project's day in UTC. Seconds are counted in whole ones, once there are some. */
const usageStatement: Statement = {
  name: "usage_add",
  text: `with of as (select id, project_id from session where id = $1),
    by_session as (
      insert into "usage" (session_id, project_id, bytes_from_seeder, bytes_from_leecher)
      select id, project_id, $2::bigint, $3::bigint from of
      on conflict (session_id) do update set updated_at = now(),
        bytes_from_seeder = "usage".bytes_from_seeder + excluded.bytes_from_seeder,
        bytes_from_leecher = "usage".bytes_from_leecher + excluded.bytes_from_leecher
    )
    insert into usage_day (project_id, day, path, bytes, session_seconds)
    select project_id, (now() at time zone 'utc')::date, $4, $2::bigint + $3::bigint,
      round($5::float8 / 1000)::bigint
    from of
    on conflict (project_id, day, path) do update set
      bytes = usage_day.bytes + excluded.bytes,
      session_seconds = usage_day.session_seconds + excluded.session_seconds`,
};

/** Numbers an event and writes it, unless the session has had its share. */
export async function appendEvent(
  tx: Orm,
  id: string,
  type: string,
  data: EventData,
): Promise<void> {
  const [row] = await tx
    .update(session)
    .set({ eventSeq: sql`${session.eventSeq} + 1` })
    .where(and(eq(session.id, id), sql`${session.eventSeq} < ${EVENTS_PER_SESSION_MAX}`))
    .returning({ seq: session.eventSeq, projectId: session.projectId });
  if (row === undefined) return;
  const clean = Object.fromEntries(
    Object.entries(data).map(([key, value]) => [
      plainText(key),
      typeof value === "string" ? plainText(value) : value,
    ]),
  );
  const named = plainText(type);
  await tx.insert(sessionEvent).values({ sessionId: id, seq: row.seq, type: named, data: clean });
  await addProjectEvent(tx, {
    projectId: row.projectId,
    type: `session.${named}`,
    subjectKind: "session",
    subjectId: id,
    data: clean,
  });
}

/** Events are called by their state, but for those where another word says what happened. */
const EVENT_TYPES: Partial<Record<SessionState, string>> = { postcopy: "resumed" };

/** Of the region, copied at least once: 0 to 100. */
export function percentSent({ chunksSent, chunksTotal }: Progress): number {
  return chunksTotal === 0 ? 0 : Math.min(100, (chunksSent / chunksTotal) * 100);
}

const MILESTONES: Partial<Record<SessionState, keyof SessionTimes>> = {
  joined: "joinedAt",
  tracking: "startedAt",
  finalizing: "finalizeAt",
  suspended: "suspendedAt",
  committed: "committedAt",
  postcopy: "resumedAt",
  done: "doneAt",
};

interface Current {
  readonly state: SessionState;
  readonly owner: Role;
  readonly reasonMessage: string;
  readonly bothJoined: boolean;
}

/**
 * What a report of a phase does: state and authority always tell the same story.
 *
 * `note` keeps it as an event and leaves the state: a peer that reconnects has joined again, and that
 * is no step back.
 */
function judge(current: Current, change: StateChange): "refuse" | "same" | "note" | "change" {
  if (isEnded(current.state)) return current.state === change.state ? "same" : "refuse";
  switch (change.state) {
    case "pending":
    // By a statement of its own.
    case "cancelled":
      return "refuse";
    case "joined":
      return current.state === "pending" && current.bothJoined ? "change" : "note";
    case "tracking":
    case "precopy":
    case "finalizing":
    case "suspended":
      if (current.owner !== "seeder") return "refuse";
      break;
    case "committed":
    case "postcopy":
    case "done":
      if (current.owner !== "leecher") return "refuse";
      break;
    case "failed":
      // The region is the leecher's: it may finish yet, when the seeder's host is back.
      if (current.owner === "leecher" && change.by === "seeder") return "note";
      break;
    case "paused":
      break;
  }
  const same = current.state === change.state && current.reasonMessage === plainText(change.reason);
  return same ? "same" : "change";
}

function reasonOf(
  change: StateChange,
  reason: string,
): { reasonCode: string; reasonMessage: string } {
  const told = isEnded(change.state) || change.state === "paused" || reason !== "";
  const reasonCode = told ? `${change.state}_BY_${change.by}`.toUpperCase() : "";
  return { reasonCode, reasonMessage: reason };
}

interface Owned {
  readonly owner: Role;
  readonly ownerEpoch: number;
  readonly state: SessionState;
}

function ownedOf(row: Row): Owned {
  return {
    owner: row["owner"] === "leecher" ? "leecher" : "seeder",
    ownerEpoch: Number(row["owner_epoch"]),
    // Only this file writes the column, and from the same type.
    state: row["state"] as SessionState,
  };
}

async function joinedSession(
  tx: Orm,
  id: string,
  sessionId: Uint8Array,
  defaults: ShareDefaults | undefined,
): Promise<JoinedSession> {
  const [row] = await tx
    .select({
      owner: session.owner,
      ownerEpoch: session.ownerEpoch,
      state: session.state,
      projectId: session.projectId,
      mode: session.mode,
      limits: session.limits,
      hold: session.hold,
      projectLimits: project.limits,
    })
    .from(session)
    .innerJoin(project, eq(project.id, session.projectId))
    .where(eq(session.id, id));
  if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such session");
  const { owner, ownerEpoch, state, projectId, mode, limits, hold, projectLimits } = row;
  const bounds = boundsOf(projectId, limits, projectLimits, defaults);
  const held = hold !== "";
  const terms = termsOf({ mode, limits });
  return { sessionId: sessionId.slice(), owner, ownerEpoch, state, bounds, held, terms };
}

function boundsOf(
  projectId: string,
  limits: SessionLimits,
  projectLimits: ProjectLimits,
  defaults: ShareDefaults = { relayedBytesPerS: 0, relayWeight: 1 },
): SessionBounds {
  return {
    projectId,
    bytesPerS: limits.bytesPerS ?? 0,
    project: {
      bytesPerS: projectLimits.relayedBytesPerS ?? defaults.relayedBytesPerS,
      weight: projectLimits.relayWeight ?? defaults.relayWeight,
    },
  };
}

/**
 * Text from a peer, fit to be stored and shown on one line: no control characters (the database
 * refuses NUL, a terminal obeys ESC), no half characters, and no more than a frame can hold.
 */
export function plainText(text: string): string {
  // oxlint-disable-next-line no-control-regex -- these are the characters to remove
  const line = text.toWellFormed().replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ");
  // A cut may fall between the halves of a character.
  return line.slice(0, TEXT_BYTES_MAX).toWellFormed();
}
