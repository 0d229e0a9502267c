/**
 * One project's migrations: sessions that belong together, such as the memory and the disks of one virtual machine.
 *
 * `projectMigrations` is the one place where a query gets its project. What a migration is and how far it has come is
 * what its sessions are: its own row only holds what a person gave it.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { and, asc, count, desc, eq, inArray, isNull, lt, notInArray, or, sql } from "drizzle-orm";

import { RelayError } from "../errors.ts";
import { relayLimits, type RelayLimits } from "../limits.ts";
import { toHex } from "../protocol/bytes.ts";
import { isEnded, SESSION_STATES } from "../protocol/ids.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { addProjectEvent } from "./project-events.ts";
import { requireRoom } from "./project-limits.ts";
import { migration, session, type MigrationPolicy } from "./schema.ts";
import {
  insertSession,
  projectSessions,
  sessionCreated,
  type CreatedRow,
  type NewSession,
  type SessionPosition,
  type SessionRow,
} from "./sessions.ts";

const MIGRATION_ID_BYTES = 16;
const ENDED = SESSION_STATES.filter(isEnded);

export type MigrationRow = typeof migration.$inferSelect;

export interface NewMigration {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly policy?: MigrationPolicy | undefined;
  /** Sessions that are made with it. */
  readonly sessions: readonly Omit<NewSession, "migrationId" | "bounds" | "createdBy">[];
  /** Sessions of the project that are there and in no other migration. */
  readonly sessionIds?: readonly string[] | undefined;
  /** Prefix of the API key. */
  readonly createdBy: string;
  readonly by: Actor;
  readonly bounds?: RelayLimits | undefined;
  /** Done in the same transaction, such as to queue orders; the session rows are there. */
  readonly alongside?: ((tx: Orm, made: CreatedMigration) => Promise<void>) | undefined;
}

export interface CreatedMigration {
  readonly id: string;
  /** As in `sessions` of the request. */
  readonly sessions: readonly CreatedRow[];
}

/**
 * Makes a migration with its sessions, all or nothing.
 *
 * @throws RelayError `LIMIT_EXCEEDED`; `STATE_CONFLICT` if one of `sessionIds` is not there, has ended, or is in
 *   another migration; what `alongside` throws
 */
export async function createMigration(
  database: Database,
  projectId: string,
  options: NewMigration,
): Promise<CreatedMigration> {
  const { name, labels = {}, policy = { consistency: "all" }, createdBy, by } = options;
  const bounds = options.bounds ?? relayLimits();
  const sessionIds = [...new Set(options.sessionIds)];
  const id = toHex(randomBytes(MIGRATION_ID_BYTES));
  return await database.transaction(async (tx) => {
    const events: Parameters<typeof addProjectEvent>[1][] = [];
    const sessions: CreatedRow[] = [];
    if (options.sessions.length > 0) {
      const more = options.sessions.length;
      await requireRoom(tx, projectId, ["pendingSessions", "sessions"], bounds, more);
    }
    await tx
      .insert(migration)
      .values({ id, projectId, name, labels: { ...labels }, policy, createdBy });
    for (const one of options.sessions) {
      const whole = { ...one, migrationId: id, createdBy };
      const made = await insertSession(tx, projectId, whole);
      sessions.push(made);
      events.push(sessionCreated(projectId, made.id, whole));
    }
    if (sessionIds.length > 0) {
      const joined = await tx
        .update(session)
        .set({ migrationId: id, version: sql`${session.version} + 1`, updatedAt: sql`now()` })
        .where(
          and(
            eq(session.projectId, projectId),
            inArray(session.id, sessionIds),
            isNull(session.migrationId),
            notInArray(session.state, ENDED),
          ),
        )
        .returning({ id: session.id });
      const found = new Set(joined.map((row) => row.id));
      const missing = sessionIds.filter((one) => !found.has(one));
      if (missing.length > 0) {
        throw new RelayError(
          "STATE_CONFLICT",
          "some sessions are not there, have ended, or are in a migration already",
          { details: { sessions: missing } },
        );
      }
    }
    const made = { id, sessions };
    await options.alongside?.(tx, made);
    const sessionCount = sessions.length + sessionIds.length;
    await addAudit(tx, by, {
      action: "migration.create",
      targetKind: "migration",
      targetId: id,
      after: { name, policy, sessions: [...sessions.map((one) => one.id), ...sessionIds] },
    });
    for (const event of events) await addProjectEvent(tx, event);
    await addProjectEvent(tx, {
      projectId,
      type: "migration.created",
      subjectKind: "migration",
      subjectId: id,
      data: { name, by: createdBy, sessions: sessionCount },
    });
    return made;
  });
}

