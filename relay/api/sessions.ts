/**
 * Sessions: made, listed, shown, changed, taken away.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";

import { TICKET_LIFETIME_MS } from "../db/limits.ts";
import type { ProjectSessions, SessionPosition, SessionRow } from "../db/sessions.ts";
import { termsOf } from "../db/session-terms.ts";
import type { RelayLimits } from "../limits.ts";
import type { NodeBounds } from "../node-bounds.ts";
import { isEnded } from "../protocol/ids.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import type { Changes } from "./changes.ts";
import { etagOf, requireMatch, versionConflict as changedMeanwhile } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import { PAGE_LIMIT_MAX, positionCursor, positionOf } from "./pages.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
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
import {
  createdSchema,
  createSessionSchema,
  listQuerySchema,
  patchSessionSchema,
  sessionPageSchema,
  sessionSchema,
} from "./schemas.ts";
import { ticketBody } from "./session-actions.ts";
import { stateOf } from "./session-body.ts";
import type { LiveSessions, SessionService } from "./session-service.ts";
import { AT_WORK } from "./session-state.ts";

export interface RelayAddress {
  readonly url: string;
  /** SHA-256 of the certificate's DER, in hexadecimal. */
  readonly certificateHashes: readonly string[];
  /** The relay's ed25519 public key in hexadecimal, which vouches for later certificates. */
  readonly identity: string;
}

export interface SessionRoutesOptions {
  readonly service: SessionService;
  readonly switchboard: Pick<LiveSessions, "setBytesPerS" | "setTerms">;
  readonly changes: Changes;
  readonly limits: RelayLimits;
  /** Whether this relay lets another session in; without it, always. */
  readonly node?: Pick<NodeBounds, "error"> | undefined;
  /** Where peers find the relay; asked each time, since its certificate is renewed. */
  readonly address: () => RelayAddress;
}

/** Pages of the database that one page of a list may be picked from. */
const LIST_BATCHES_MAX = 10;

const createSession = createRoute({
  method: "post",
  path: "/sessions",
  operationId: "createSession",
  summary: "Make a session and its two one-use tickets",
  security,
  middleware: [requireScope("sessions:write")] as const,
  request: { body: { content: { "application/json": { schema: createSessionSchema } } } },
  responses: {
    201: { description: "Made.", content: { "application/json": { schema: createdSchema } } },
    ...refusedBody,
    ...denied,
  },
});

const listSessions = createRoute({
  method: "get",
  path: "/sessions",
  operationId: "listSessions",
  summary: "List sessions",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { query: listQuerySchema },
  responses: {
    200: { description: "A page.", content: { "application/json": { schema: sessionPageSchema } } },
    ...refusedQuery,
    ...denied,
  },
});

const getSession = createRoute({
  method: "get",
  path: "/sessions/{id}",
  operationId: "getSession",
  summary: "Show a session",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter },
  responses: {
    200: {
      description: "The session.",
      content: { "application/json": { schema: sessionSchema } },
    },
    ...denied,
    ...notFound,
  },
});

const patchSession = createRoute({
  method: "patch",
  path: "/sessions/{id}",
  operationId: "patchSession",
  summary: "Change a session's name, labels, limits or policy",
  description:
    "What is named is replaced as a whole. `limits.bytesPerS` counts at once, `limits.deadlineMs` from the time the copying began.",
  security,
  middleware: [requireScope("sessions:write")] as const,
  request: {
    params: idParameter,
    headers: ifMatchHeader,
    body: { content: { "application/json": { schema: patchSessionSchema } }, required: true },
  },
  responses: {
    200: json("Changed.", sessionSchema),
    ...refusedBody,
    409: problem("The session is over."),
    ...versionConflict,
    ...denied,
    ...notFound,
  },
});

const deleteSession = createRoute({
  method: "delete",
  path: "/sessions/{id}",
  operationId: "deleteSession",
  summary: "Take an ended session away, with its events and its index",
  security,
  middleware: [requireScope("sessions:write")] as const,
  request: { params: idParameter, headers: ifMatchHeader },
  responses: {
    204: { description: "It is gone." },
    409: problem("The session is not over: cancel it first."),
    ...versionConflict,
    ...denied,
    ...notFound,
  },
});

