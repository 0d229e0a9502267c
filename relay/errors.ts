/**
 * What can go wrong in the relay, outside its links to peers.
 *
 * @module
 */

/** Stable across releases. docs/errors.md gives cause and remedy for each; api/errors.ts the HTTP status. */
export type RelayErrorCode =
  | "ADDRESS_IN_USE"
  | "BODY_TOO_LARGE"
  | "CERTIFICATE_UNAVAILABLE"
  | "CONFIG_INVALID"
  | "CROSS_SITE_REQUEST"
  | "CURSOR_INVALID"
  | "DATABASE_UNAVAILABLE"
  | "DATA_DIRECTORY_IN_USE"
  | "DATA_DIRECTORY_UNUSABLE"
  | "IDEMPOTENCY_KEY_IN_USE"
  | "IDEMPOTENCY_KEY_REUSED"
  | "INDEX_DAMAGED"
  | "INTERNAL"
  | "LAST_FULL_KEY"
  | "LENGTH_REQUIRED"
  | "LIMIT_EXCEEDED"
  | "MEDIA_TYPE_UNSUPPORTED"
  | "NAME_TAKEN"
  | "NOT_FOUND"
  | "PROJECT_IN_USE"
  | "RANGE_INVALID"
  | "RATE_LIMITED"
  | "RELAY_DRAINING"
  | "REQUEST_INVALID"
  | "REQUEST_MALFORMED"
  | "SCOPE_MISSING"
  | "STATE_CONFLICT"
  | "UNAUTHENTICATED"
  | "VERSION_CONFLICT";

export interface RelayErrorOptions extends ErrorOptions {
  /** What a client needs besides the sentence, e.g. `currentState`; never a secret. */
  readonly details?: Readonly<Record<string, unknown>>;
}

export class RelayError extends Error {
  override readonly name = "RelayError";
  readonly code: RelayErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: RelayErrorCode, message: string, options?: RelayErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = options?.details ?? {};
  }
}

/** The `code` of an error of Node's or the database's, if it has one. */
export function systemCode(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
