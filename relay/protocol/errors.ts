/**
 * What can go wrong on a link between a peer and the relay.
 *
 * @module
 */

/**
 * Stable across releases; docs/errors.md gives cause and remedy for each. The number is the code on the
 * wire (WebTransport stream and session codes, the low part of WebSocket close codes); numbers are
 * never reused.
 */
export const ProtocolErrorNumber = {
  OK: 0,
  FRAME_TOO_LARGE: 1,
  FRAME_MALFORMED: 2,
  FRAME_UNEXPECTED: 3,
  VERSION_UNSUPPORTED: 4,
  TICKET_MALFORMED: 5,
  TICKET_UNKNOWN: 6,
  TICKET_USED: 7,
  TICKET_EXPIRED: 8,
  TICKET_WRONG_ROLE: 9,
  PEER_UNKNOWN: 10,
  PROOF_INVALID: 11,
  SESSION_ENDED: 12,
  ROLE_TAKEN: 13,
  EPOCH_STALE: 14,
  STREAM_UNPAIRED: 15,
  LIMIT_EXCEEDED: 16,
  DEADLINE_EXCEEDED: 17,
  PEER_GONE: 18,
  RELAY_DRAINING: 19,
  RELAY_UNAVAILABLE: 20,
  LINK_CLOSED: 21,
  INTERNAL: 22,
} as const;

export type ProtocolErrorCode = keyof typeof ProtocolErrorNumber;

const codeByNumber = new Map<number, ProtocolErrorCode>(
  Object.entries(ProtocolErrorNumber).map(([code, number]) => [number, code as ProtocolErrorCode]),
);

/** The code of a number from the wire; a number of a later release reads as `INTERNAL`. */
export function protocolErrorCode(number: number): ProtocolErrorCode {
  return codeByNumber.get(number) ?? "INTERNAL";
}

export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
  readonly code: ProtocolErrorCode;

  constructor(code: ProtocolErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  get number(): number {
    return ProtocolErrorNumber[this.code];
  }
}

/** The message of anything that was thrown, on one line. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replaceAll(/\s*\n\s*/g, " ");
}
