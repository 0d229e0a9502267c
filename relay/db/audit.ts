/**
 * Who did what. Written in the transaction of what was done.
 *
 * @module
 */
import { and, desc, eq, lt } from "drizzle-orm";

import type { Database, Orm } from "./database.ts";
import { audit } from "./schema.ts";

export type AuditRow = typeof audit.$inferSelect;

/** Who asked, and from where. */
export interface Actor {
  readonly projectId: string;
  /** `key:PREFIX`, `peer:ID`, `relay`. */
  readonly actor: string;
  readonly remoteAddress: string;
  readonly requestId: string;
}

export interface AuditedAction {
  /** Such as `key.revoke`. */
  readonly action: string;
  readonly targetKind: string;
  readonly targetId: string;
  /** Never a secret: no key, code, ticket or hash of one. */
  readonly before?: Readonly<Record<string, unknown>> | undefined;
  readonly after?: Readonly<Record<string, unknown>> | undefined;
}

/** Actors that were written down; each is of one request. */
const audited = new WeakSet<Actor>();

export function isAudited(by: Actor): boolean {
  return audited.has(by);
}

export async function addAudit(orm: Orm, by: Actor, what: AuditedAction): Promise<void> {
  await orm.insert(audit).values({
    projectId: by.projectId,
    actor: by.actor,
    remoteAddress: by.remoteAddress,
    requestId: by.requestId,
    action: what.action,
    targetKind: what.targetKind,
    targetId: what.targetId,
    before: what.before ?? null,
    after: what.after ?? null,
  });
  audited.add(by);
}

/** One project's, the newest first. */
export async function auditBefore(
  database: Database,
  projectId: string,
  options: {
    readonly beforeId?: number | undefined;
    readonly action?: string | undefined;
    readonly limit: number;
  },
): Promise<readonly AuditRow[]> {
  const { beforeId, action, limit } = options;
  return await database.run((orm) =>
    orm
      .select()
      .from(audit)
      .where(
        and(
          eq(audit.projectId, projectId),
          beforeId === undefined ? undefined : lt(audit.id, beforeId),
          action === undefined ? undefined : eq(audit.action, action),
        ),
      )
      .orderBy(desc(audit.id))
      .limit(limit),
  );
}
