/**
 * What the descriptions of many routes have in common.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { problemSchema } from "./schemas.ts";

/** An answer that says what is wrong. */
export const problem = (description: string) => ({
  description,
  content: { "application/problem+json": { schema: problemSchema } },
});

/** An answer with a body. */
export const json = <Schema>(description: string, schema: Schema) => ({
  description,
  content: { "application/json": { schema } },
});

/** Every route that wants a key. */
export const denied = {
  401: problem("No API key, or one that is not good."),
  403: problem("The API key lacks the scope."),
  429: problem("A limit was met; `limitName` says which and `Retry-After` when to ask again."),
  503: problem("The database does not answer, or the relay is going down."),
};

/** Every route that takes a body. */
export const refusedBody = {
  400: problem("The body is not JSON."),
  409: problem("What is there does not allow it, or the same Idempotency-Key is under way."),
  411: problem("The body has no Content-Length."),
  413: problem("The body is too large."),
  415: problem("The body is not `application/json`."),
  422: problem("A field is not what it should be; `issues` says which."),
};

/** Every list. */
export const refusedQuery = {
  400: problem("The cursor is not one of ours."),
  422: problem("A field is not what it should be; `issues` says which."),
};

/** Every route with an id. */
export const notFound = { 404: problem("There is no such thing in the API key's project.") };

/** Every change of something that has a version. */
export const versionConflict = {
  412: problem("It was changed since: `If-Match` names another version."),
};

export const security = [{ apiKey: [] }];

export const idParameter = z.object({
  id: z
    .string()
    .openapi({ param: { name: "id", in: "path" }, example: "6f1c3f0a9d2b4c5e8a7b6c5d4e3f2a1b" }),
});

export const ifMatchHeader = z.object({
  "if-match": z.string().optional().openapi({
    description: "`ETag` of what was seen; the change is refused if it is another by now.",
  }),
});
