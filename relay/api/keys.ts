/**
 * API keys: made, listed, shown, revoked.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";

import type { Database } from "../db/database.ts";
import { projectKeys, type KeyRow, type ProjectKeys } from "../db/project-keys.ts";
import { RelayError } from "../errors.ts";
import type { RelayLimits } from "../limits.ts";
import { actorOf } from "./actor.ts";
import { allows, mustHaveScope, requireScope } from "./auth.ts";
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
import { hexIdSchema } from "./schemas/common.ts";
import {
  createdKeySchema,
  createKeySchema,
  keyPageSchema,
  keySchema,
  listKeysQuerySchema,
  revokeKeyQuerySchema,
  type KeyBody,
} from "./schemas/identity.ts";

const createKey = createRoute({
  method: "post",
  path: "/keys",
  operationId: "createKey",
  summary: "Make an API key",
  security,
  middleware: [requireScope("admin")] as const,
  request: {
    body: { required: true, content: { "application/json": { schema: createKeySchema } } },
  },
  responses: {
    201: json("Made. `secret` is shown this once.", createdKeySchema),
    ...refusedBody,
    ...denied,
    404: problem("There is no such project."),
  },
});

const listKeys = createRoute({
  method: "get",
  path: "/keys",
  operationId: "listKeys",
  summary: "List API keys, the newest first",
  security,
  middleware: [requireScope("admin")] as const,
  request: { query: listKeysQuerySchema },
  responses: { 200: json("A page.", keyPageSchema), ...refusedQuery, ...denied, ...notFound },
});

const getKey = createRoute({
  method: "get",
  path: "/keys/{id}",
  operationId: "getKey",
  summary: "Show an API key, but not its secret",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter },
  responses: { 200: json("The key.", keySchema), ...denied, ...notFound },
});

const revokeKey = createRoute({
  method: "delete",
  path: "/keys/{id}",
  operationId: "revokeKey",
  summary: "Revoke an API key",
  description: "From now on it lets nobody in, and what it keeps open ends within seconds.",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter, query: revokeKeyQuerySchema },
  responses: {
    200: json("Revoked, now or before.", keySchema),
    409: problem("It is the last one that can make others, and `force=true` was not said."),
    422: problem("`force` is neither `true` nor `false`."),
    ...denied,
    ...notFound,
  },
});

export interface KeyRoutesOptions {
  readonly database: Database;
  readonly limits: RelayLimits;
}

export function keyRoutes({ database, limits }: KeyRoutesOptions): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });

  /** Those of the caller's project; an operator's are all. */
  const mine = (c: Context<AppEnv>): ProjectKeys => {
    const { projectId, scopes } = c.get("principal");
    return projectKeys(database, allows(scopes, "operator") ? undefined : projectId, limits);
  };

  app.openapi(createKey, async (c) => {
    const request = c.req.valid("json");
    const { projectId, prefix, scopes } = c.get("principal");
    // Nobody gives away what he does not have.
    for (const scope of request.scopes) mustHaveScope(c, scope);
    if (!allows(scopes, "operator") && (request.projectId ?? projectId) !== projectId) {
      throw new RelayError("NOT_FOUND", "there is no such project");
    }
    const { row, key } = await mine(c).create(
      {
        projectId: request.projectId ?? projectId,
        name: request.name ?? "",
        scopes: request.scopes,
        expiresAt: request.expiresAt === undefined ? undefined : new Date(request.expiresAt),
        createdBy: prefix,
      },
      (owner) => actorOf(c, owner),
    );
    c.header("location", `/v1/keys/${row.id}`);
    return c.json({ key: keyBody(row), secret: key }, 201);
  });

  app.openapi(listKeys, async (c) => {
    const { cursor, limit, projectId } = c.req.valid("query");
    const keys = projectKeys(database, projectOf(c, projectId), limits);
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const rows = await keys.list({ after, limit: limit + 1 });
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    return c.json({ keys: page.map(keyBody), nextCursor }, 200);
  });

  app.openapi(getKey, async (c) => {
    const row = await mine(c).get(idOf(c));
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such key");
    return c.json(keyBody(row), 200);
  });

  app.openapi(revokeKey, async (c) => {
    const force = c.req.valid("query").force === "true";
    const { row, changed } = await mine(c).revoke(idOf(c), force, (owner) => actorOf(c, owner));
    c.set("unchanged", !changed);
    return c.json(keyBody(row), 200);
  });

  return app;
}

/** @throws RelayError `NOT_FOUND`, for what cannot be an id */
function idOf(c: Context<AppEnv>): string {
  const parsed = hexIdSchema.safeParse(c.req.param("id"));
  if (!parsed.success) throw new RelayError("NOT_FOUND", "there is no such key");
  return parsed.data;
}

/**
 * The project whose things are to be listed: another one than the key's own only for an operator.
 *
 * @throws RelayError `NOT_FOUND`
 */
export function projectOf(c: Context<AppEnv>, wanted: string | undefined): string {
  const { projectId, scopes } = c.get("principal");
  if (wanted === undefined || wanted === projectId) return projectId;
  if (allows(scopes, "operator")) return wanted;
  throw new RelayError("NOT_FOUND", "there is no such project");
}

function keyBody(row: KeyRow): KeyBody {
  const { id, projectId, name, prefix, scopes, createdBy, createdAt } = row;
  const { expiresAt, revokedAt, lastUsedAt } = row;
  const expired = expiresAt !== null && expiresAt.getTime() <= Date.now();
  return {
    id,
    projectId,
    name,
    prefix,
    scopes: [...scopes],
    state: revokedAt !== null ? "revoked" : expired ? "expired" : "active",
    createdBy,
    createdAt: createdAt.toISOString(),
    expiresAt: expiresAt?.toISOString() ?? null,
    revokedAt: revokedAt?.toISOString() ?? null,
    lastUsedAt: lastUsedAt?.toISOString() ?? null,
  };
}
