/**
 * Projects: what belongs to one of the relay's customers, and how much that may be.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { and, asc, count, eq, gt, notInArray, sql } from "drizzle-orm";

import { toHex } from "../protocol/bytes.ts";
import { isEnded, SESSION_STATES } from "../protocol/ids.ts";
import { RelayError } from "../errors.ts";
import { limitError, type RelayLimits } from "../limits.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { addProjectEvent } from "./project-events.ts";
import { project, session, type ProjectLimits } from "./schema.ts";

export type ProjectRow = typeof project.$inferSelect;

/** Any number, the same in every relay: one at a time looks at names and takes one. */
const NAMES_LOCK = 0x6d66_7072;
const ENDED = SESSION_STATES.filter(isEnded);

export interface ProjectChange {
  readonly name?: string | undefined;
  /** Null for a limit that is the relay's default again. */
  readonly limits?: Readonly<Record<string, number | null | undefined>> | undefined;
}

export interface Projects {
  /** @throws RelayError `NAME_TAKEN`, `LIMIT_EXCEEDED` */
  create(
    options: { readonly name: string; readonly limits: ProjectLimits },
    by: Actor,
  ): Promise<ProjectRow>;
  get(id: string): Promise<ProjectRow | undefined>;
  /** By name. */
  list(options: {
    readonly afterName?: string | undefined;
    readonly limit: number;
  }): Promise<readonly ProjectRow[]>;
  /**
   * @param version What it was when `change` was thought of.
   * @returns Undefined if it is another version by now, or gone.
   * @throws RelayError `NAME_TAKEN`
   */
  change(
    id: string,
    version: number,
    change: ProjectChange,
    by: Actor,
  ): Promise<ProjectRow | undefined>;
  /**
   * With all that is in it.
   *
   * @throws RelayError `PROJECT_IN_USE`, `NOT_FOUND`
   */
  remove(id: string, by: Actor): Promise<void>;
}

export function openProjects(database: Database, limits: RelayLimits): Projects {
  const get = async (orm: Orm, id: string): Promise<ProjectRow | undefined> =>
    (await orm.select().from(project).where(eq(project.id, id)))[0];

  return {
    create: ({ name, limits: own }, by) =>
      database.transaction(async (tx) => {
        await tx.execute(sql`select pg_advisory_xact_lock(${NAMES_LOCK})`);
        const [all] = await tx.select({ count: count() }).from(project);
        const limit = limits.projects;
        if ((all?.count ?? 0) >= limit) {
          const met = { limitName: "projects", limit, retryAfterS: 60 } as const;
          throw limitError("LIMIT_EXCEEDED", met, `this relay has ${limit} projects`);
        }
        const [row] = await tx
          .insert(project)
          .values({ id: toHex(randomBytes(16)), name, limits: own })
          .onConflictDoNothing({ target: project.name })
          .returning();
        if (row === undefined) throw nameTaken();
        await addAudit(tx, by, {
          action: "project.create",
          targetKind: "project",
          targetId: row.id,
          after: shown(row),
        });
        return row;
      }),

    get: (id) => database.run((orm) => get(orm, id)),

    list: ({ afterName, limit }) =>
      database.run((orm) =>
        orm
          .select()
          .from(project)
          .where(afterName === undefined ? undefined : gt(project.name, afterName))
          .orderBy(asc(project.name))
          .limit(limit),
      ),

    change: (id, version, { name, limits }, by) =>
      database.transaction(async (tx) => {
        await tx.execute(sql`select pg_advisory_xact_lock(${NAMES_LOCK})`);
        const [before] = await tx
          .select()
          .from(project)
          .where(eq(project.id, id))
          .for("no key update");
        if (before === undefined || before.version !== version) return undefined;
        if (name !== undefined && name !== before.name) {
          const [other] = await tx
            .select({ id: project.id })
            .from(project)
            .where(eq(project.name, name));
          if (other !== undefined) throw nameTaken();
        }
        const merged = Object.fromEntries(
          Object.entries({ ...before.limits, ...limits }).filter(
            ([, value]) => value !== null && value !== undefined,
          ),
        );
        const [row] = await tx
          .update(project)
          .set({
            name: name ?? before.name,
            // What null and undefined stood for was taken out.
            limits: merged as ProjectLimits,
            version: version + 1,
            updatedAt: sql`now()`,
          })
          .where(and(eq(project.id, id), eq(project.version, version)))
          .returning();
        if (row === undefined) return undefined;
        await addAudit(tx, by, {
          action: "project.update",
          targetKind: "project",
          targetId: id,
          before: shown(before),
          after: shown(row),
        });
        await addProjectEvent(tx, {
          projectId: id,
          type: "project.updated",
          subjectKind: "project",
          subjectId: id,
        });
        return row;
      }),

    remove: (id, by) =>
      database.transaction(async (tx) => {
        // Held as by whoever adds a session.
        const [before] = await tx.select().from(project).where(eq(project.id, id)).for("update");
        if (before === undefined) throw new RelayError("NOT_FOUND", "there is no such project");
        const [open] = await tx
          .select({ count: count() })
          .from(session)
          .where(and(eq(session.projectId, id), notInArray(session.state, ENDED)));
        const openSessions = open?.count ?? 0;
        if (openSessions > 0) {
          throw new RelayError(
            "PROJECT_IN_USE",
            `${openSessions} of its sessions have not ended: cancel them, or wait`,
            { details: { openSessions } },
          );
        }
        await tx.delete(project).where(eq(project.id, id));
        await addAudit(tx, by, {
          action: "project.delete",
          targetKind: "project",
          targetId: id,
          before: shown(before),
        });
      }),
  };
}

/** @returns Undefined if there is no such project. */
export async function projectName(database: Database, id: string): Promise<string | undefined> {
  const [row] = await database.run((orm) =>
    orm.select({ name: project.name }).from(project).where(eq(project.id, id)),
  );
  return row?.name;
}

function shown({ name, limits, version }: ProjectRow): Record<string, unknown> {
  return { name, limits, version };
}

function nameTaken(): RelayError {
  return new RelayError("NAME_TAKEN", "another project has this name");
}
