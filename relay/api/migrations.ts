/**
 * Migrations: sessions that belong together, seen and acted on as one.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";

import { TICKET_LIFETIME_MS } from "../db/limits.ts";
import { createMigration, projectMigrations, type MigrationRow } from "../db/migrations.ts";
import type { SessionRow } from "../db/sessions.ts";
import { RelayError } from "../errors.ts";
import type { NodeBounds } from "../node-bounds.ts";
import { isEnded } from "../protocol/ids.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import { etagOf, requireMatch } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import {
  MIGRATION_ACTIONS,
  migrationActions,
  migrationState,
  type MigrationAction,
} from "./migration-state.ts";
import { orderPeers, type OrderRoutesOptions } from "./orders.ts";
import { pageOf, pageQuerySchema, positionCursor, positionOf } from "./pages.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import { requestBody } from "./request-body.ts";
import {
  denied,
  idParameter,
  ifMatchHeader,
  json,
  notFound,
  problem,
  refusedBody,
  refusedQuery,
  security,
  versionConflict,
} from "./route-parts.ts";
import { hexIdSchema } from "./schemas/common.ts";
import {
  migrationActionBodySchema,
  migrationOutcomeSchema,
  migrationPageSchema,
  migrationSchema,
  newMigrationBodySchema,
  newMigrationSchema,
  type MigrationBody,
} from "./schemas/migrations.ts";
import type { SessionBody } from "./schemas.ts";
import { ticketBody } from "./session-actions.ts";
import type { SessionService } from "./session-service.ts";
import type { RelayAddress } from "./sessions.ts";

export interface MigrationRoutesOptions extends OrderRoutesOptions {
  readonly service: SessionService;
  readonly node?: Pick<NodeBounds, "error"> | undefined;
  readonly address: () => RelayAddress;
}

const newMigration = createRoute({
  method: "post",
  path: "/migrations",
  operationId: "createMigration",
  summary: "Move regions from one enrolled peer to another, or make sessions that belong together",
  description:
    "With `from` and `to`: makes a session for each region, and orders both peers to take part. What a peer may do is allowed by its own configuration: an order that goes beyond it fails with a code. With `sessions` or `sessionIds`: makes the group, and peers join with tickets.",
  security,
  middleware: [requireScope("sessions:write")] as const,
  request: {
    body: { required: true, content: { "application/json": { schema: newMigrationSchema } } },
  },
  responses: {
    201: json(
      "Made; the peers have their orders, or the tickets are shown this once.",
      newMigrationBodySchema,
    ),
    404: problem("No such peer, or it does not offer this region."),
    ...refusedBody,
    ...denied,
  },
});

const listMigrations = createRoute({
  method: "get",
  path: "/migrations",
  operationId: "listMigrations",
  summary: "List migrations, the newest first",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { query: pageQuerySchema },
  responses: { 200: json("A page.", migrationPageSchema), ...refusedQuery, ...denied },
});

const getMigration = createRoute({
  method: "get",
  path: "/migrations/{id}",
  operationId: "getMigration",
  summary: "Show a migration",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter },
  responses: { 200: json("The migration.", migrationSchema), ...denied, ...notFound },
});

const deleteMigration = createRoute({
  method: "delete",
  path: "/migrations/{id}",
  operationId: "deleteMigration",
  summary: "Take a migration away whose sessions have ended; they stay",
  security,
  middleware: [requireScope("sessions:write")] as const,
  request: { params: idParameter, headers: ifMatchHeader },
  responses: {
    204: { description: "It is gone." },
    409: problem("One of its sessions is not over: cancel it first."),
    ...versionConflict,
    ...denied,
    ...notFound,
  },
});

const SUMMARIES: Readonly<Record<MigrationAction, string>> = {
  finalize: "Switch all of its sessions over now",
  cancel: "Stop all of its sessions whose workload has not moved",
};

interface Found {
  readonly row: MigrationRow;
  readonly sessions: readonly SessionRow[];
  readonly body: MigrationBody;
}

export function migrationRoutes(options: MigrationRoutesOptions): OpenAPIHono<AppEnv> {
  const { database, service, changes } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const of = (c: Context<AppEnv>) => projectMigrations(database, c.get("principal").projectId);

  const find = async (c: Context<AppEnv>, id: string): Promise<Found> => {
    const row = hexIdSchema.safeParse(id).success ? await of(c).get(id) : undefined;
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such migration");
    const sessions = (await of(c).sessionsOf([id])).get(id) ?? [];
    return {
      row,
      sessions,
      body: bodyOf(
        row,
        sessions.map((one) => service.body(one)),
      ),
    };
  };

  app.openapi(newMigration, async (c) => {
    const request = c.req.valid("json");
    const { projectId, prefix } = c.get("principal");
    if ("from" in request) {
      const ordered = await orderPeers(c, request, options);
      c.header("location", `/v1/migrations/${ordered.id}`);
      return c.json(ordered, 201);
    }
    const full = request.sessions.length > 0 ? options.node?.error(projectId) : undefined;
    if (full !== undefined) throw full;
    const made = await createMigration(database, projectId, {
      name: request.name ?? "",
      labels: request.labels,
      policy: { consistency: request.consistency },
      sessions: request.sessions.map((one) => ({
        name: one.name ?? "",
        labels: one.labels ?? {},
        mode: one.mode ?? "live",
        limits: one.limits ?? {},
        policy: one.policy ?? {},
        ticketLifetimeMs: one.ticketTtlMs ?? TICKET_LIFETIME_MS,
      })),
      sessionIds: request.sessionIds,
      createdBy: prefix,
      by: actorOf(c),
      bounds: options.limits,
    });
    const { row, sessions } = await find(c, made.id);
    for (const one of sessions) changes.publish(one.id);
    const bodies = new Map(sessions.map((one) => [one.id, service.body(one)]));
    const { url, certificateHashes, identity } = options.address();
    c.header("location", `/v1/migrations/${row.id}`);
    return c.json(
      {
        id: row.id,
        sessionIds: sessions.map(({ id }) => id),
        sessions: made.sessions.flatMap(({ id, tickets }) => {
          const session = bodies.get(id);
          if (session === undefined) return [];
          const { seeder, leecher } = tickets;
          return [
            { session, tickets: { seeder: ticketBody(seeder), leecher: ticketBody(leecher) } },
          ];
        }),
        relay: { url, certificateHashes: [...certificateHashes], identity },
      },
      201,
    );
  });

  app.openapi(listMigrations, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const rows = await of(c).list({
      after: cursor === undefined ? undefined : positionOf(cursor),
      limit: limit + 1,
    });
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    const sessions = await of(c).sessionsOf(page.map(({ id }) => id));
    const migrations = page.map((row) =>
      bodyOf(
        row,
        (sessions.get(row.id) ?? []).map((one) => service.body(one)),
      ),
    );
    return c.json({ migrations, nextCursor }, 200);
  });

  app.openapi(getMigration, async (c) => {
    const { body } = await find(c, c.req.param("id"));
    c.header("etag", etagOf(body.version));
    return c.json(body, 200);
  });

  app.openapi(deleteMigration, async (c) => {
    const { row, body } = await find(c, c.req.param("id"));
    requireMatch(c, body.version);
    if (!(await of(c).remove(row.id, actorOf(c)))) {
      throw conflict(body, "one of its sessions is not over: cancel it first");
    }
    return c.body(null, 204);
  });

  // As with sessions: the router cannot take `{id}:finalize` apart.
  for (const action of MIGRATION_ACTIONS) {
    app.openAPIRegistry.registerPath({
      method: "post",
      path: `/migrations/{id}:${action}`,
      operationId: `${action}Migration`,
      summary: SUMMARIES[action],
      security,
      request: {
        params: idParameter,
        body: { content: { "application/json": { schema: migrationActionBodySchema } } },
      },
      responses: {
        202: json("Passed on; what came of it for each session.", migrationOutcomeSchema),
        ...refusedBody,
        409: problem("Its sessions do not allow it: see `allowedActions`."),
        ...denied,
        ...notFound,
      },
    });
  }

  app.post("/migrations/:target{[^/:]+:[^/:]+}", requireScope("sessions:control"), async (c) => {
    const [id = "", name = ""] = c.req.param("target").split(":");
    const { row, sessions, body } = await find(c, id);
    const action = MIGRATION_ACTIONS.find((one) => one === name);
    if (action === undefined) {
      const known = MIGRATION_ACTIONS.join(", ");
      throw new RelayError("NOT_FOUND", `there is no such action: ${known} are`);
    }
    const { reason = "" } = await requestBody(c, migrationActionBodySchema);
    // Looked at for all of them before the first is touched.
    if (!body.allowedActions.includes(action)) {
      throw conflict(body, `a migration that is ${body.state} does not allow ${action}`);
    }
    const by = actorOf(c);
    const outcomes = [];
    for (const session of sessions.filter(({ state }) => !isEnded(state))) {
      const detail = await service
        .act(session, action, { reason, by, ticketLifetimeMs: TICKET_LIFETIME_MS })
        .then(() => "", refusal);
      outcomes.push({
        sessionId: session.id,
        state: service.body(session).state,
        done: detail === "",
        detail,
      });
    }
    await of(c).note(row.id, action, {
      reason,
      sessions: outcomes.length,
      refused: outcomes.filter(({ done }) => !done).length,
    });
    const now = await find(c, row.id);
    c.header("etag", etagOf(now.body.version));
    return c.json({ migration: now.body, outcomes }, 202);
  });

  return app;
}

/** What one session answered must not keep the others from being asked. @throws what is no refusal */
function refusal(error: unknown): string {
  if (error instanceof RelayError && error.code === "STATE_CONFLICT") return error.message;
  throw error;
}

