/**
 * What a request is told that is not what its schema says.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";

import type { AppEnv } from "./env.ts";
import { RelayError } from "../errors.ts";

/** For the `defaultHook` of a router. */
export function refuseInvalid(result: { success: boolean; error?: unknown }): void {
  if (!result.success) throw invalidRequest(result.error);
}

/** No text that is looked for has one, and a database refuses some of them. */
// oxlint-disable-next-line no-control-regex -- these are the characters to refuse
const CONTROL = /[\u0000-\u001f\u007f]/;

/** Refuses control characters in what is asked for, before any route looks at it. */
export const plainQuery: MiddlewareHandler<AppEnv> = async (c, next) => {
  // Nothing has such a name.
  if (/%00/.test(c.req.path)) throw new RelayError("NOT_FOUND", "there is nothing here");
  for (const [name, values] of Object.entries(c.req.queries())) {
    // What a cursor says is looked at by who made it.
    if (name === "cursor") continue;
    if (!CONTROL.test(name) && !values.some((value) => CONTROL.test(value))) continue;
    const detail = "the query must not contain control characters";
    throw new RelayError("REQUEST_INVALID", detail, { details: { issues: [] } });
  }
  await next();
};

export function invalidRequest(error: unknown): RelayError {
  const issues =
    error instanceof z.ZodError
      ? error.issues.slice(0, 20).map(({ path, message }) => ({ path: path.join("."), message }))
      : [];
  const [first] = issues;
  const detail =
    first === undefined ? "the request is invalid" : `${first.path || "request"}: ${first.message}`;
  return new RelayError("REQUEST_INVALID", detail, { details: { issues } });
}
