/**
 * One project's sessions, as the API reads and makes them.
 *
 * `projectSessions` is the one place where a query gets its project: nothing here can reach a session of
 * another one, whatever id it is given.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import {
  and,
  asc,
  count,
  desc,
  eq,
  gt,
  gte,
  ilike,
  inArray,
  lt,
  or,
  sql,
  type SQL,
} from "drizzle-orm";

import { toHex } from "../protocol/bytes.ts";
import {
  ROLES,
  SESSION_ID_BYTES,
  SESSION_STATES,
  TICKET_TOKEN_BYTES,
  isEnded,
  type Role,
  type SessionState,
} from "../protocol/ids.ts";
import { RelayError } from "../errors.ts";
import { relayLimits, type RelayLimits } from "../limits.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { addProjectEvent, type NewProjectEvent } from "./project-events.ts";
import { requireRoom } from "./project-limits.ts";
import {
  session,
  sessionEvent,
  ticket,
  usage,
  type SessionCheck,
  type SessionHold,
  type SessionLimits,
  type SessionMode,
  type SessionPolicy,
} from "./schema.ts";
import { appendEvent, sha256 } from "./session-store.ts";

const ENDED = SESSION_STATES.filter(isEnded);

export type SessionRow = typeof session.$inferSelect & {
  readonly bytesFromSeeder: number;
  readonly bytesFromLeecher: number;
  readonly seederJoinedAt: Date | null;
  readonly leecherJoinedAt: Date | null;
};
export type SessionEventRow = typeof sessionEvent.$inferSelect;

export interface NewTicket {
  readonly token: Uint8Array;
  readonly expiresAt: Date;
}

/** Where a page of a list ended: newest first, the id breaking ties. */
export interface SessionPosition {
  readonly createdAt: Date;
  readonly id: string;
}

export interface NewSession {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly mode: SessionMode;
  readonly limits: SessionLimits;
  readonly policy?: SessionPolicy | undefined;
  readonly migrationId?: string | undefined;
  /** Enrolled peers that are ordered to take part. */
  readonly seederPeerId?: string | undefined;
  readonly leecherPeerId?: string | undefined;
  readonly ticketLifetimeMs: number;
  /** Prefix of the API key. */
  readonly createdBy: string;
  /** The relay's, for a project that has none of its own. */
  readonly bounds?: RelayLimits | undefined;
}

export interface CreatedRow {
  readonly id: string;
  readonly tickets: Readonly<Record<Role, NewTicket>>;
}

/** What of a session its project may change; what is not named stays. */
export interface SessionChange {
  readonly name?: string | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly limits?: SessionLimits | undefined;
  readonly policy?: SessionPolicy | undefined;
}

export const SESSION_SORTS = ["-createdAt", "createdAt"] as const;
export type SessionSort = (typeof SESSION_SORTS)[number];

export interface SessionFilter {
  readonly states?: readonly SessionState[] | undefined;
  /** All of these. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** An enrolled peer's id, on either side. */
  readonly peerId?: string | undefined;
  /** Made at this moment or later. */
  readonly since?: Date | undefined;
  readonly migrationId?: string | undefined;
  /** Part of the name, of a label's value or of a host's name, in any case; or the id's beginning. */
  readonly text?: string | undefined;
  readonly sort?: SessionSort | undefined;
}

export interface ProjectSessions {
  /** @throws RelayError `LIMIT_EXCEEDED` */
  create(
    options: NewSession,
  ): Promise<{ row: SessionRow; tickets: Readonly<Record<Role, NewTicket>> }>;
  /**
   * Changes a session, if its version is the one that was seen.
   *
   * @returns Whether it was.
   */
  update(id: string, version: number, change: SessionChange, by: Actor): Promise<boolean>;
  /** Takes an ended session away, with all that belongs to it. @returns Whether it had ended. */
  remove(id: string, by: Actor): Promise<boolean>;
  /** Changes what holds a session back, if that is `from` now. @returns Whether it was. */
  setHold(
    id: string,
    change: { readonly from: SessionHold; readonly to: SessionHold; readonly reason: string },
  ): Promise<boolean>;
  /** New tickets for the roles that nobody has taken yet; the ones before are good for nothing. */
  rotateTickets(
    id: string,
    ticketLifetimeMs: number,
  ): Promise<Readonly<Partial<Record<Role, NewTicket>>>>;
  /** After a post-copy that failed: the destination owns the region, and may go on. @returns Whether it had. */
  reopen(id: string, reason: string): Promise<boolean>;
  setChecks(id: string, checks: readonly SessionCheck[]): Promise<void>;
  get(id: string): Promise<SessionRow | undefined>;
  /** Those of `ids` that are this project's. */
  getMany(ids: readonly string[]): Promise<readonly SessionRow[]>;
  list(
    options: SessionFilter & {
      readonly after?: SessionPosition | undefined;
      readonly limit: number;
    },
  ): Promise<readonly SessionRow[]>;
  events(id: string, afterSeq: number, limit: number): Promise<readonly SessionEventRow[]>;
}

