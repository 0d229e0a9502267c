/**
 * A project's API keys, as its holder makes, sees and revokes them.
 *
 * `projectKeys` is the one place where a query gets its project; an operator's queries get none.
 *
 * @module
 */
import { and, desc, eq, inArray, isNull, lt, not, or, sql } from "drizzle-orm";

import { RelayError } from "../errors.ts";
import type { RelayLimits } from "../limits.ts";
import { goodKey, hasScope, newApiKey } from "./api-keys.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { API_KEY_LIFETIME_MS_MAX, DEAD_API_KEYS_PER_PROJECT_MAX } from "./limits.ts";
import { requireRoom } from "./project-limits.ts";
import { addProjectEvent } from "./project-events.ts";
import { apiKey, project, type ApiScope } from "./schema.ts";

/** All but the hash of its secret. */
export type KeyRow = Omit<typeof apiKey.$inferSelect, "secretHash">;

export interface KeyPosition {
  readonly createdAt: Date;
  readonly id: string;
}

export interface ProjectKeys {
  /**
   * @returns The row, and the key itself, which is nowhere else.
   * @throws RelayError `NOT_FOUND` (no such project), `LIMIT_EXCEEDED`, `REQUEST_INVALID`
   */
  create(
    options: {
      readonly projectId: string;
      readonly name: string;
      readonly scopes: readonly ApiScope[];
      readonly expiresAt: Date | undefined;
      readonly createdBy: string;
    },
    by: (projectId: string) => Actor,
  ): Promise<{ readonly row: KeyRow; readonly key: string }>;
  /** The newest first. */
  list(options: {
    readonly after?: KeyPosition | undefined;
    readonly limit: number;
  }): Promise<readonly KeyRow[]>;
  get(id: string): Promise<KeyRow | undefined>;
  /**
   * Repeated calls do nothing.
   *
   * @param force Also the last key that can make others.
   * @throws RelayError `NOT_FOUND`, `LAST_FULL_KEY`
   */
  revoke(
    id: string,
    force: boolean,
    by: (projectId: string) => Actor,
  ): Promise<{ readonly row: KeyRow; readonly changed: boolean }>;
}

const columns = {
  id: apiKey.id,
  projectId: apiKey.projectId,
  name: apiKey.name,
  prefix: apiKey.prefix,
  scopes: apiKey.scopes,
  createdBy: apiKey.createdBy,
  createdAt: apiKey.createdAt,
  expiresAt: apiKey.expiresAt,
  revokedAt: apiKey.revokedAt,
  lastUsedAt: apiKey.lastUsedAt,
};

/** @param projectId Undefined for an operator, whose are all. */
export function projectKeys(
  database: Database,
  projectId: string | undefined,
  limits: RelayLimits,
): ProjectKeys {
  const mine = projectId === undefined ? undefined : eq(apiKey.projectId, projectId);
  const find = async (orm: Orm, id: string): Promise<KeyRow | undefined> =>
    (
      await orm
        .select(columns)
        .from(apiKey)
        .where(and(mine, eq(apiKey.id, id)))
    )[0];

  return {
    async create(options, by) {
      if (projectId !== undefined && options.projectId !== projectId) throw noProject();
      const made = newApiKey();
      const row = await database.transaction(async (tx) => {
        const [owner] = await tx
          .select({ id: project.id })
          .from(project)
          .where(eq(project.id, options.projectId))
          .for("no key update");
        if (owner === undefined) throw noProject();
        await requireRoom(tx, options.projectId, ["apiKeys"], limits);
        await forgetDead(tx, options.projectId);
        await refuseWrongTime(tx, options.expiresAt);
        const [inserted] = await tx
          .insert(apiKey)
          .values({
            id: made.id,
            projectId: options.projectId,
            name: options.name,
            prefix: made.prefix,
            secretHash: made.secretHash,
            scopes: [...options.scopes],
            createdBy: options.createdBy,
            expiresAt: options.expiresAt ?? null,
          })
          .returning(columns);
        if (inserted === undefined) throw new Error("an inserted key has no row");
        await addAudit(tx, by(options.projectId), {
          action: "key.create",
          targetKind: "key",
          targetId: inserted.id,
          after: shown(inserted),
        });
        await addProjectEvent(tx, {
          projectId: options.projectId,
          type: "key.created",
          subjectKind: "key",
          subjectId: inserted.id,
          data: { prefix: inserted.prefix, name: inserted.name },
        });
        return inserted;
      });
      return { row, key: made.key };
    },

    list: ({ after, limit }) =>
      database.run((orm) =>
        orm
          .select(columns)
          .from(apiKey)
          .where(
            and(
              mine,
              after === undefined
                ? undefined
                : or(
                    lt(apiKey.createdAt, after.createdAt),
                    and(eq(apiKey.createdAt, after.createdAt), lt(apiKey.id, after.id)),
                  ),
            ),
          )
          .orderBy(desc(apiKey.createdAt), desc(apiKey.id))
          .limit(limit),
      ),

    get: (id) => database.run((orm) => find(orm, id)),

    revoke: (id, force, by) =>
      database.transaction(async (tx) => {
        const before = await find(tx, id);
        if (before === undefined) throw new RelayError("NOT_FOUND", "there is no such key");
        if (before.revokedAt !== null) return { row: before, changed: false };
        if (!force) await refuseLast(tx, before);
        const [row] = await tx
          .update(apiKey)
          .set({ revokedAt: sql`now()` })
          .where(and(eq(apiKey.id, id), isNull(apiKey.revokedAt)))
          .returning(columns);
        if (row === undefined) {
          // Somebody else was faster by a moment.
          return { row: (await find(tx, id)) ?? before, changed: false };
        }
        await addAudit(tx, by(row.projectId), {
          action: "key.revoke",
          targetKind: "key",
          targetId: id,
          before: shown(before),
          after: shown(row),
        });
        await addProjectEvent(tx, {
          projectId: row.projectId,
          type: "key.revoked",
          subjectKind: "key",
          subjectId: id,
          data: { prefix: row.prefix, name: row.name },
        });
        return { row, changed: true };
      }),
  };
}

