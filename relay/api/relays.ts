/**
 * The relays of the database, for operators: listed, shown, drained.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import { createMiddleware } from "hono/factory";

import type { Database } from "../db/database.ts";
import { activeUrls, getRelay, listRelays, wantState, type RelayRow } from "../db/relays.ts";
import { RelayError } from "../errors.ts";
import type { RelayNode } from "../relay-node.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import type { AppEnv } from "./env.ts";
import { pageOf, pageQuerySchema, positionCursor, positionOf } from "./pages.ts";
import {
  denied,
  idParameter,
  json,
  notFound,
  refusedBody,
  refusedQuery,
  security,
} from "./route-parts.ts";
import { hexIdSchema } from "./schemas/common.ts";
import { relayNodeSchema, relayPageSchema, type RelayNodeBody } from "./schemas/operations.ts";
import { refuseInvalid } from "./refuse-invalid.ts";

/** What the API asks of the relay that answers. */
export type ThisRelay = Pick<RelayNode, "id" | "draining" | "look" | "place">;

export interface RelayRoutesOptions {
  readonly database: Database;
  readonly relay: ThisRelay;
}

/** Three heartbeats. */
const LOST_AFTER_MS = 15_000;
const RETRY_AFTER_S = 5;

const listRoute = createRoute({
  method: "get",
  path: "/relays",
  operationId: "listRelays",
  summary: "List relays, the one that was started last first",
  security,
  middleware: [requireScope("operator")] as const,
  request: { query: pageQuerySchema },
  responses: { 200: json("A page.", relayPageSchema), ...refusedQuery, ...denied },
});

const getRoute = createRoute({
  method: "get",
  path: "/relays/{id}",
  operationId: "getRelay",
  summary: "Show a relay",
  security,
  middleware: [requireScope("operator")] as const,
  request: { params: idParameter },
  responses: { 200: json("The relay.", relayNodeSchema), ...denied, ...notFound },
});

const SUMMARIES = {
  drain: "Let a relay take no new sessions; those that run go on",
  undrain: "Let a relay take new sessions again",
} as const;

export function relayRoutes({ database, relay }: RelayRoutesOptions): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const body = (row: RelayRow): RelayNodeBody => bodyOf(row, relay.id, Date.now());

  app.openapi(listRoute, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const rows = await listRelays(database, after, limit + 1);
    const { page, nextCursor } = pageOf(rows, limit, ({ startedAt, id }) =>
      positionCursor({ createdAt: startedAt, id }),
    );
    return c.json({ relays: page.map(body), nextCursor }, 200);
  });

  app.openapi(getRoute, async (c) =>
    c.json(body(found(await getRelay(database, idOf(c.req.param("id"))))), 200),
  );

  // As with sessions: the router cannot take `{id}:drain` apart.
  for (const action of ["drain", "undrain"] as const) {
    app.openAPIRegistry.registerPath({
      method: "post",
      path: `/relays/{id}:${action}`,
      operationId: `${action}Relay`,
      summary: SUMMARIES[action],
      security,
      request: { params: idParameter },
      responses: {
        202: json("It hears of it within seconds; as it is now.", relayNodeSchema),
        ...denied,
        ...notFound,
        ...refusedBody,
      },
    });
  }
  app.post("/relays/:target{[^/:]+:[^/:]+}", requireScope("operator"), async (c) => {
    const [id = "", action = ""] = c.req.param("target").split(":");
    if (action !== "drain" && action !== "undrain") {
      throw new RelayError("NOT_FOUND", "there is no such action: drain and undrain are");
    }
    const wanted = action === "drain" ? "draining" : "active";
    let row = found(await wantState(database, idOf(id), wanted, actorOf(c)));
    if (row.id === relay.id) {
      await relay.look();
      row = found(await getRelay(database, row.id));
    }
    return c.json(body(row), 202);
  });

  return app;
}

/** New sessions go to another relay, or wait: for the routes that make some. */
export function refuseWhileDraining(
  isDraining: () => boolean,
  { database, relay }: RelayRoutesOptions,
) {
  return createMiddleware<AppEnv>(async (c, next) => {
    if (c.req.method === "POST" && isDraining()) {
      // A database that does not answer has no others to name either.
      const alternateUrls = await activeUrls(database, relay.id).catch(() => []);
      throw new RelayError(
        "RELAY_DRAINING",
        "this relay takes no new sessions: ask another, or again",
        {
          details: { retryAfterS: RETRY_AFTER_S, alternateUrls },
        },
      );
    }
    await next();
  });
}

function idOf(text: string): string {
  if (!hexIdSchema.safeParse(text).success) throw noSuchRelay();
  return text;
}

function found(row: RelayRow | undefined): RelayRow {
  if (row === undefined) throw noSuchRelay();
  return row;
}

function noSuchRelay(): RelayError {
  return new RelayError("NOT_FOUND", "there is no such relay");
}

function bodyOf(row: RelayRow, thisId: string, nowMs: number): RelayNodeBody {
  const { id, name, zone, url, version, wantedState, load, startedAt, heartbeatAt } = row;
  const lost = id !== thisId && nowMs - heartbeatAt.getTime() > LOST_AFTER_MS;
  return {
    id,
    name,
    zone,
    url,
    version,
    state: lost ? "lost" : row.state,
    wantedState,
    isThis: id === thisId,
    load,
    startedAt: startedAt.toISOString(),
    heartbeatAt: heartbeatAt.toISOString(),
  };
}
