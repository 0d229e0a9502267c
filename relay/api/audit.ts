/**
 * Who did what in a project.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";

import { auditBefore } from "../db/audit.ts";
import type { Database } from "../db/database.ts";
import { requireScope } from "./auth.ts";
import type { AppEnv } from "./env.ts";
import { projectOf } from "./keys.ts";
import { numberCursor, numberOf, pageOf } from "./pages.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import { denied, json, notFound, refusedQuery, security } from "./route-parts.ts";
import { auditPageSchema, auditQuerySchema } from "./schemas/identity.ts";

const listAudit = createRoute({
  method: "get",
  path: "/audit",
  operationId: "listAudit",
  summary: "List who changed what, the newest first",
  security,
  middleware: [requireScope("admin")] as const,
  request: { query: auditQuerySchema },
  responses: {
    200: json("A page.", auditPageSchema),
    ...refusedQuery,
    ...denied,
    ...notFound,
  },
});

export function auditRoutes({ database }: { readonly database: Database }): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  app.openapi(listAudit, async (c) => {
    const { cursor, limit, projectId, action } = c.req.valid("query");
    const rows = await auditBefore(database, projectOf(c, projectId), {
      beforeId: cursor === undefined ? undefined : numberOf(cursor),
      action,
      limit: limit + 1,
    });
    const { page, nextCursor } = pageOf(rows, limit, ({ id }) => numberCursor(id));
    const entries = page.map((row) => ({
      id: row.id,
      at: row.at.toISOString(),
      actor: row.actor,
      remoteAddress: row.remoteAddress,
      requestId: row.requestId,
      action: row.action,
      target: { kind: row.targetKind, id: row.targetId },
      before: row.before,
      after: row.after,
    }));
    return c.json({ entries, nextCursor }, 200);
  });
  return app;
}
