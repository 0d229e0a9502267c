/**
 * One project's sessions, as the API reads and makes them.
 *
 * `projectSessions` is the one place where a query gets its project: nothing here can reach a session of
 * another one, whatever id it is given.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { and, asc, count, desc, eq, gt, inArray, lt, or, sql, type SQL } from "drizzle-orm";

import { toHex } from "../protocol/bytes.ts";
import {
  ROLES,
  SESSION_ID_BYTES,
  SESSION_STATES,
  TICKET_TOKEN_BYTES,
  type Role,
  type SessionState,
} from "../protocol/ids.ts";
import { RelayError } from "../errors.ts";
import { relayLimits, type RelayLimits } from "../limits.ts";
import type { Database } from "./database.ts";
import { requireRoom } from "./project-limits.ts";
import {
  session,
  sessionEvent,
  ticket,
  usage,
  type SessionLimits,
  type SessionMode,
} from "./schema.ts";
import { sha256 } from "./session-store.ts";

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

export interface ProjectSessions {
  /** @throws RelayError `LIMIT_EXCEEDED` */
  create(options: {
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly mode: SessionMode;
    readonly limits: SessionLimits;
    readonly ticketLifetimeMs: number;
    readonly createdBy: string;
    /** The relay's, for a project that has none of its own. */
    readonly bounds?: RelayLimits | undefined;
  }): Promise<{ row: SessionRow; tickets: Readonly<Record<Role, NewTicket>> }>;
  get(id: string): Promise<SessionRow | undefined>;
  /** Those of `ids` that are this project's. */
  getMany(ids: readonly string[]): Promise<readonly SessionRow[]>;
  list(options: {
    readonly states?: readonly SessionState[] | undefined;
    readonly after?: SessionPosition | undefined;
    readonly limit: number;
  }): Promise<readonly SessionRow[]>;
  events(id: string, afterSeq: number, limit: number): Promise<readonly SessionEventRow[]>;
}

const used = (role: Role) =>
  sql<Date | null>`(select ${ticket.usedAt} from ${ticket}
    where ${ticket.sessionId} = ${session.id} and ${ticket.role} = ${role})`.mapWith(ticket.usedAt);

export function projectSessions(database: Database, projectId: string): ProjectSessions {
  const mine = eq(session.projectId, projectId);

  const select = async (where: SQL | undefined, limit: number): Promise<readonly SessionRow[]> => {
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
        .orderBy(desc(session.createdAt), desc(session.id))
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
    async create({
      name,
      labels,
      mode,
      limits,
      ticketLifetimeMs,
      createdBy,
      bounds = relayLimits(),
    }) {
      const id = toHex(randomBytes(SESSION_ID_BYTES));
      const expiresAt = new Date(Date.now() + ticketLifetimeMs);
      const newTicket = (): NewTicket => ({ token: randomBytes(TICKET_TOKEN_BYTES), expiresAt });
      const tickets = { seeder: newTicket(), leecher: newTicket() };
      await database.transaction(async (tx) => {
        await requireRoom(tx, projectId, ["pendingSessions", "sessions"], bounds);
        await tx.insert(session).values({ id, projectId, name, labels, mode, limits, createdBy });
        await tx.insert(ticket).values(
          ROLES.map((role) => ({
            sessionId: id,
            role,
            tokenHash: sha256(tickets[role].token),
            // By the database's clock, which is also the one that decides when it is over.
            expiresAt: sql`now() + ${ticketLifetimeMs}::int * interval '1 millisecond'`,
          })),
        );
      });
      const row = await get(id);
      if (row === undefined)
        throw new RelayError("INTERNAL", "a session vanished while it was made");
      return { row, tickets };
    },

    get,

    getMany: async (ids) =>
      ids.length === 0 ? [] : await select(inArray(session.id, [...ids]), ids.length),

    async list({ states, after, limit }) {
      const where = and(
        states === undefined ? undefined : inArray(session.state, [...states]),
        after === undefined
          ? undefined
          : or(
              lt(session.createdAt, after.createdAt),
              and(eq(session.createdAt, after.createdAt), lt(session.id, after.id)),
            ),
      );
      return await select(where, limit);
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
