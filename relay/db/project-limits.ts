/**
 * How much of its bounds a project has used, and whether there is room for one more.
 *
 * @module
 */
import { and, count, eq, gte, inArray, isNull, notInArray, sql, sum, type SQL } from "drizzle-orm";
import type { PgTable } from "drizzle-orm/pg-core";

import { limitError, type RelayLimits } from "../limits.ts";
import { SESSION_STATES, isEnded } from "../protocol/ids.ts";
import type { Database, Orm } from "./database.ts";
import { apiKey, peer, project, session, usageDay, webhook, type ProjectLimits } from "./schema.ts";

/** What a project may have so many of. */
export type CountedLimit = "sessions" | "pendingSessions" | "peers" | "apiKeys" | "webhooks";
export type ProjectBounds = Readonly<Record<keyof ProjectLimits, number>>;
export type ProjectUse = Readonly<Record<CountedLimit | "relayedBytesPerMonth", number>>;

const ENDED = SESSION_STATES.filter(isEnded);
const RETRY_AFTER_S = 60;
/** The month of UTC. */
const THIS_MONTH = sql`date_trunc('month', now() at time zone 'utc')::date`;

const WHAT: Readonly<Record<CountedLimit, string>> = {
  sessions: "sessions that have not ended: cancel some",
  pendingSessions: "sessions that wait for their peers: cancel some",
  peers: "enrolled peers: remove some",
  apiKeys: "API keys: revoke some",
  webhooks: "webhooks: delete some",
};

/** A project's own bounds over the relay's. */
export function projectBounds(own: ProjectLimits, relay: RelayLimits): ProjectBounds {
  const bound = (name: keyof ProjectLimits): number => own[name] ?? relay[name];
  return {
    sessions: bound("sessions"),
    pendingSessions: bound("pendingSessions"),
    peers: bound("peers"),
    apiKeys: bound("apiKeys"),
    webhooks: bound("webhooks"),
    relayedBytesPerS: bound("relayedBytesPerS"),
    relayedBytesPerMonth: bound("relayedBytesPerMonth"),
    relayWeight: bound("relayWeight"),
  };
}

/**
 * Holds the project's row, so that of two that add one the second counts the first. Not so hard that what only refers
 * to the project waits: an event does, and has its own lock already.
 *
 * @param more How many are to be added.
 * @throws RelayError `LIMIT_EXCEEDED` if so many more of any of `names` would be too many.
 */
export async function requireRoom(
  tx: Orm,
  projectId: string,
  names: readonly CountedLimit[],
  relay: RelayLimits,
  more = 1,
): Promise<void> {
  const [row] = await tx
    .select({ limits: project.limits })
    .from(project)
    .where(eq(project.id, projectId))
    .for("no key update");
  const bounds = projectBounds(row?.limits ?? {}, relay);
  for (const name of names) {
    const limit = bounds[name];
    if ((await counted(tx, projectId, name)) + more <= limit) continue;
    const met = { limitName: name, limit, retryAfterS: RETRY_AFTER_S };
    throw limitError("LIMIT_EXCEEDED", met, `this project has ${limit} ${WHAT[name]}`);
  }
}

export async function projectUse(
  database: Database,
  projectId: string,
): Promise<{ own: ProjectLimits; use: ProjectUse }> {
  return await database.run(async (orm) => {
    const [row] = await orm
      .select({ limits: project.limits })
      .from(project)
      .where(eq(project.id, projectId));
    const [moved] = await orm
      .select({ bytes: sum(usageDay.bytes) })
      .from(usageDay)
      .where(and(eq(usageDay.projectId, projectId), gte(usageDay.day, THIS_MONTH)));
    return {
      own: row?.limits ?? {},
      use: {
        sessions: await counted(orm, projectId, "sessions"),
        pendingSessions: await counted(orm, projectId, "pendingSessions"),
        peers: await counted(orm, projectId, "peers"),
        apiKeys: await counted(orm, projectId, "apiKeys"),
        webhooks: await counted(orm, projectId, "webhooks"),
        relayedBytesPerMonth: Number(moved?.bytes ?? 0),
      },
    };
  });
}