const used = (role: Role) =>
  sql<Date | null>`(select ${ticket.usedAt} from ${ticket}
    where ${ticket.sessionId} = ${session.id} and ${ticket.role} = ${role})`.mapWith(ticket.usedAt);

export function projectSessions(database: Database, projectId: string): ProjectSessions {
  const mine = eq(session.projectId, projectId);

  const select = async (
    where: SQL | undefined,
    limit: number,
    sort: SessionSort = "-createdAt",
  ): Promise<readonly SessionRow[]> => {
    const order = sort === "createdAt" ? asc : desc;
    const rows = await database.run((orm) =>
      orm
        .select({
          session,
          bytesFromSeeder: usage.bytesFromSeeder,
          bytesFromLeecher: usage.bytesFromLeecher,
          seederJoinedAt: used("seeder"),
          leecherJoinedAt: used("leecher"),
        })
        .from(session)
        .leftJoin(usage, eq(usage.sessionId, session.id))
        .where(and(mine, where))
        .orderBy(order(session.createdAt), order(session.id))
        .limit(limit),
    );
    return rows.map((row) => ({
      ...row.session,
      bytesFromSeeder: row.bytesFromSeeder ?? 0,
      bytesFromLeecher: row.bytesFromLeecher ?? 0,
      seederJoinedAt: row.seederJoinedAt,
      leecherJoinedAt: row.leecherJoinedAt,
    }));
  };

  const get = async (id: string): Promise<SessionRow | undefined> =>
    (await select(eq(session.id, id), 1))[0];

  return {
    async create(options) {
      const created = await database.transaction(async (tx) => {
        const bounds = options.bounds ?? relayLimits();
        await requireRoom(tx, projectId, ["pendingSessions", "sessions"], bounds);
        const one = await insertSession(tx, projectId, options);
        await addProjectEvent(tx, sessionCreated(projectId, one.id, options));
        return one;
      });
      const row = await get(created.id);
      if (row === undefined)
        throw new RelayError("INTERNAL", "a session vanished while it was made");
      return { row, tickets: created.tickets };
    },

    async update(id, version, change, by) {
      return await database.transaction(async (tx) => {
        const [before] = await tx
          .select({
            name: session.name,
            labels: session.labels,
            limits: session.limits,
            policy: session.policy,
            times: session.times,
            version: session.version,
          })
          .from(session)
          .where(and(mine, eq(session.id, id)))
          .for("update");
        if (before?.version !== version) return false;
        const set = Object.fromEntries(
          Object.entries(change).filter(([, value]) => value !== undefined),
        );
        const { startedAt, committedAt } = before.times;
        const deadlineMs = change.limits?.deadlineMs;
        const running = startedAt !== undefined && committedAt === undefined;
        await tx
          .update(session)
          .set({
            ...set,
            ...(change.limits === undefined || !running
              ? {}
              : {
                  deadlineAt:
                    deadlineMs === undefined ? null : new Date(Date.parse(startedAt) + deadlineMs),
                }),
            version: sql`${session.version} + 1`,
            updatedAt: sql`now()`,
          })
          .where(eq(session.id, id));
        const changed = Object.keys(set);
        await addAudit(tx, by, {
          action: "session.update",
          targetKind: "session",
          targetId: id,
          before: pick(before, changed),
          after: set,
        });
        await appendEvent(tx, id, "updated", { by: "api", fields: changed.join(",") });
        return true;
      });
    },

    async remove(id, by) {
      return await database.transaction(async (tx) => {
        const [row] = await tx
          .delete(session)
          .where(and(mine, eq(session.id, id), inArray(session.state, ENDED)))
          .returning({ name: session.name, state: session.state });
        if (row === undefined) return false;
        const target = { targetKind: "session", targetId: id, before: { ...row } };
        await addAudit(tx, by, { action: "session.delete", ...target });
        await addProjectEvent(tx, {
          projectId,
          type: "session.deleted",
          subjectKind: "session",
          subjectId: id,
          data: { name: row.name, state: row.state },
        });
        return true;
      });
    },

    async setHold(id, { from, to, reason }) {
      return await database.transaction(async (tx) => {
        const changed = await tx
          .update(session)
          .set({ hold: to, version: sql`${session.version} + 1`, updatedAt: sql`now()` })
          .where(and(mine, eq(session.id, id), eq(session.hold, from)))
          .returning({ id: session.id });
        if (changed.length === 0) return false;
        const type = to === "pause" ? "pauseRequested" : from === "start" ? "started" : "unpaused";
        await appendEvent(tx, id, type, { by: "api", ...(reason === "" ? {} : { reason }) });
        return true;
      });
    },

    async rotateTickets(id, ticketLifetimeMs) {
      return await database.transaction(async (tx) => {
        const made: Partial<Record<Role, NewTicket>> = {};
        const expiresAt = new Date(Date.now() + ticketLifetimeMs);
        for (const role of ROLES) {
          const token = randomBytes(TICKET_TOKEN_BYTES);
          const changed = await tx
            .update(ticket)
            .set({ tokenHash: sha256(token), expiresAt: lifetime(ticketLifetimeMs) })
            .where(
              and(
                eq(ticket.sessionId, id),
                eq(ticket.role, role),
                sql`${ticket.usedAt} is null`,
                sql`exists (select from ${session} where ${session.id} = ${ticket.sessionId}
                  and ${session.projectId} = ${projectId})`,
              ),
            )
            .returning({ role: ticket.role });
          if (changed.length > 0) made[role] = { token, expiresAt };
        }
        const roles = Object.keys(made);
        if (roles.length > 0) {
          await appendEvent(tx, id, "ticketsRotated", { by: "api", roles: roles.join(",") });
        }
        return made;
      });
    },

    async reopen(id, reason) {
      return await database.transaction(async (tx) => {
        const changed = await tx
          .update(session)
          .set({
            state: "postcopy",
            reasonCode: "",
            reasonMessage: "",
            endedAt: null,
            version: sql`${session.version} + 1`,
            updatedAt: sql`now()`,
          })
          .where(
            and(
              mine,
              eq(session.id, id),
              eq(session.state, "failed"),
              eq(session.owner, "leecher"),
            ),
          )
          .returning({ id: session.id });
        if (changed.length === 0) return false;
        const data = { by: "api", ...(reason === "" ? {} : { reason }) };
        await appendEvent(tx, id, "recoverRequested", data);
        return true;
      });
    },

    async setChecks(id, checks) {
      await database.transaction(async (tx) => {
        await tx
          .update(session)
          .set({ checks: [...checks], checkedAt: sql`now()` })
          .where(and(mine, eq(session.id, id)));
        const worst = ["error", "warning", "info", "ok"].find((severity) =>
          checks.some((one) => one.severity === severity),
        );
        await appendEvent(tx, id, "checked", { by: "api", worst: worst ?? "ok" });
      });
    },

    get,

    getMany: async (ids) =>
      ids.length === 0 ? [] : await select(inArray(session.id, [...ids]), ids.length),

    async list({ after, limit, ...filter }) {
      return await select(
        and(matching(filter), positioned(filter.sort, after)),
        limit,
        filter.sort,
      );
    },

    async events(id, afterSeq, limit) {
      return await database.run((orm) =>
        orm
          .select({
            sessionId: sessionEvent.sessionId,
            seq: sessionEvent.seq,
            at: sessionEvent.at,
            type: sessionEvent.type,
            data: sessionEvent.data,
          })
          .from(sessionEvent)
          .innerJoin(session, eq(session.id, sessionEvent.sessionId))
          .where(and(mine, eq(sessionEvent.sessionId, id), gt(sessionEvent.seq, afterSeq)))
          .orderBy(asc(sessionEvent.seq))
          .limit(limit),
      );
    },
  };
}

