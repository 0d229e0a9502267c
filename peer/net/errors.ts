/**
 * What can go wrong before a link is open. Afterwards it is a `ProtocolError`.
 *
 * @module
 */

/** Stable across releases; docs/errors.md gives cause and remedy for each. */
export type LinkErrorCode =
  | "ADDRESS_INVALID"
  | "RELAY_UNREACHABLE"
  | "RELAY_REFUSED"
  | "CERTIFICATE_MISMATCH"
  | "CERTIFICATE_UNTRUSTED"
  | "LINK_KIND_UNAVAILABLE"
  | "PROXY_INVALID"
  | "PROXY_UNREACHABLE"
  | "PROXY_REFUSED"
  | "DEADLINE_EXCEEDED"
  | "CANCELLED";

export class LinkError extends Error {
  override readonly name = "LinkError";
  readonly code: LinkErrorCode;

  constructor(code: LinkErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