/** Projects that have moved what they may this month, and how much that is. */
export async function spentProjects(
  database: Database,
  relay: RelayLimits,
): Promise<ReadonlyMap<string, number>> {
  const rows = await database.run((orm) =>
    orm
      .select({ id: project.id, limits: project.limits, bytes: sum(usageDay.bytes) })
      .from(usageDay)
      .innerJoin(project, eq(project.id, usageDay.projectId))
      .where(gte(usageDay.day, THIS_MONTH))
      .groupBy(project.id),
  );
  const spent = new Map<string, number>();
  for (const { id, limits, bytes } of rows) {
    const bound = projectBounds(limits, relay).relayedBytesPerMonth;
    if (bound > 0 && Number(bytes ?? 0) >= bound) spent.set(id, bound);
  }
  return spent;
}

/** Rates and weights of these projects, as they are now. */
export async function projectShares(
  database: Database,
  ids: readonly string[],
  relay: RelayLimits,
): Promise<ReadonlyMap<string, { readonly bytesPerS: number; readonly weight: number }>> {
  if (ids.length === 0) return new Map();
  const rows = await database.run((orm) =>
    orm.select({ id: project.id, limits: project.limits }).from(project),
  );
  const wanted = new Set(ids);
  return new Map(
    rows
      .filter(({ id }) => wanted.has(id))
      .map(({ id, limits }) => {
        const { relayedBytesPerS, relayWeight } = projectBounds(limits, relay);
        return [id, { bytesPerS: relayedBytesPerS, weight: relayWeight }];
      }),
  );
}

/** The rates of these sessions, as they are now; 0 for none. */
export async function sessionRates(
  database: Database,
  ids: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  if (ids.length === 0) return new Map();
  const rows = await database.run((orm) =>
    orm
      .select({ id: session.id, limits: session.limits })
      .from(session)
      .where(inArray(session.id, [...ids])),
  );
  return new Map(rows.map(({ id, limits }) => [id, limits.bytesPerS ?? 0]));
}

export interface UsedDay {
  readonly day: string;
  readonly path: string;
  readonly bytes: number;
  readonly sessionSeconds: number;
}

/** By day and path, the newest first. @param from,to `YYYY-MM-DD` in UTC, both included. */
export async function usageByDay(
  database: Database,
  projectId: string,
  { from, to }: { readonly from: string; readonly to: string },
): Promise<readonly UsedDay[]> {
  return await database.run((orm) =>
    orm
      .select({
        day: usageDay.day,
        path: usageDay.path,
        bytes: usageDay.bytes,
        sessionSeconds: usageDay.sessionSeconds,
      })
      .from(usageDay)
      .where(
        and(
          eq(usageDay.projectId, projectId),
          gte(usageDay.day, from),
          sql`${usageDay.day} <= ${to}::date`,
        ),
      )
      .orderBy(sql`${usageDay.day} desc`, usageDay.path),
  );
}

async function counted(orm: Orm, projectId: string, name: CountedLimit): Promise<number> {
  const { table, where } = COUNTED[name];
  const [row] = await orm.select({ count: count() }).from(table).where(where(projectId));
  return row?.count ?? 0;
}

interface Counted {
  readonly table: PgTable;
  readonly where: (projectId: string) => SQL | undefined;
}

const COUNTED: Readonly<Record<CountedLimit, Counted>> = {
  sessions: {
    table: session,
    where: (id) => and(eq(session.projectId, id), notInArray(session.state, ENDED)),
  },
  pendingSessions: {
    table: session,
    where: (id) => and(eq(session.projectId, id), eq(session.state, "pending")),
  },
  peers: { table: peer, where: (id) => eq(peer.projectId, id) },
  apiKeys: {
    table: apiKey,
    where: (id) =>
      and(
        eq(apiKey.projectId, id),
        isNull(apiKey.revokedAt),
        sql`(${apiKey.expiresAt} is null or ${apiKey.expiresAt} > now())`,
      ),
  },
  webhooks: { table: webhook, where: (id) => eq(webhook.projectId, id) },
};
