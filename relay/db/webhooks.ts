/**
 * Webhooks, and what is to be delivered to them.
 *
 * Deliveries are made from `project_event`. That its numbers are taken in turn is somebody else's promise, and none is
 * needed here: the cursor of a webhook stays behind what is younger than any transaction lives, and what lies between is
 * looked at again, without harm, as a webhook has one delivery of an event.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import {
  and,
  asc,
  desc,
  eq,
  gt,
  inArray,
  lt,
  ne,
  notInArray,
  or,
  sql,
  type SQL,
} from "drizzle-orm";

import { relayLimits } from "../limits.ts";
import { toHex } from "../protocol/bytes.ts";
import { DELIVERIES_KEPT_DAYS, EVENTS_PER_ROUND_MAX } from "../webhooks/limits.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { requireRoom } from "./project-limits.ts";
import { addProjectEvent, type ProjectEventRow } from "./project-events.ts";
import { projectEvent, webhook, webhookDelivery, type DeliveryState } from "./schema.ts";

export type WebhookRow = typeof webhook.$inferSelect;
export type DeliveryRow = typeof webhookDelivery.$inferSelect;

/** Longer than any transaction of the relay's lives. */
const SETTLED = sql`now() - interval '2 minutes'`;
/** A delivery that a relay took and did not come back from, because it died, is tried again. */
const TAKEN_FOR = sql`interval '1 minute'`;
export const TEST_EVENT = "webhook.test";

export interface NewWebhook {
  readonly id: string;
  readonly url: string;
  readonly eventTypes: readonly string[];
  readonly enabled: boolean;
  readonly sealedSecret: Uint8Array;
}

export interface WebhookChanges {
  readonly url?: string | undefined;
  readonly eventTypes?: readonly string[] | undefined;
  readonly enabled?: boolean | undefined;
}

export interface Position {
  readonly createdAt: Date;
  readonly id: string;
}

/** One project's webhooks. Another's are not there. */
export interface ProjectWebhooks {
  /** It hears of what happens from now on. @throws RelayError `LIMIT_EXCEEDED` */
  create(webhook: NewWebhook, by: Actor): Promise<WebhookRow>;
  list(after: Position | undefined, limit: number): Promise<readonly WebhookRow[]>;
  get(id: string): Promise<WebhookRow | undefined>;
  /** @returns Undefined if it is not there any more, or not of this version. */
  update(
    id: string,
    version: number,
    changes: WebhookChanges,
    by: Actor,
  ): Promise<WebhookRow | undefined>;
  /** The secret of now signs for so long beside the new one. @returns Undefined as above. */
  rotate(
    id: string,
    version: number,
    sealedSecret: Uint8Array,
    previousForS: number,
    by: Actor,
  ): Promise<WebhookRow | undefined>;
  /** @returns Whether it was there, in this version. */
  remove(id: string, version: number, by: Actor): Promise<boolean>;
  deliveries(
    id: string,
    options: {
      readonly state?: DeliveryState | undefined;
      readonly after?: Position | undefined;
      readonly limit: number;
    },
  ): Promise<readonly DeliveryRow[]>;
  /** An event that goes to this webhook alone. @returns Its delivery. */
  test(row: WebhookRow): Promise<DeliveryRow>;
}

