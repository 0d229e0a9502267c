/**
 * The OpenAPI document: what the routes say of themselves, and what holds for all of them.
 *
 * What every request may meet on its way to a route (no key, a limit, a body that is none of ours, a database that is
 * down) and `Idempotency-Key` are added here, in one place, for whoever adds a route.
 *
 * @module
 */
import type { OpenAPIHono } from "@hono/zod-openapi";

import type { AppEnv } from "./env.ts";

export type ApiDocument = ReturnType<OpenAPIHono<AppEnv>["getOpenAPI31Document"]>;
type PathItem = NonNullable<ApiDocument["paths"]>[string];
export type Operation = NonNullable<PathItem["get"]>;

export const METHODS = ["get", "post", "put", "patch", "delete"] as const;
export type Method = (typeof METHODS)[number];

const DESCRIPTION = `Sessions in which live memory moves from one host to another.

Requests carry \`Authorization: Bearer mfk_...\`. Problems are \`application/problem+json\` with a stable \`code\`.
Lists come in pages: \`nextCursor\` goes into \`cursor\`. What has a version has an \`ETag\`, and a change with \`If-Match\`
is refused if it is another one by now. A \`POST\` with an \`Idempotency-Key\` may be sent again.`;

/** @param made By the routes; it is changed in place. */
export function openApiDocument(app: OpenAPIHono<AppEnv>, version: string): ApiDocument {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "memferry relay",
      version,
      description: DESCRIPTION,
      license: { name: "Apache-2.0" },
    },
  });
  for (const { path, method, operation } of operationsOf(document)) {
    if (path.startsWith("/v1/")) finish(method, operation);
  }
  return document;
}

/** Every operation, in the order of the document. */
export function* operationsOf(
  document: ApiDocument,
): Generator<{ readonly path: string; readonly method: Method; readonly operation: Operation }> {
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const method of METHODS) {
      const operation = item[method];
      if (operation !== undefined) yield { path, method, operation };
    }
  }
}

function finish(method: Method, operation: Operation): void {
  const responses = (operation.responses ??= {});
  const may = (status: number, description: string): void => {
    responses[status] ??= {
      description,
      content: { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } },
    };
  };
  may(411, "A body without a Content-Length.");
  may(413, "The body is too large.");
  may(429, "A limit was met; `limitName` says which and `Retry-After` when to ask again.");
  may(503, "The database does not answer, or the relay is going down.");
  if (method !== "get") may(415, "A body that is not `application/json`.");
  if (operation.security === undefined) return;
  operation.security = [{ apiKey: [] }, { signIn: [] }];
  may(401, "No API key, or one that is not good.");
  may(403, "The API key lacks the scope, or a cookie came from another site.");
  if (method !== "post") return;
  may(409, "The first request with this `Idempotency-Key` is under way.");
  may(422, "The `Idempotency-Key` was sent with another request.");
  operation.parameters = [
    ...(operation.parameters ?? []),
    {
      name: "idempotency-key",
      in: "header",
      required: false,
      description: "The answer is kept for a day, and given again to the same request.",
      schema: { type: "string", pattern: "^[\\x21-\\x7e]{1,128}$" },
    },
  ];
}
