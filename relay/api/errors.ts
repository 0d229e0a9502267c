/**
 * The one table from an error to an HTTP status, and the body that goes with it (RFC 9457).
 *
 * @module
 */
import { HTTPException } from "hono/http-exception";
import type { ContentfulStatusCode } from "hono/utils/http-status";

import { RelayError, type RelayErrorCode } from "../errors.ts";

export interface ProblemBody {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly code: RelayErrorCode;
  readonly detail: string;
  readonly requestId: string;
  readonly [detail: string]: unknown;
}

export const PROBLEM_MEDIA_TYPE = "application/problem+json";

export function statusOf(code: RelayErrorCode): ContentfulStatusCode {
  switch (code) {
    case "CURSOR_INVALID":
    case "REQUEST_MALFORMED":
      return 400;
    case "UNAUTHENTICATED":
      return 401;
    case "CROSS_SITE_REQUEST":
    case "SCOPE_MISSING":
      return 403;
    case "NOT_FOUND":
      return 404;
    case "IDEMPOTENCY_KEY_IN_USE":
    case "LAST_FULL_KEY":
    case "NAME_TAKEN":
    case "PROJECT_IN_USE":
    case "STATE_CONFLICT":
      return 409;
    case "LENGTH_REQUIRED":
      return 411;
    case "RANGE_INVALID":
      return 416;
    case "VERSION_CONFLICT":
      return 412;
    case "BODY_TOO_LARGE":
      return 413;
    case "MEDIA_TYPE_UNSUPPORTED":
      return 415;
    case "IDEMPOTENCY_KEY_REUSED":
    case "REQUEST_INVALID":
      return 422;
    case "LIMIT_EXCEEDED":
    case "RATE_LIMITED":
      return 429;
    case "DATABASE_UNAVAILABLE":
    case "RELAY_DRAINING":
      return 503;
    case "ADDRESS_IN_USE":
    case "CERTIFICATE_UNAVAILABLE":
    case "CONFIG_INVALID":
    case "DATA_DIRECTORY_IN_USE":
    case "DATA_DIRECTORY_UNUSABLE":
    case "INDEX_DAMAGED":
    case "INTERNAL":
      return 500;
  }
}

const TITLES: Readonly<Record<number, string>> = {
  400: "Bad request",
  401: "Not authenticated",
  403: "Not allowed",
  404: "Not found",
  409: "Conflict",
  411: "Length required",
  412: "Changed meanwhile",
  413: "Body too large",
  415: "Media type not supported",
  416: "No such range",
  422: "Invalid request",
  429: "Too many requests",
  500: "Internal error",
  503: "Unavailable",
};

/** Any error as one of ours. */
export function toRelayError(error: unknown): RelayError {
  if (error instanceof RelayError) return error;
  if (error instanceof HTTPException) {
    // Hono's own: a body that is not JSON, or of another type.
    const code = error.status === 413 ? "BODY_TOO_LARGE" : "REQUEST_MALFORMED";
    if (error.status < 500) return new RelayError(code, error.message, { cause: error });
  }
  return new RelayError("INTERNAL", "an unexpected error", { cause: error });
}

export function problemResponse(error: RelayError, requestId: string): Response {
  const status = statusOf(error.code);
  // What went wrong inside is for the log: a client cannot act on it, and it may name hosts and paths.
  const detail =
    status === 500
      ? "The relay could not do this. Its log has the reason under this request id."
      : error.code === "DATABASE_UNAVAILABLE"
        ? "The relay's database does not answer. Try again."
        : error.message;
  const body: ProblemBody = {
    ...(status === 500 ? {} : error.details),
    type: "about:blank",
    title: TITLES[status] ?? "Error",
    status,
    code: error.code,
    detail,
    requestId,
  };
  const headers = new Headers({ "content-type": PROBLEM_MEDIA_TYPE });
  if (status === 401) headers.set("www-authenticate", 'Bearer realm="memferry"');
  const retryAfterS = error.details["retryAfterS"];
  if (typeof retryAfterS === "number") headers.set("retry-after", String(Math.ceil(retryAfterS)));
  else if (status === 503) headers.set("retry-after", "2");
  return Response.json(body, { status, headers });
}