/** @param limits The relay's, for a project that has none of its own. */
export function projectWebhooks(
  database: Database,
  projectId: string,
  limits = relayLimits(),
): ProjectWebhooks {
  const mine = (id: string) => and(eq(webhook.projectId, projectId), eq(webhook.id, id));
  const changed = async (
    id: string,
    version: number,
    set: Partial<typeof webhook.$inferInsert>,
    by: Actor,
    action: string,
  ): Promise<WebhookRow | undefined> =>
    await database.transaction(async (tx) => {
      const [before] = await tx.select().from(webhook).where(mine(id));
      const [after] = await tx
        .update(webhook)
        .set({ ...set, version: sql`${webhook.version} + 1`, updatedAt: sql`now()` })
        .where(and(mine(id), eq(webhook.version, version)))
        .returning();
      if (before === undefined || after === undefined) return undefined;
      await addAudit(tx, by, {
        action,
        targetKind: "webhook",
        targetId: id,
        before: shown(before),
        after: shown(after),
      });
      return after;
    });
  return {
    async create(added, by) {
      return await database.transaction(async (tx) => {
        await requireRoom(tx, projectId, ["webhooks"], limits);
        const [last] = await tx
          .select({ id: projectEvent.id })
          .from(projectEvent)
          .where(eq(projectEvent.projectId, projectId))
          .orderBy(desc(projectEvent.id))
          .limit(1);
        const [row] = await tx
          .insert(webhook)
          .values({
            ...added,
            projectId,
            eventTypes: [...added.eventTypes],
            cursor: last?.id ?? 0,
            createdBy: by.actor,
          })
          .returning();
        if (row === undefined) throw new Error("an inserted webhook is not there");
        await addAudit(tx, by, {
          action: "webhook.create",
          targetKind: "webhook",
          targetId: row.id,
          after: shown(row),
        });
        return row;
      });
    },

    list: (after, limit) =>
      database.run((orm) =>
        orm
          .select()
          .from(webhook)
          .where(
            and(
              eq(webhook.projectId, projectId),
              after === undefined
                ? undefined
                : sql`(${webhook.createdAt}, ${webhook.id}) < (${after.createdAt.toISOString()}::timestamptz, ${after.id}::uuid)`,
            ),
          )
          .orderBy(desc(webhook.createdAt), desc(webhook.id))
          .limit(limit),
      ),

    async get(id) {
      const [row] = await database.run((orm) => orm.select().from(webhook).where(mine(id)));
      return row;
    },

    update: (id, version, { url, eventTypes, enabled }, by) =>
      changed(
        id,
        version,
        {
          ...(url === undefined ? {} : { url }),
          ...(eventTypes === undefined ? {} : { eventTypes: [...eventTypes] }),
          ...(enabled === undefined ? {} : { enabled }),
        },
        by,
        "webhook.update",
      ),

    rotate: (id, version, sealedSecret, previousForS, by) =>
      changed(
        id,
        version,
        {
          sealedSecret,
          // In an update, the column is what it was before.
          previousSealedSecret: sql`${webhook.sealedSecret}` as unknown as Uint8Array,
          previousUntil: sql`now() + ${previousForS} * interval '1 second'` as unknown as Date,
        },
        by,
        "webhook.rotate",
      ),

    async remove(id, version, by) {
      return await database.transaction(async (tx) => {
        const [gone] = await tx
          .delete(webhook)
          .where(and(mine(id), eq(webhook.version, version)))
          .returning();
        if (gone === undefined) return false;
        await addAudit(tx, by, {
          action: "webhook.delete",
          targetKind: "webhook",
          targetId: id,
          before: shown(gone),
        });
        return true;
      });
    },

    async deliveries(id, { state, after, limit }) {
      const rows = await database.run((orm) =>
        orm
          .select({ delivery: webhookDelivery })
          .from(webhookDelivery)
          .innerJoin(webhook, eq(webhook.id, webhookDelivery.webhookId))
          .where(
            and(
              mine(id),
              state === undefined ? undefined : eq(webhookDelivery.state, state),
              after === undefined
                ? undefined
                : sql`(${webhookDelivery.createdAt}, ${webhookDelivery.id}) < (${after.createdAt.toISOString()}::timestamptz, ${after.id}::uuid)`,
            ),
          )
          .orderBy(desc(webhookDelivery.createdAt), desc(webhookDelivery.id))
          .limit(limit),
      );
      return rows.map(({ delivery }) => delivery);
    },

    async test(row) {
      return await database.transaction(async (tx) => {
        const eventId = await addProjectEvent(tx, {
          projectId,
          type: TEST_EVENT,
          subjectKind: "webhook",
          subjectId: row.id,
        });
        const [event] = await tx.select().from(projectEvent).where(eq(projectEvent.id, eventId));
        if (event === undefined) throw new Error("an inserted event is not there");
        const [delivery] = await tx
          .insert(webhookDelivery)
          .values(deliveryOf(row.id, event))
          .returning();
        if (delivery === undefined) throw new Error("an inserted delivery is not there");
        return delivery;
      });
    },
  };
}

