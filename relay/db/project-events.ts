/**
 * What happened in a project, in the order of its numbers.
 *
 * Event streams resume from a number, and webhooks are fed from it. An event is written in the transaction of
 * what it tells of, so that neither is there without the other.
 *
 * @module
 */
import { and, asc, desc, eq, gt } from "drizzle-orm";

import type { Database, Orm } from "./database.ts";
import { projectEvent, type EventData } from "./schema.ts";

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

/** @returns The event's number. */
export async function addProjectEvent(orm: Orm, event: NewProjectEvent): Promise<number> {
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
