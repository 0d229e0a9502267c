/**
 * Takes away what is older than it is kept: bounded in each step, so that nothing else waits for it.
 *
 * @module
 */
import { and, inArray, lt, ne, notExists, sql, eq, type SQL } from "drizzle-orm";

import { isEnded, SESSION_STATES } from "../protocol/ids.ts";
import type { Database, Orm } from "./database.ts";
import {
  audit,
  enrollment,
  migration,
  peerOrder,
  projectEvent,
  session,
  webhookDelivery,
} from "./schema.ts";

export interface Retention {
  /** Of everything but the audit log; `Infinity`: for ever. */
  readonly days: number;
  readonly auditDays: number;
}

/** Rows by what they are of. */
export type Removed = Readonly<Record<RetainedKind, number>>;
export type RetainedKind = keyof typeof STEPS;

/** Sessions take their events and index with them, which may be many rows: few at once. */
const SESSIONS_PER_STEP = 50;
const ROWS_PER_STEP = 5_000;
/** So that a relay with years behind it is at it for a while, and not for hours in one go. */
const STEPS_MAX = 200;
/** A number that nobody else locks by: one relay of a database cleans up at a time. */
const RETENTION_LOCK = 0x6d66_7274;

const ENDED = SESSION_STATES.filter(isEnded);

/** Takes some away that are older. @returns How many: fewer than `most` if there are no more. */
type Step = (tx: Orm, before: SQL, most: number) => Promise<number>;

/** In this order: a migration is old once its sessions are gone. */
const STEPS = {
  session: async (tx, before, most) => {
    const old = tx
      .select({ id: session.id })
      .from(session)
      .where(and(inArray(session.state, ENDED), lt(session.endedAt, before)))
      .limit(most);
    return countOf(await tx.delete(session).where(inArray(session.id, old)).returning(ONE));
  },
  migration: async (tx, before, most) => {
    const its = tx.select(ONE).from(session).where(eq(session.migrationId, migration.id));
    const old = tx
      .select({ id: migration.id })
      .from(migration)
      .where(and(lt(migration.createdAt, before), notExists(its)))
      .limit(most);
    return countOf(await tx.delete(migration).where(inArray(migration.id, old)).returning(ONE));
  },
  order: async (tx, before, most) => {
    const old = tx
      .select({ id: peerOrder.id })
      .from(peerOrder)
      .where(lt(peerOrder.endedAt, before))
      .limit(most);
    return countOf(await tx.delete(peerOrder).where(inArray(peerOrder.id, old)).returning(ONE));
  },
  event: async (tx, before, most) => {
    const old = tx
      .select({ id: projectEvent.id })
      .from(projectEvent)
      .where(lt(projectEvent.at, before))
      .limit(most);
    const gone = tx.delete(projectEvent).where(inArray(projectEvent.id, old));
    return countOf(await gone.returning(ONE));
  },
  delivery: async (tx, before, most) => {
    const old = tx
      .select({ id: webhookDelivery.id })
      .from(webhookDelivery)
      .where(and(ne(webhookDelivery.state, "pending"), lt(webhookDelivery.createdAt, before)))
      .limit(most);
    const gone = tx.delete(webhookDelivery).where(inArray(webhookDelivery.id, old));
    return countOf(await gone.returning(ONE));
  },
  enrollment: async (tx, before, most) => {
    const old = tx
      .select({ id: enrollment.id })
      .from(enrollment)
      .where(lt(enrollment.expiresAt, before))
      .limit(most);
    return countOf(await tx.delete(enrollment).where(inArray(enrollment.id, old)).returning(ONE));
  },
  audit: async (tx, before, most) => {
    const old = tx.select({ id: audit.id }).from(audit).where(lt(audit.at, before)).limit(most);
    return countOf(await tx.delete(audit).where(inArray(audit.id, old)).returning(ONE));
  },
} as const satisfies Record<string, Step>;

/** One round. If another relay is at it, nothing is done. */
export async function removeOld(
  database: Database,
  { days, auditDays }: Retention,
): Promise<Removed> {
  const removed: Partial<Record<RetainedKind, number>> = {};
  for (const [kind, step] of Object.entries(STEPS)) {
    const keptDays = kind === "audit" ? auditDays : days;
    const most = kind === "session" ? SESSIONS_PER_STEP : ROWS_PER_STEP;
    let count = 0;
    for (let n = 0; Number.isFinite(keptDays) && n < STEPS_MAX; n++) {
      const before = sql`now() - ${keptDays} * interval '1 day'`;
      const gone = await database.transaction(async (tx) =>
        (await isOurTurn(tx)) ? await step(tx, before, most) : 0,
      );
      count += gone;
      if (gone < most) break;
    }
    // The keys of STEPS are the kinds.
    removed[kind as RetainedKind] = count;
  }
  return removed as Removed;
}

const ONE = { one: sql<number>`1` };

function countOf(rows: readonly unknown[]): number {
  return rows.length;
}

async function isOurTurn(tx: Orm): Promise<boolean> {
  const [row] = await tx
    .select({ ours: sql<boolean>`pg_try_advisory_xact_lock(${RETENTION_LOCK})` })
    .from(sql`(values (1)) as once`);
  return row?.ours === true;
}