export interface ProjectMigrations {
  get(id: string): Promise<MigrationRow | undefined>;
  /** Newest first. */
  list(options: {
    readonly after?: SessionPosition | undefined;
    readonly limit: number;
  }): Promise<readonly MigrationRow[]>;
  /** By migration, each in the order they were made. */
  sessionsOf(ids: readonly string[]): Promise<ReadonlyMap<string, readonly SessionRow[]>>;
  /** @returns Whether all of its sessions had ended; they stay, as sessions of their own. */
  remove(id: string, by: Actor): Promise<boolean>;
  /** Notes what somebody asked of it. */
  note(
    id: string,
    type: string,
    data: Readonly<Record<string, string | number | boolean>>,
  ): Promise<void>;
}

export function projectMigrations(database: Database, projectId: string): ProjectMigrations {
  const mine = eq(migration.projectId, projectId);
  const sessions = projectSessions(database, projectId);
  return {
    async get(id) {
      const [row] = await database.run((orm) =>
        orm
          .select()
          .from(migration)
          .where(and(mine, eq(migration.id, id))),
      );
      return row;
    },

    async list({ after, limit }) {
      return await database.run((orm) =>
        orm
          .select()
          .from(migration)
          .where(
            and(
              mine,
              after === undefined
                ? undefined
                : or(
                    lt(migration.createdAt, after.createdAt),
                    and(eq(migration.createdAt, after.createdAt), lt(migration.id, after.id)),
                  ),
            ),
          )
          .orderBy(desc(migration.createdAt), desc(migration.id))
          .limit(limit),
      );
    },

    async sessionsOf(ids) {
      if (ids.length === 0) return new Map();
      const found = await database.run((orm) =>
        orm
          .select({ id: session.id, migrationId: session.migrationId })
          .from(session)
          .where(and(eq(session.projectId, projectId), inArray(session.migrationId, [...ids])))
          .orderBy(asc(session.createdAt), asc(session.id)),
      );
      const rows = await sessions.getMany(found.map((row) => row.id));
      const byId = new Map(rows.map((row) => [row.id, row]));
      const grouped = new Map<string, SessionRow[]>(ids.map((id) => [id, []]));
      for (const { id, migrationId } of found) {
        const row = byId.get(id);
        if (row !== undefined && migrationId !== null) grouped.get(migrationId)?.push(row);
      }
      return grouped;
    },

    async remove(id, by) {
      return await database.transaction(async (tx) => {
        const [row] = await tx
          .select({ name: migration.name })
          .from(migration)
          .where(and(mine, eq(migration.id, id)))
          .for("update");
        if (row === undefined) return false;
        const [open] = await tx
          .select({ count: count() })
          .from(session)
          .where(and(eq(session.migrationId, id), notInArray(session.state, ENDED)));
        if ((open?.count ?? 0) > 0) return false;
        await tx.delete(migration).where(eq(migration.id, id));
        await addAudit(tx, by, {
          action: "migration.delete",
          targetKind: "migration",
          targetId: id,
          before: { ...row },
        });
        await addProjectEvent(tx, {
          projectId,
          type: "migration.deleted",
          subjectKind: "migration",
          subjectId: id,
          data: { name: row.name },
        });
        return true;
      });
    },

    async note(id, type, data) {
      await database.transaction(async (tx) => {
        await addProjectEvent(tx, {
          projectId,
          type: `migration.${type}`,
          subjectKind: "migration",
          subjectId: id,
          data: { ...data },
        });
      });
    },
  };
}
