/**
 * What happened in a project, in the order of its numbers.
 *
 * Event streams resume from a number, and webhooks are fed from it. An event is written in the transaction of
 * what it tells of, so that neither is there without the other.
 *
 * @module
 */
import { and, asc, desc, eq, gt, sql } from "drizzle-orm";

import type { Database, Orm } from "./database.ts";
import { projectEvent, type EventData } from "./schema.ts";

/** The first half of an advisory lock's name, the project being the second; any number that nobody else uses. */
const EVENT_LOCK = 0x6d66_6576;

/**
 * For a statement that does more than one thing: the `with` part that adds an event for each row of `changed`, which
 * has `project_id` and `id`.
 *
 * @param type An SQL expression, as is `data`.
 */
export function eventPart(name: string, changed: string, type: string, data: string): string {
  return `${name} as (
      insert into project_event (project_id, type, subject_kind, subject_id, data)
      select ordered.project_id, ordered.type, 'session', ordered.subject_id, ordered.data
      from (
        select project_id, ${type} as type, replace(id::text, '-', '') as subject_id, ${data} as data,
          pg_advisory_xact_lock(${EVENT_LOCK}, hashtext(replace(project_id::text, '-', '')))::text as locked
        from ${changed} offset 0
      ) as ordered where ordered.locked is not null
    )`;
}

export type ProjectEventRow = typeof projectEvent.$inferSelect;

export const SUBJECT_KINDS = [
  "session",
  "migration",
  "peer",
  "region",
  "order",
  "key",
  "webhook",
  "project",
] as const;
export type SubjectKind = (typeof SUBJECT_KINDS)[number];

export interface NewProjectEvent {
  readonly projectId: string;
  /** What it is about and what happened, as in `session.committed`. */
  readonly type: string;
  readonly subjectKind: SubjectKind;
  readonly subjectId: string;
  readonly data?: EventData;
}

/**
 * In a transaction, and the last thing in it that waits for a lock: events of one project take their numbers in turn
 * until the transaction ends, so that a reader who has seen a number never misses a lower one.
 *
 * @returns The event's number.
 */
export async function addProjectEvent(orm: Orm, event: NewProjectEvent): Promise<number> {
  await orm.execute(sql`select pg_advisory_xact_lock(${EVENT_LOCK}, hashtext(${event.projectId}))`);
  const [row] = await orm
    .insert(projectEvent)
    .values({ ...event, data: event.data ?? {} })
    .returning({ id: projectEvent.id });
  if (row === undefined) throw new Error("an inserted event has no number");
  return row.id;
}

/** Those after a number, the oldest first. */
export async function projectEventsAfter(
  database: Database,
  projectId: string,
  afterId: number,
  limit: number,
): Promise<readonly ProjectEventRow[]> {
  return await database.run((orm) =>
    orm
      .select()
      .from(projectEvent)
      .where(and(eq(projectEvent.projectId, projectId), gt(projectEvent.id, afterId)))
      .orderBy(asc(projectEvent.id))
      .limit(limit),
  );
}

/** The number of the newest; 0 if there is none. */
export async function lastProjectEvent(database: Database, projectId: string): Promise<number> {
  const [row] = await database.run((orm) =>
    orm
      .select({ id: projectEvent.id })
      .from(projectEvent)
      .where(eq(projectEvent.projectId, projectId))
      .orderBy(desc(projectEvent.id))
      .limit(1),
  );
  return row?.id ?? 0;
}

/** Whether an event is there and the project's: if not, some after it may have been cleared away. */
export async function hasProjectEvent(
  database: Database,
  projectId: string,
  id: number,
): Promise<boolean> {
  const rows = await database.run((orm) =>
    orm
      .select({ id: projectEvent.id })
      .from(projectEvent)
      .where(and(eq(projectEvent.projectId, projectId), eq(projectEvent.id, id))),
  );
  return rows.length > 0;
}
