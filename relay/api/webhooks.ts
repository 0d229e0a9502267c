/**
 * Webhooks: made, listed, shown, changed, tested, given another secret, deleted; and what was delivered.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";

import type { Database } from "../db/database.ts";
import {
  projectWebhooks,
  type DeliveryRow,
  type ProjectWebhooks,
  type WebhookRow,
} from "../db/webhooks.ts";
import { RelayError } from "../errors.ts";
import type { RelayLimits } from "../limits.ts";
import { toHex } from "../protocol/bytes.ts";
import type { SecretBox } from "../secret-box.ts";
import { secretUse } from "../webhooks/deliverer.ts";
import { checkUrl, type DestinationRules } from "../webhooks/destination.ts";
import { PREVIOUS_SECRET_S } from "../webhooks/limits.ts";
import { makeSecret } from "../webhooks/signature.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import { etagOf, requireMatch, versionConflict } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import { pageOf, pageQuerySchema, positionCursor, positionOf } from "./pages.ts";
import {
  denied,
  idParameter,
  ifMatchHeader,
  json,
  notFound,
  refusedBody,
  refusedQuery,
  security,
  versionConflict as conflict,
} from "./route-parts.ts";
import { hexIdSchema } from "./schemas/common.ts";
import {
  createWebhookSchema,
  deliveriesQuerySchema,
  deliveryPageSchema,
  deliverySchema,
  patchWebhookSchema,
  rotateWebhookSchema,
  secretWebhookSchema,
  webhookPageSchema,
  webhookSchema,
  type DeliveryBody,
  type WebhookBody,
} from "./schemas/operations.ts";
import { refuseInvalid } from "./refuse-invalid.ts";

export interface WebhookRoutesOptions {
  readonly database: Database;
  readonly limits: RelayLimits;
  readonly secrets: SecretBox;
  readonly rules: DestinationRules;
}

const createWebhook = createRoute({
  method: "post",
  path: "/webhooks",
  operationId: "createWebhook",
  summary: "Have what happens in the project sent to a URL",
  security,
  middleware: [requireScope("admin")] as const,
  request: {
    body: { required: true, content: { "application/json": { schema: createWebhookSchema } } },
  },
  responses: {
    201: json("Made. It hears of what happens from now on.", secretWebhookSchema),
    ...refusedBody,
    ...denied,
  },
});

const listWebhooks = createRoute({
  method: "get",
  path: "/webhooks",
  operationId: "listWebhooks",
  summary: "List webhooks, the newest first",
  security,
  middleware: [requireScope("admin")] as const,
  request: { query: pageQuerySchema },
  responses: { 200: json("A page.", webhookPageSchema), ...refusedQuery, ...denied },
});

const getWebhook = createRoute({
  method: "get",
  path: "/webhooks/{id}",
  operationId: "getWebhook",
  summary: "Show a webhook, but not its secret",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter },
  responses: { 200: json("The webhook.", webhookSchema), ...denied, ...notFound },
});

const patchWebhook = createRoute({
  method: "patch",
  path: "/webhooks/{id}",
  operationId: "patchWebhook",
  summary: "Change a webhook",
  security,
  middleware: [requireScope("admin")] as const,
  request: {
    params: idParameter,
    headers: ifMatchHeader,
    body: { required: true, content: { "application/json": { schema: patchWebhookSchema } } },
  },
  responses: {
    200: json("As it is now.", webhookSchema),
    ...refusedBody,
    ...denied,
    ...notFound,
    ...conflict,
  },
});

const deleteWebhook = createRoute({
  method: "delete",
  path: "/webhooks/{id}",
  operationId: "deleteWebhook",
  summary: "Delete a webhook, with its deliveries",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter, headers: ifMatchHeader },
  responses: { 204: { description: "It is gone." }, ...denied, ...notFound, ...conflict },
});

const listDeliveries = createRoute({
  method: "get",
  path: "/webhooks/{id}/deliveries",
  operationId: "listWebhookDeliveries",
  summary: "List what was delivered, or is to be, the newest first",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter, query: deliveriesQuerySchema },
  responses: { 200: json("A page.", deliveryPageSchema), ...refusedQuery, ...denied, ...notFound },
});

export function webhookRoutes({
  database,
  limits,
  secrets,
  rules,
}: WebhookRoutesOptions): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const mine = (c: Context<AppEnv>): ProjectWebhooks =>
    projectWebhooks(database, c.get("principal").projectId, limits);

  async function find(webhooks: ProjectWebhooks, id: string): Promise<WebhookRow> {
    const row = hexIdSchema.safeParse(id).success ? await webhooks.get(id) : undefined;
    if (row === undefined) throw noSuchWebhook();
    return row;
  }

  /** A secret, and how the database keeps it. */
  function secretFor(id: string): { readonly secret: string; readonly sealedSecret: Uint8Array } {
    const secret = makeSecret();
    return { secret, sealedSecret: secrets.seal(secretUse(id), new TextEncoder().encode(secret)) };
  }

  app.openapi(createWebhook, async (c) => {
    const { url, eventTypes, enabled = true } = c.req.valid("json");
    checkUrl(url, rules);
    const id = toHex(randomBytes(16));
    const { secret, sealedSecret } = secretFor(id);
    const row = await mine(c).create({ id, url, eventTypes, enabled, sealedSecret }, actorOf(c));
    c.header("location", `/v1/webhooks/${id}`);
    c.header("etag", etagOf(row.version));
    return c.json({ webhook: bodyOf(row), secret }, 201);
  });

  app.openapi(listWebhooks, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const rows = await mine(c).list(after, limit + 1);
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    return c.json({ webhooks: page.map(bodyOf), nextCursor }, 200);
  });

  app.openapi(getWebhook, async (c) => {
    const row = await find(mine(c), c.req.param("id"));
    c.header("etag", etagOf(row.version));
    return c.json(bodyOf(row), 200);
  });

  app.openapi(patchWebhook, async (c) => {
    const webhooks = mine(c);
    const { id, version } = await find(webhooks, c.req.param("id"));
    requireMatch(c, version);
    const changes = c.req.valid("json");
    if (changes.url !== undefined) checkUrl(changes.url, rules);
    const row = await webhooks.update(id, version, changes, actorOf(c));
    if (row === undefined) throw await changedMeanwhile(webhooks, id);
    c.header("etag", etagOf(row.version));
    return c.json(bodyOf(row), 200);
  });

  app.openapi(deleteWebhook, async (c) => {
    const webhooks = mine(c);
    const { id, version } = await find(webhooks, c.req.param("id"));
    requireMatch(c, version);
    if (!(await webhooks.remove(id, version, actorOf(c)))) {
      throw await changedMeanwhile(webhooks, id);
    }
    return c.body(null, 204);
  });

  app.openapi(listDeliveries, async (c) => {
    const { state, cursor, limit } = c.req.valid("query");
    const webhooks = mine(c);
    const { id } = await find(webhooks, c.req.param("id"));
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const rows = await webhooks.deliveries(id, { state, after, limit: limit + 1 });
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    return c.json({ deliveries: page.map(deliveryBody), nextCursor }, 200);
  });

  // As with sessions: the router cannot take `{id}:test` apart.
  app.openAPIRegistry.registerPath({
    method: "post",
    path: "/webhooks/{id}:test",
    operationId: "testWebhook",
    summary: "Send `webhook.test` to a webhook",
    security,
    request: { params: idParameter },
    responses: {
      202: json("Its delivery, to be looked up in the list.", deliverySchema),
      ...refusedBody,
      ...denied,
      ...notFound,
    },
  });
  app.openAPIRegistry.registerPath({
    method: "post",
    path: "/webhooks/{id}:rotate",
    operationId: "rotateWebhook",
    summary: "Give a webhook another secret",
    security,
    request: {
      params: idParameter,
      headers: ifMatchHeader,
      body: { content: { "application/json": { schema: rotateWebhookSchema } } },
    },
    responses: {
      200: json("It signs from now on, beside the one before for a while.", secretWebhookSchema),
      ...refusedBody,
      ...denied,
      ...notFound,
      ...conflict,
    },
  });
  app.post("/webhooks/:target{[^/:]+:[^/:]+}", requireScope("admin"), async (c) => {
    const [id = "", action = ""] = c.req.param("target").split(":");
    const webhooks = mine(c);
    const row = await find(webhooks, id);
    if (action === "test") return c.json(deliveryBody(await webhooks.test(row)), 202);
    if (action !== "rotate") {
      throw new RelayError("NOT_FOUND", "there is no such action: test and rotate are");
    }
    requireMatch(c, row.version);
    const { previousForS = PREVIOUS_SECRET_S } = await rotateBody(c);
    const { secret, sealedSecret } = secretFor(id);
    const rotated = await webhooks.rotate(id, row.version, sealedSecret, previousForS, actorOf(c));
    if (rotated === undefined) throw await changedMeanwhile(webhooks, id);
    c.header("etag", etagOf(rotated.version));
    return c.json({ webhook: bodyOf(rotated), secret }, 200);
  });

  return app;
}

