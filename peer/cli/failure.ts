/**
 * Errors at the edge: their code.
 *
 * @module
 */

/** The stable code of anything that was thrown; docs/errors.md lists them. */
export function errorCode(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string")
    return error.code;
  return "INTERNAL";
}