/** Makes deliveries of what has happened, for every webhook that is on. @returns How many. */
export async function makeDeliveries(database: Database): Promise<number> {
  const due = await database.run((orm) =>
    orm
      .select({ id: webhook.id })
      .from(webhook)
      .where(
        and(
          eq(webhook.enabled, true),
          sql`exists (select 1 from ${projectEvent} where ${projectEvent.projectId} = ${webhook.projectId} and ${projectEvent.id} > ${webhook.cursor})`,
        ),
      )
      .orderBy(asc(webhook.id)),
  );
  let made = 0;
  for (const { id } of due) made += await database.transaction((tx) => makeDeliveriesOf(tx, id));
  return made;
}

async function makeDeliveriesOf(tx: Orm, id: string): Promise<number> {
  const [row] = await tx
    .select()
    .from(webhook)
    .where(and(eq(webhook.id, id), eq(webhook.enabled, true)))
    // Another relay is at it.
    .for("update", { skipLocked: true });
  if (row === undefined) return 0;
  const events = await tx
    .select()
    .from(projectEvent)
    .where(
      and(
        eq(projectEvent.projectId, row.projectId),
        gt(projectEvent.id, row.cursor),
        wantedBy(row),
        sql`not exists (select 1 from ${webhookDelivery} where ${webhookDelivery.webhookId} = ${id} and ${webhookDelivery.eventId} = ${projectEvent.id})`,
      ),
    )
    .orderBy(asc(projectEvent.id))
    .limit(EVENTS_PER_ROUND_MAX);
  if (events.length > 0) {
    await tx
      .insert(webhookDelivery)
      .values(events.map((event) => deliveryOf(id, event)))
      .onConflictDoNothing();
  }
  // Up to where nothing can turn up any more, and not past what this round did not reach.
  const last = events.length === EVENTS_PER_ROUND_MAX ? events.at(-1)?.id : undefined;
  const [settled] = await tx
    .select({ id: projectEvent.id })
    .from(projectEvent)
    .where(
      and(
        eq(projectEvent.projectId, row.projectId),
        gt(projectEvent.id, row.cursor),
        lt(projectEvent.at, SETTLED),
        last === undefined ? undefined : sql`${projectEvent.id} <= ${last}`,
      ),
    )
    .orderBy(desc(projectEvent.id))
    .limit(1);
  if (settled !== undefined) {
    await tx.update(webhook).set({ cursor: settled.id }).where(eq(webhook.id, id));
  }
  return events.length;
}

/** A type's name, or its beginning with `*` at the end; a test is for the one webhook that it tests. */
function wantedBy({ id, eventTypes }: WebhookRow): SQL | undefined {
  const types = eventTypes.map((wanted) =>
    wanted.endsWith("*")
      ? sql`starts_with(${projectEvent.type}, ${wanted.slice(0, -1)})`
      : eq(projectEvent.type, wanted),
  );
  return or(
    and(eq(projectEvent.type, TEST_EVENT), eq(projectEvent.subjectId, id)),
    and(ne(projectEvent.type, TEST_EVENT), or(...types)),
  );
}