/** For one more session in a transaction; the caller has seen to it that there is room, and tells of it. */
export async function insertSession(
  tx: Orm,
  projectId: string,
  options: NewSession,
): Promise<CreatedRow> {
  const id = toHex(randomBytes(SESSION_ID_BYTES));
  const { name, labels, mode, limits, policy = {}, createdBy, ticketLifetimeMs } = options;
  const expiresAt = new Date(Date.now() + ticketLifetimeMs);
  const newTicket = (): NewTicket => ({ token: randomBytes(TICKET_TOKEN_BYTES), expiresAt });
  const tickets = { seeder: newTicket(), leecher: newTicket() };
  await tx.insert(session).values({
    id,
    projectId,
    name,
    labels: { ...labels },
    mode,
    limits,
    policy,
    hold: policy.startPaused === true ? "start" : "",
    migrationId: options.migrationId ?? null,
    seederPeerId: options.seederPeerId ?? null,
    leecherPeerId: options.leecherPeerId ?? null,
    createdBy,
  });
  await tx.insert(ticket).values(
    ROLES.map((role) => ({
      sessionId: id,
      role,
      tokenHash: sha256(tickets[role].token),
      expiresAt: lifetime(ticketLifetimeMs),
    })),
  );
  return { id, tickets };
}

export function sessionCreated(
  projectId: string,
  id: string,
  { name, migrationId, createdBy }: NewSession,
): NewProjectEvent {
  const data = { name, by: createdBy, ...(migrationId === undefined ? {} : { migrationId }) };
  return { projectId, type: "session.created", subjectKind: "session", subjectId: id, data };
}