export function sessionRoutes(options: SessionRoutesOptions): OpenAPIHono<AppEnv> {
  const { service, switchboard, changes } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const projectOf = (c: Context<AppEnv>): string => c.get("principal").projectId;

  app.openapi(createSession, async (c) => {
    const request = c.req.valid("json");
    const full = options.node?.error(projectOf(c));
    if (full !== undefined) throw full;
    const { row, tickets } = await service.of(projectOf(c)).create({
      bounds: options.limits,
      name: request.name ?? "",
      labels: request.labels ?? {},
      mode: request.mode ?? "live",
      limits: request.limits ?? {},
      policy: request.policy ?? {},
      ticketLifetimeMs: request.ticketTtlMs ?? TICKET_LIFETIME_MS,
      createdBy: c.get("principal").prefix,
    });
    changes.publish(row.id);
    const { url, certificateHashes, identity } = options.address();
    c.header("location", `/v1/sessions/${row.id}`);
    c.header("etag", etagOf(row.version));
    return c.json(
      {
        session: service.body(row),
        tickets: { seeder: ticketBody(tickets.seeder), leecher: ticketBody(tickets.leecher) },
        relay: { url, certificateHashes: [...certificateHashes], identity },
      },
      201,
    );
  });

  app.openapi(listSessions, async (c) => {
    const { state, label, peer, since, migration, text, sort, cursor, limit } =
      c.req.valid("query");
    const { page, last } = await listed(service.of(projectOf(c)), {
      states: state,
      labels: label === undefined ? undefined : Object.fromEntries(label.map(labelOf)),
      peerId: peer,
      since: since === undefined ? undefined : new Date(since),
      migrationId: migration,
      text,
      sort,
      after: cursor === undefined ? undefined : positionOf(cursor),
      limit,
    });
    const nextCursor = last === undefined ? null : positionCursor(last);
    return c.json({ sessions: page.map((row) => service.body(row)), nextCursor }, 200);
  });

  app.openapi(getSession, async (c) => {
    const row = await service.find(projectOf(c), c.req.param("id"));
    c.header("etag", etagOf(row.version));
    return c.json(service.body(row), 200);
  });

  app.openapi(patchSession, async (c) => {
    const row = await service.find(projectOf(c), c.req.param("id"));
    requireMatch(c, row.version);
    const change = c.req.valid("json");
    const changesHow = change.limits !== undefined || change.policy !== undefined;
    if (changesHow && isEnded(row.state)) {
      throw service.conflict(row, `the session is over: ${row.state}`);
    }
    if (!(await service.of(projectOf(c)).update(row.id, row.version, change, actorOf(c)))) {
      const now = await service.find(projectOf(c), row.id);
      throw changedMeanwhile(now.version);
    }
    if (change.limits !== undefined) {
      switchboard.setBytesPerS(row.id, change.limits.bytesPerS ?? 0);
      switchboard.setTerms(row.id, termsOf({ mode: row.mode, limits: change.limits }));
    }
    changes.publish(row.id);
    const now = await service.find(projectOf(c), row.id);
    c.header("etag", etagOf(now.version));
    return c.json(service.body(now), 200);
  });

  app.openapi(deleteSession, async (c) => {
    const row = await service.find(projectOf(c), c.req.param("id"));
    requireMatch(c, row.version);
    if (!(await service.of(projectOf(c)).remove(row.id, actorOf(c)))) {
      throw service.conflict(row, "the session is not over: cancel it first");
    }
    changes.publish(row.id);
    return c.body(null, 204);
  });

  /** A page, and where it ended if there may be another. */
  async function listed(
    sessions: ProjectSessions,
    { states, after, limit, ...filter }: Parameters<ProjectSessions["list"]>[0],
  ): Promise<{ page: SessionRow[]; last: SessionPosition | undefined }> {
    if (states === undefined || !states.some((state) => state === "paused" || AT_WORK.has(state))) {
      // One more than asked for says whether there is a next page.
      const rows = await sessions.list({ ...filter, states, after, limit: limit + 1 });
      const page = rows.slice(0, limit);
      return { page, last: rows.length > limit ? page.at(-1) : undefined };
    }
    // Which of these are paused is not in the database: what it finds is looked through, within a bound.
    const wanted = new Set(states);
    const recorded = wanted.has("paused") ? [...new Set([...states, ...AT_WORK])] : states;
    const page: SessionRow[] = [];
    let last = after;
    for (let batch = 0; batch < LIST_BATCHES_MAX; batch++) {
      const look = { ...filter, states: recorded, after: last, limit: PAGE_LIMIT_MAX };
      const rows = await sessions.list(look);
      for (const row of rows) {
        if (page.length === limit) return { page, last };
        if (wanted.has(stateOf(row, service.live(row.id)))) page.push(row);
        last = row;
      }
      if (rows.length < PAGE_LIMIT_MAX) return { page, last: undefined };
    }
    return { page, last };
  }

  return app;
}

function labelOf(text: string): [name: string, value: string] {
  const at = text.search(/[:=]/);
  return [text.slice(0, at), text.slice(at + 1)];
}