/** What is due, taken so that no other relay takes it too; the oldest first. */
export async function takeDeliveries(
  database: Database,
  limit: number,
  without: readonly string[],
): Promise<readonly { readonly delivery: DeliveryRow; readonly webhook: WebhookRow }[]> {
  return await database.transaction(async (tx) => {
    const due = await tx
      .select({ id: webhookDelivery.id })
      .from(webhookDelivery)
      .innerJoin(webhook, eq(webhook.id, webhookDelivery.webhookId))
      .where(
        and(
          eq(webhookDelivery.state, "pending"),
          sql`${webhookDelivery.nextAttemptAt} <= now()`,
          eq(webhook.enabled, true),
          without.length === 0 ? undefined : notInArray(webhookDelivery.webhookId, [...without]),
        ),
      )
      .orderBy(asc(webhookDelivery.nextAttemptAt))
      .limit(limit)
      .for("update", { of: webhookDelivery, skipLocked: true });
    if (due.length === 0) return [];
    const taken = await tx
      .update(webhookDelivery)
      .set({
        attempts: sql`${webhookDelivery.attempts} + 1`,
        nextAttemptAt: sql`now() + ${TAKEN_FOR}` as unknown as Date,
      })
      .where(
        inArray(
          webhookDelivery.id,
          due.map(({ id }) => id),
        ),
      )
      .returning();
    const hooks = await tx
      .select()
      .from(webhook)
      .where(
        inArray(
          webhook.id,
          taken.map(({ webhookId }) => webhookId),
        ),
      );
    return taken.flatMap((delivery) => {
      const row = hooks.find(({ id }) => id === delivery.webhookId);
      return row === undefined ? [] : [{ delivery, webhook: row }];
    });
  });
}

/** How an attempt ended. */
export interface AttemptOutcome {
  readonly state: DeliveryState;
  readonly statusCode: number | undefined;
  readonly problem: string;
  /** While `pending`. */
  readonly retryInMs: number;
}

export async function saveAttempt(
  database: Database,
  id: string,
  { state, statusCode, problem, retryInMs }: AttemptOutcome,
): Promise<void> {
  await database.run((orm) =>
    orm
      .update(webhookDelivery)
      .set({
        state,
        statusCode: statusCode ?? null,
        problem,
        nextAttemptAt: sql`now() + ${retryInMs} * interval '1 millisecond'` as unknown as Date,
        ...(state === "delivered" ? { deliveredAt: sql`now()` as unknown as Date } : {}),
      })
      .where(eq(webhookDelivery.id, id)),
  );
}

/** Forgets deliveries that have been over for long. */
export async function forgetDeliveries(database: Database): Promise<void> {
  await database.run((orm) =>
    orm
      .delete(webhookDelivery)
      .where(
        and(
          inArray(webhookDelivery.state, ["delivered", "failed"]),
          sql`${webhookDelivery.createdAt} < now() - ${DELIVERIES_KEPT_DAYS} * interval '1 day'`,
        ),
      ),
  );
}

/** Some webhooks of any project, to see whether their secrets can be opened. */
export async function someWebhooks(
  database: Database,
  limit: number,
): Promise<readonly WebhookRow[]> {
  return await database.run((orm) =>
    orm.select().from(webhook).orderBy(desc(webhook.createdAt)).limit(limit),
  );
}

function deliveryOf(
  webhookId: string,
  event: ProjectEventRow,
): typeof webhookDelivery.$inferInsert {
  const payload = {
    id: String(event.id),
    type: event.type,
    at: event.at.toISOString(),
    projectId: event.projectId,
    subject: { kind: event.subjectKind, id: event.subjectId },
    data: event.data,
  };
  return {
    id: toHex(randomBytes(16)),
    webhookId,
    eventId: event.id,
    type: event.type,
    payload: JSON.stringify(payload),
  };
}

/** What of a webhook may be in the audit log: no secret. */
function shown({ url, eventTypes, enabled, version }: WebhookRow): Record<string, unknown> {
  // A query may hold a token of the receiver's.
  return { url: url.split("?")[0], eventTypes, enabled, version };
}
