/**
 * What a request can fail with.
 *
 * @module
 */

/** The relay's answer, `application/problem+json` (RFC 9457). Codes are listed in docs/errors.md. */
export class ApiProblem extends Error {
  override readonly name = "ApiProblem";
  readonly status: number;
  readonly code: string;
  readonly requestId: string | undefined;
  /** What the state of the session or migration allows instead. */
  readonly allowedActions: readonly string[];
  /** Which limit was met. */
  readonly limitName: string | undefined;
  /** When to ask again, milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** Everything that was answered. */
  readonly problem: Readonly<Record<string, unknown>>;

  constructor(
    status: number,
    problem: Readonly<Record<string, unknown>>,
    retryAfterMs: number | undefined,
  ) {
    const detail = problem["detail"] ?? problem["title"];
    super(typeof detail === "string" ? detail : `the relay answered ${status}`);
    this.status = status;
    this.problem = problem;
    this.code = textOf(problem["code"]) ?? "INTERNAL";
    this.requestId = textOf(problem["requestId"]);
    this.limitName = textOf(problem["limitName"]);
    this.retryAfterMs = retryAfterMs;
    const { allowedActions } = problem;
    this.allowedActions = Array.isArray(allowedActions) ? allowedActions.map(String) : [];
  }
}

/** The relay could not be asked, or what came back was no answer of a relay. */
export class RelayUnreachable extends Error {
  override readonly name = "RelayUnreachable";
  readonly code = "RELAY_UNREACHABLE";
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
