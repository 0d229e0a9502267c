/**
 * One project's orders to its peers, as the API reads and cancels them.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { and, count, desc, eq, inArray, lt, or, sql } from "drizzle-orm";

import { addOrderEvent } from "../agents/store.ts";
import { RelayError } from "../errors.ts";
import { limitError, RELAY_LIMITS } from "../limits.ts";
import { toHex } from "../protocol/bytes.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import type { ListPosition } from "./enrollments.ts";
import { peerOrder, type OrderKind, type OrderState } from "./schema.ts";

export type OrderRow = typeof peerOrder.$inferSelect;

export interface ProjectOrders {
  list(options: {
    readonly peerId?: string | undefined;
    readonly sessionId?: string | undefined;
    readonly states?: readonly OrderState[] | undefined;
    readonly after?: ListPosition | undefined;
    readonly limit: number;
  }): Promise<readonly OrderRow[]>;
  get(id: string): Promise<OrderRow | undefined>;
  /**
   * Ends it: at once if it was not begun, else by another order, which the peer's agent gets.
   *
   * @throws RelayError `NOT_FOUND`, `STATE_CONFLICT`
   */
  cancel(by: Actor, id: string): Promise<{ readonly row: OrderRow; readonly told: boolean }>;
}

const OPEN_MAX = RELAY_LIMITS.openOrders.default;
/** How long an agent may take to hear that something is to end. */
const CANCEL_LIFETIME_MS = 24 * 3_600_000;

/** The one place where a query of orders gets its project. */
export function projectOrders(database: Database, projectId: string): ProjectOrders {
  const mine = eq(peerOrder.projectId, projectId);
  return {
    async list({ peerId, sessionId, states, after, limit }) {
      return await database.run((orm) =>
        orm
          .select()
          .from(peerOrder)
          .where(
            and(
              mine,
              peerId === undefined ? undefined : eq(peerOrder.peerId, peerId),
              sessionId === undefined ? undefined : eq(peerOrder.sessionId, sessionId),
              states === undefined ? undefined : inArray(peerOrder.state, [...states]),
              after === undefined
                ? undefined
                : or(
                    lt(peerOrder.createdAt, after.createdAt),
                    and(eq(peerOrder.createdAt, after.createdAt), lt(peerOrder.id, after.id)),
                  ),
            ),
          )
          .orderBy(desc(peerOrder.createdAt), desc(peerOrder.id))
          .limit(limit),
      );
    },

    async get(id) {
      const rows = await database.run((orm) =>
        orm
          .select()
          .from(peerOrder)
          .where(and(mine, eq(peerOrder.id, id))),
      );
      return rows[0];
    },

    async cancel(by, id) {
      return await database.transaction(async (tx) => {
        const [before] = await tx
          .select()
          .from(peerOrder)
          .where(and(mine, eq(peerOrder.id, id)))
          .for("update");
        if (before === undefined) throw new RelayError("NOT_FOUND", "there is no such order");
        if (before.kind === "cancel") {
          throw new RelayError("STATE_CONFLICT", "an order that cancels cannot be cancelled");
        }
        if (before.state === "failed" || before.state === "cancelled") {
          throw new RelayError("STATE_CONFLICT", `the order is over: ${before.state}`);
        }
        await addAudit(tx, by, {
          action: "order.cancel",
          targetKind: "order",
          targetId: id,
          before: { state: before.state },
        });
        if (before.state !== "queued") {
          // One that is done may still show what it received to programs.
          await addOrder(tx, {
            projectId,
            peerId: before.peerId,
            sessionId: before.sessionId,
            kind: "cancel",
            body: { orderId: id },
            lifetimeMs: CANCEL_LIFETIME_MS,
          });
          return { row: before, told: true };
        }
        const [row] = await tx
          .update(peerOrder)
          .set({ state: "cancelled", endedAt: sql`now()`, updatedAt: sql`now()` })
          .where(eq(peerOrder.id, id))
          .returning();
        if (row === undefined) throw new Error("a locked order is gone");
        await addOrderEvent(tx, row);
        return { row, told: false };
      });
    },
  };
}

/** In the transaction of what it is for. @throws RelayError `LIMIT_EXCEEDED` */
export async function addOrder(
  tx: Orm,
  order: {
    readonly projectId: string;
    readonly peerId: string;
    readonly sessionId: string | null;
    readonly kind: OrderKind;
    readonly body: object;
    readonly lifetimeMs: number;
  },
): Promise<OrderRow> {
  const { lifetimeMs, body, ...rest } = order;
  const [open] = await tx
    .select({ count: count() })
    .from(peerOrder)
    .where(
      and(eq(peerOrder.peerId, order.peerId), inArray(peerOrder.state, ["queued", "running"])),
    );
  if ((open?.count ?? 0) >= OPEN_MAX) {
    throw limitError(
      "LIMIT_EXCEEDED",
      { limitName: "openOrders", limit: OPEN_MAX, retryAfterS: 30 },
      `this peer has ${OPEN_MAX} orders that are not over: wait, or cancel some`,
    );
  }
  const [row] = await tx
    .insert(peerOrder)
    .values({
      id: toHex(randomBytes(16)),
      ...rest,
      body: { ...body },
      expiresAt: new Date(Date.now() + lifetimeMs),
    })
    .returning();
  if (row === undefined) throw new Error("an inserted order has no row");
  await addOrderEvent(tx, row);
  return row;
}