/** Between what was read and what was to be written. */
async function changedMeanwhile(webhooks: ProjectWebhooks, id: string): Promise<RelayError> {
  const row = await webhooks.get(id);
  return row === undefined ? noSuchWebhook() : versionConflict(row.version);
}

function noSuchWebhook(): RelayError {
  return new RelayError("NOT_FOUND", "there is no such webhook");
}

/** It may be left out. */
async function rotateBody(c: Context<AppEnv>): Promise<{ previousForS?: number | undefined }> {
  const text = await c.req.text();
  if (text === "") return {};
  let json_: unknown;
  try {
    json_ = JSON.parse(text);
  } catch (cause) {
    throw new RelayError("REQUEST_MALFORMED", "the body is not JSON", { cause });
  }
  const parsed = rotateWebhookSchema.safeParse(json_);
  refuseInvalid(parsed);
  return parsed.data ?? {};
}

function bodyOf(row: WebhookRow): WebhookBody {
  const { id, url, eventTypes, enabled, previousUntil, createdBy, version } = row;
  const isOver = previousUntil === null || previousUntil.getTime() <= Date.now();
  return {
    id,
    url,
    eventTypes,
    enabled,
    previousSecretUntil: isOver ? null : previousUntil.toISOString(),
    createdBy,
    version,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
  };
}

function deliveryBody(row: DeliveryRow): DeliveryBody {
  const { id, eventId, type, state, attempts, statusCode, problem, nextAttemptAt } = row;
  return {
    id,
    eventId: String(eventId),
    type,
    state,
    attempts,
    statusCode,
    problem,
    nextAttemptAt: state === "pending" ? nextAttemptAt.toISOString() : null,
    createdAt: row.createdAt.toISOString(),
    deliveredAt: row.deliveredAt?.toISOString() ?? null,
  };
}
