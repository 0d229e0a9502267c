/**
 * Changes that only happen to what the client has seen: `ETag` and `If-Match` (RFC 9110).
 *
 * A row's `version` is its tag. The header is compared here for a good answer; that nobody comes in between is the
 * business of the statement that changes the row, which names the version as well.
 *
 * @module
 */
import type { Context } from "hono";

import { RelayError } from "../errors.ts";
import type { AppEnv } from "./env.ts";

/** @param version Counts the changes of a row. */
export function etagOf(version: number): string {
  return `"${version}"`;
}

/**
 * Lets a request through that has no `If-Match`, or one that names this version.
 *
 * @throws RelayError `VERSION_CONFLICT`
 */
export function requireMatch(c: Context<AppEnv>, version: number): void {
  const header = c.req.header("if-match");
  if (header === undefined) return;
  const tags = header.split(",").map((tag) => tag.trim());
  // Weak tags are never equal here: what they stand for may differ in what is changed.
  if (tags.includes("*") || tags.includes(etagOf(version))) return;
  throw versionConflict(version);
}

/** It was changed since the client, or this request, has seen it. */
export function versionConflict(currentVersion: number): RelayError {
  return new RelayError(
    "VERSION_CONFLICT",
    "it was changed by somebody else: get it again, and send its ETag as If-Match",
    { details: { currentVersion } },
  );
}
