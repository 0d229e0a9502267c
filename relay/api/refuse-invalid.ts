/**
 * What a request is told that is not what its schema says.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { RelayError } from "../errors.ts";

/** For the `defaultHook` of a router. */
export function refuseInvalid(result: { success: boolean; error?: unknown }): void {
  if (!result.success) throw invalidRequest(result.error);
}

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