function noProject(): RelayError {
  return new RelayError("NOT_FOUND", "there is no such project");
}

/** For the audit log. */
function shown({ name, prefix, scopes, expiresAt, revokedAt }: KeyRow): Record<string, unknown> {
  return {
    name,
    prefix,
    scopes,
    expiresAt: expiresAt?.toISOString() ?? null,
    revokedAt: revokedAt?.toISOString() ?? null,
  };
}

/** What cannot be used any more is kept for the record, within a bound. */
async function forgetDead(tx: Orm, projectId: string): Promise<void> {
  const dead = await tx
    .select({ id: apiKey.id })
    .from(apiKey)
    .where(and(eq(apiKey.projectId, projectId), not(sql`(${goodKey})`)))
    .orderBy(desc(apiKey.createdAt))
    .offset(DEAD_API_KEYS_PER_PROJECT_MAX);
  if (dead.length === 0) return;
  await tx.delete(apiKey).where(
    inArray(
      apiKey.id,
      dead.map(({ id }) => id),
    ),
  );
}

/** By the database's clock, which is also the one that decides when it is over. */
async function refuseWrongTime(tx: Orm, expiresAt: Date | undefined): Promise<void> {
  if (expiresAt === undefined) return;
  const [now] = await tx.select({ at: sql<string>`now()` }).from(sql`(select 1) as one`);
  const leftMs = expiresAt.getTime() - new Date(now?.at ?? Number.NaN).getTime();
  if (leftMs > 0 && leftMs <= API_KEY_LIFETIME_MS_MAX) return;
  const message = "is not within the next ten years";
  throw new RelayError("REQUEST_INVALID", `expiresAt: ${message}`, {
    details: { issues: [{ path: "expiresAt", message }] },
  });
}

/** A project without a key that can make others is closed to its owner, and so is the relay to its operator. */
async function refuseLast(tx: Orm, row: KeyRow): Promise<void> {
  const kinds = (["operator", "admin"] as const).filter((scope) => row.scopes.includes(scope));
  // Locked, or the last two could revoke each other.
  const full = await tx
    .select({ id: apiKey.id, projectId: apiKey.projectId, scopes: apiKey.scopes })
    .from(apiKey)
    .where(and(goodKey, or(hasScope("operator"), hasScope("admin"))))
    .orderBy(apiKey.id)
    .for("update");
  for (const scope of kinds) {
    const isFull = ({ scopes }: { readonly scopes: readonly ApiScope[] }): boolean =>
      scopes.includes("operator") || (scope === "admin" && scopes.includes("admin"));
    const others = full.filter(
      (key) =>
        key.id !== row.id &&
        (scope === "operator" || key.projectId === row.projectId) &&
        isFull(key),
    );
    if (others.length > 0) continue;
    const whose =
      scope === "operator" ? "the relay's last operator key" : "this project's last full key";
    throw new RelayError(
      "LAST_FULL_KEY",
      `it is ${whose}: make another one first, or say force=true`,
      { details: { scope } },
    );
  }
}
