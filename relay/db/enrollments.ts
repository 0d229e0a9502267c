/**
 * One-use codes that make a host a peer of a project.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { randomBytes, timingSafeEqual } from "node:crypto";

import { and, count, desc, eq, gt, isNull, lt, or, sql } from "drizzle-orm";

import { ENROLLMENT_TOKEN_BYTES } from "../protocol/agent.ts";
import { toHex } from "../protocol/bytes.ts";
import { limitError, RELAY_LIMITS } from "../limits.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { enrollment, project } from "./schema.ts";
import { sha256 } from "./session-store.ts";

export type EnrollmentRow = typeof enrollment.$inferSelect;

const OPEN_MAX = RELAY_LIMITS.openEnrollments.default;

/** Where a page ended, in a list that is newest first. */
export interface ListPosition {
  readonly createdAt: Date;
  readonly id: string;
}

export interface ProjectEnrollments {
  /** The token is in the answer and nowhere else. @throws RelayError `LIMIT_EXCEEDED` */
  create(
    by: Actor,
    options: {
      readonly name: string;
      readonly labels: Readonly<Record<string, string>>;
      readonly ttlMs: number;
      readonly createdBy: string;
    },
  ): Promise<{ readonly row: EnrollmentRow; readonly token: Uint8Array }>;
  list(options: {
    readonly after?: ListPosition | undefined;
    readonly limit: number;
  }): Promise<readonly EnrollmentRow[]>;
  get(id: string): Promise<EnrollmentRow | undefined>;
  /** @returns Whether there was one. */
  remove(by: Actor, id: string): Promise<boolean>;
}

/** The one place where a query of codes gets its project. */
export function projectEnrollments(database: Database, projectId: string): ProjectEnrollments {
  const mine = eq(enrollment.projectId, projectId);
  return {
    async create(by, { name, labels, ttlMs, createdBy }) {
      const token = new Uint8Array(randomBytes(ENROLLMENT_TOKEN_BYTES));
      const row = await database.transaction(async (tx) => {
        await tx.select().from(project).where(eq(project.id, projectId)).for("update");
        const [open] = await tx
          .select({ count: count() })
          .from(enrollment)
          .where(and(mine, isNull(enrollment.usedAt), gt(enrollment.expiresAt, sql`now()`)));
        if ((open?.count ?? 0) >= OPEN_MAX) {
          throw limitError(
            "LIMIT_EXCEEDED",
            { limitName: "openEnrollments", limit: OPEN_MAX, retryAfterS: 60 },
            `this project has ${OPEN_MAX} enrollment codes that wait to be used: delete some`,
          );
        }
        const [inserted] = await tx
          .insert(enrollment)
          .values({
            id: toHex(randomBytes(16)),
            projectId,
            name,
            labels,
            codeHash: sha256(token),
            createdBy,
            expiresAt: new Date(Date.now() + ttlMs),
          })
          .returning();
        if (inserted === undefined) throw new Error("an inserted code has no row");
        await addAudit(tx, by, {
          action: "enrollment.create",
          targetKind: "enrollment",
          targetId: inserted.id,
          after: { name, labels, expiresAt: inserted.expiresAt.toISOString() },
        });
        return inserted;
      });
      return { row, token };
    },

    async list({ after, limit }) {
      return await database.run((orm) =>
        orm
          .select()
          .from(enrollment)
          .where(
            and(
              mine,
              after === undefined
                ? undefined
                : or(
                    lt(enrollment.createdAt, after.createdAt),
                    and(eq(enrollment.createdAt, after.createdAt), lt(enrollment.id, after.id)),
                  ),
            ),
          )
          .orderBy(desc(enrollment.createdAt), desc(enrollment.id))
          .limit(limit),
      );
    },

    async get(id) {
      const rows = await database.run((orm) =>
        orm
          .select()
          .from(enrollment)
          .where(and(mine, eq(enrollment.id, id))),
      );
      return rows[0];
    },

    async remove(by, id) {
      return await database.transaction(async (tx) => {
        const [row] = await tx
          .delete(enrollment)
          .where(and(mine, eq(enrollment.id, id)))
          .returning();
        if (row === undefined) return false;
        await addAudit(tx, by, {
          action: "enrollment.delete",
          targetKind: "enrollment",
          targetId: id,
          before: { name: row.name, usedAt: row.usedAt?.toISOString() ?? null },
        });
        return true;
      });
    },
  };
}

/**
 * Uses a code up, if it is good. One that was used is good once more for the peer that it made: an agent whose
 * answer was lost asks again.
 *
 * @returns The project's code, or why there is none.
 */
export async function redeemCode(
  tx: Orm,
  token: Uint8Array,
  peerId: string,
): Promise<EnrollmentRow | "unknown" | "used" | "expired"> {
  const hash = sha256(token);
  const [row] = await tx
    .select()
    .from(enrollment)
    .where(eq(enrollment.codeHash, hash))
    .for("update");
  // The index has compared already, by a hash that nobody can steer; this is so that nobody needs to think about it.
  if (row === undefined || !timingSafeEqual(Buffer.from(row.codeHash), Buffer.from(hash))) {
    return "unknown";
  }
  if (row.usedAt !== null) return row.peerId === peerId ? row : "used";
  return row.expiresAt.getTime() <= Date.now() ? "expired" : row;
}
