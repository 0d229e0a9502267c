/**
 * Errors at the edge: their code, and what to do where the error itself cannot know it.
 *
 * @module
 */
import { ProtocolError } from "../../relay/protocol/errors.ts";

/** The stable code of anything that was thrown; docs/errors.md lists them. */
export function errorCode(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string")
    return error.code;
  return "INTERNAL";
}

/** The relay says what is wrong with a ticket; whoever typed it needs to know where a good one comes from. */
export function withTicketCure(error: unknown): unknown {
  if (!(error instanceof ProtocolError)) return error;
  switch (error.code) {
    case "TICKET_UNKNOWN":
    case "TICKET_USED":
    case "TICKET_EXPIRED":
    case "TICKET_WRONG_ROLE":
    case "SESSION_ENDED":
      return new ProtocolError(
        error.code,
        `${error.message}: ask for a new ticket, \`memferry seed\` prints one`,
        { cause: error },
      );
    default:
      return error;
  }
}
