/**
 * What enrolled peers are told to do, and migrations that are made by telling them.
 *
 * @module
 */
import { createRoute, OpenAPIHono, type z } from "@hono/zod-openapi";
import type { Context } from "hono";

import type { LiveAgents } from "../agents/hub.ts";
import type { Database } from "../db/database.ts";
import { orderMigration } from "../db/ordered-migration.ts";
import { projectOrders, type OrderRow } from "../db/orders.ts";
import { projectPeers } from "../db/peers.ts";
import { RelayError } from "../errors.ts";
import type { RelayLimits } from "../limits.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import type { Changes } from "./changes.ts";
import type { AppEnv } from "./env.ts";
import { pageOf, positionCursor, positionOf } from "./pages.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import {
  denied,
  idParameter,
  json,
  notFound,
  problem,
  refusedBody,
  refusedQuery,
  security,
} from "./route-parts.ts";
import {
  type orderedMigrationBodySchema,
  type orderedMigrationSchema,
  orderPageSchema,
  orderSchema,
  ordersQuerySchema,
  type OrderBody,
} from "./schemas/agents.ts";
import { hexIdSchema } from "./schemas/common.ts";

export interface OrderRoutesOptions {
  readonly database: Database;
  readonly agents: LiveAgents;
  readonly changes: Changes;
  readonly limits: RelayLimits;
}

const listOrders = createRoute({
  method: "get",
  path: "/orders",
  operationId: "listOrders",
  summary: "List what peers were told to do, the newest first",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { query: ordersQuerySchema },
  responses: { 200: json("A page.", orderPageSchema), ...refusedQuery, ...denied },
});

const getOrder = createRoute({
  method: "get",
  path: "/orders/{id}",
  operationId: "getOrder",
  summary: "Show an order",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { params: idParameter },
  responses: { 200: json("The order.", orderSchema), ...denied, ...notFound },
});

const cancelOrder = createRoute({
  method: "post",
  path: "/orders/{id}:cancel",
  operationId: "cancelOrder",
  summary: "End an order: at once if it was not begun, else as soon as its peer hears of it",
  description: "One that is done may still show what it received to programs: that ends, too.",
  security,
  middleware: [requireScope("peers:write")] as const,
  request: { params: idParameter },
  responses: {
    202: json("The order.", orderSchema),
    ...denied,
    ...notFound,
    ...refusedBody,
    409: problem("The order is over."),
  },
});

export function orderRoutes(options: OrderRoutesOptions): OpenAPIHono<AppEnv> {
  const { database, agents } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const projectOf = (c: Context<AppEnv>): string => c.get("principal").projectId;

  app.openapi(listOrders, async (c) => {
    const { cursor, limit, peerId, sessionId, state } = c.req.valid("query");
    if (sessionId !== undefined && !hexIdSchema.safeParse(sessionId).success) {
      return c.json({ orders: [], nextCursor: null }, 200);
    }
    const rows = await projectOrders(database, projectOf(c)).list({
      peerId,
      sessionId,
      states: state === undefined ? undefined : [state],
      after: cursor === undefined ? undefined : positionOf(cursor),
      limit: limit + 1,
    });
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    return c.json({ orders: page.map(orderBody), nextCursor }, 200);
  });

  app.openapi(getOrder, async (c) => {
    const id = knownId(c.req.param("id"));
    const row = await projectOrders(database, projectOf(c)).get(id);
    if (row === undefined) throw noSuchOrder();
    return c.json(orderBody(row), 200);
  });

  // As with sessions: the router cannot take `{id}:cancel` apart.
  app.openAPIRegistry.registerPath(cancelOrder);
  app.post("/orders/:target{[^/:]+:[^/:]+}", requireScope("peers:write"), async (c) => {
    const [id = "", action = ""] = c.req.param("target").split(":");
    if (action !== "cancel") {
      throw new RelayError("NOT_FOUND", "there is no such action: cancel is");
    }
    const { row } = await projectOrders(database, projectOf(c)).cancel(actorOf(c), knownId(id));
    agents.wake(row.peerId);
    return c.json(orderBody(row), 202);
  });

  return app;
}

function noSuchOrder(): RelayError {
  return new RelayError("NOT_FOUND", "there is no such order");
}

function knownId(id: string): string {
  if (!hexIdSchema.safeParse(id).success) throw noSuchOrder();
  return id;
}

/** Without its body: that is between the peers, secrets in it are sealed to them. */
function orderBody(row: OrderRow): OrderBody {
  return {
    id: row.id,
    peerId: row.peerId,
    sessionId: row.sessionId,
    kind: row.kind,
    state: row.state,
    problem: row.problemCode === "" ? null : { code: row.problemCode, message: row.problemMessage },
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    expiresAt: row.expiresAt.toISOString(),
    endedAt: row.endedAt?.toISOString() ?? null,
  };
}

/**
 * Makes a migration between enrolled peers, and orders both to take part.
 *
 * @throws RelayError `NOT_FOUND`, `REQUEST_INVALID`, `LIMIT_EXCEEDED`
 */
export async function orderPeers(
  c: Context<AppEnv>,
  request: z.infer<typeof orderedMigrationSchema>,
  { database, agents, changes, limits }: OrderRoutesOptions,
): Promise<z.infer<typeof orderedMigrationBodySchema>> {
  const { projectId, prefix } = c.get("principal");
  const peers = projectPeers(database, projectId);
  const find = async (idOrName: string) => {
    const row = await peers.find(idOrName);
    if (row === undefined) throw new RelayError("NOT_FOUND", `there is no peer ${idOrName}`);
    return row;
  };
  const to = await find(request.to);
  const sources = [];
  for (const one of Array.isArray(request.from) ? request.from : [request.from]) {
    const [named = "", name = ""] =
      typeof one === "string" ? one.split("/") : [one.peerId, one.region];
    const peer = await find(named);
    const region = await peers.region(peer.id, name);
    if (region === undefined) {
      throw new RelayError("NOT_FOUND", `${peer.name} offers no region ${name}`);
    }
    sources.push({ peer, region });
  }
  if (sources.some(({ peer }) => peer.id === to.id)) {
    throw new RelayError("REQUEST_INVALID", "a region moves to another peer than it is at", {
      details: { issues: [{ path: "to", message: "is where the region is already" }] },
    });
  }
  const { name, labels = {}, consistency, orderTtlMs } = request;
  const { mode, finalize, downtimeBudgetMs, directory, hooks } = request.options;
  const made = await orderMigration(database, projectId, {
    by: actorOf(c),
    createdBy: prefix,
    name: name ?? sources.map(({ region }) => region.name).join("+"),
    labels,
    consistency,
    sources,
    to,
    orderTtlMs,
    mode,
    finalize,
    downtimeBudgetMs,
    directory,
    export: request.options.export,
    hooks,
    bounds: limits,
  });
  for (const id of made.sessionIds) changes.publish(id);
  for (const peerId of new Set(made.orders.map((order) => order.peerId))) agents.wake(peerId);
  return { id: made.id, sessionIds: [...made.sessionIds], orders: made.orders.map(orderBody) };
}