function conflict(body: MigrationBody, detail: string): RelayError {
  return new RelayError("STATE_CONFLICT", detail, {
    details: { currentState: body.state, allowedActions: body.allowedActions },
  });
}

function bodyOf(row: MigrationRow, sessions: readonly SessionBody[]): MigrationBody {
  const sum = (of: (progress: NonNullable<SessionBody["progress"]>) => number): number =>
    sessions.reduce((total, { progress }) => total + (progress === null ? 0 : of(progress)), 0);
  const bytesTotal = sum((progress) => progress.bytesTotal);
  const weighted = sum((progress) => progress.percent * progress.bytesTotal);
  const downtimes = sessions.map(({ timings }) => timings.downtimeMs);
  const measured = downtimes.filter((ms) => ms !== null);
  return {
    id: row.id,
    name: row.name,
    labels: row.labels,
    state: migrationState(sessions),
    policy: row.policy,
    sessionIds: sessions.map(({ id }) => id),
    progress: {
      percent: bytesTotal === 0 ? 0 : Math.floor((weighted / bytesTotal) * 100) / 100,
      bytesTotal,
      bytesSent: sum((progress) => progress.bytesSent),
      bytesWire: sum((progress) => progress.bytesWire),
      bytesRemaining: sum((progress) => progress.bytesRemaining),
      sendBytesPerS: sum((progress) => progress.sendBytesPerS),
      dirtyBytesPerS: sum((progress) => progress.dirtyBytesPerS),
    },
    downtimeMs:
      measured.length === 0 || measured.length < downtimes.length ? null : Math.max(...measured),
    allowedActions: migrationActions(sessions, row.policy),
    createdBy: row.createdBy,
    createdAt: row.createdAt.toISOString(),
    // It changes whenever one of its sessions does.
    version: sessions.reduce((total, { version }) => total + version, row.version),
  };
}