/** By the database's clock, which is also the one that decides when it is over. */
const lifetime = (ms: number) => sql`now() + ${ms}::int * interval '1 millisecond'`;

function pick(from: Readonly<Record<string, unknown>>, names: readonly string[]) {
  return Object.fromEntries(names.map((name) => [name, from[name]]));
}

function matching(filter: SessionFilter): SQL | undefined {
  const { states, labels, peerId, since, migrationId, text } = filter;
  return and(
    states === undefined ? undefined : inArray(session.state, [...states]),
    labels === undefined ? undefined : sql`${session.labels} @> ${JSON.stringify(labels)}::jsonb`,
    peerId === undefined
      ? undefined
      : or(eq(session.seederPeerId, peerId), eq(session.leecherPeerId, peerId)),
    since === undefined ? undefined : gte(session.createdAt, since),
    migrationId === undefined ? undefined : eq(session.migrationId, migrationId),
    text === undefined ? undefined : containing(text),
  );
}

function containing(text: string): SQL | undefined {
  const escaped = text.replaceAll(/[\\%_]/g, (sign) => `\\${sign}`);
  const within = `%${escaped}%`;
  return or(
    ilike(session.name, within),
    ilike(session.regionName, within),
    sql`${session.seeder}->>'host' ilike ${within}`,
    sql`${session.leecher}->>'host' ilike ${within}`,
    sql`exists (select from jsonb_each_text(${session.labels}) as label where label.value ilike ${within})`,
    sql`replace(${session.id}::text, '-', '') like ${`${escaped.toLowerCase()}%`}`,
  );
}

function positioned(
  sort: SessionSort = "-createdAt",
  after: SessionPosition | undefined,
): SQL | undefined {
  if (after === undefined) return undefined;
  const past = sort === "createdAt" ? gt : lt;
  return or(
    past(session.createdAt, after.createdAt),
    and(eq(session.createdAt, after.createdAt), past(session.id, after.id)),
  );
}

/** When a deadline that was not met is looked at again. */
const DEADLINE_RETRY_MS = 5_000;

/**
 * Sessions whose deadline has passed. Each is given once to whoever asks, and again after a while to the next, until
 * `endDeadline`: a relay that was killed in the middle, or a peer that was away, must not keep it from being met. At
 * most `limit`, the oldest first.
 */
export async function sessionsPastDeadline(
  database: Database,
  limit: number,
): Promise<readonly { readonly id: string; readonly projectId: string }[]> {
  return await database.run((orm) =>
    orm
      .update(session)
      .set({ deadlineAt: sql`now() + ${DEADLINE_RETRY_MS} * interval '1 millisecond'` })
      .where(
        sql`${session.id} in (select s.id from ${session} s where s.deadline_at <= now()
          order by s.deadline_at limit ${limit} for update skip locked)`,
      )
      .returning({ id: session.id, projectId: session.projectId }),
  );
}

/** The deadline was met, or there is nothing more to do about it. */
export async function endDeadline(database: Database, id: string): Promise<void> {
  await database.run((orm) =>
    orm.update(session).set({ deadlineAt: null }).where(eq(session.id, id)),
  );
}

/** The states of some sessions, for those that are there. */
export async function statesOf(
  database: Database,
  ids: readonly string[],
): Promise<ReadonlyMap<string, SessionState>> {
  if (ids.length === 0) return new Map();
  const rows = await database.run((orm) =>
    orm
      .select({ id: session.id, state: session.state })
      .from(session)
      .where(inArray(session.id, [...ids])),
  );
  return new Map(rows.map(({ id, state }) => [id, state]));
}

/** Sessions by state, over all projects, for a gauge. */
export async function countByState(database: Database): Promise<Record<SessionState, number>> {
  const rows = await database.run((orm) =>
    orm.select({ state: session.state, count: count() }).from(session).groupBy(session.state),
  );
  const found = new Map(rows.map((row) => [row.state, row.count]));
  // One entry for each state, from the list of them.
  return Object.fromEntries(
    SESSION_STATES.map((state) => [state, found.get(state) ?? 0]),
  ) as Record<SessionState, number>;
}

/** Sessions that a peer can no longer join, its ticket being over; at most `limit`, the oldest first. */
export async function abandonedSessions(
  database: Database,
  limit: number,
): Promise<readonly string[]> {
  const rows = await database.run((orm) =>
    orm
      .select({ id: session.id })
      .from(session)
      .where(
        and(
          eq(session.state, "pending"),
          sql`exists (select from ${ticket} where ${ticket.sessionId} = ${session.id}
            and ${ticket.usedAt} is null and ${ticket.expiresAt} <= now())`,
        ),
      )
      .orderBy(asc(session.createdAt))
      .limit(limit),
  );
  return rows.map((row) => row.id);
}
