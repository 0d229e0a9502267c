/**
 * The relay's address, and what to say when nothing is there.
 *
 * @module
 */
import { LinkError } from "./errors.ts";

export interface RelayAddress {
  /** Without brackets. */
  readonly host: string;
  readonly port: number;
  /** "host:port", an IPv6 host in brackets. */
  readonly text: string;
}

/** Where streams are opened. */
export const LINK_PATH = "/link";

/** @throws LinkError `ADDRESS_INVALID` unless it is `https://host:port` and nothing else. */
export function parseRelayUrl(url: string): RelayAddress {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch (cause) {
    throw new LinkError("ADDRESS_INVALID", `"${url}" is not a URL: use https://HOST:PORT`, {
      cause,
    });
  }
  const extra = parsed.pathname !== "/" || parsed.search !== "" || parsed.hash !== "";
  if (parsed.protocol !== "https:" || parsed.username !== "" || parsed.password !== "" || extra) {
    throw new LinkError(
      "ADDRESS_INVALID",
      `"${url}" is not a relay's address: use https://HOST:PORT`,
    );
  }
  const port = parsed.port === "" ? 443 : Number(parsed.port);
  const host = parsed.hostname.replaceAll(/^\[|\]$/g, "");
  return { host, port, text: `${parsed.hostname}:${port}` };
}

/** A failed connection as an error that says what to do about it. */
export function connectionError(address: RelayAddress, cause: unknown): LinkError {
  if (cause instanceof LinkError) return cause;
  const { code, message } = describe(cause);
  const unreachable = (why: string, cure: string): LinkError =>
    new LinkError("RELAY_UNREACHABLE", `no relay answers at ${address.text} (${why}): ${cure}`, {
      cause,
    });
  switch (code) {
    case "ECONNREFUSED":
      return unreachable("connection refused", "is `memferry relay` running there?");
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return unreachable("the name does not resolve", "check the name in the address");
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return unreachable("no route to it", "check the network between here and there");
    case "ETIMEDOUT":
      return unreachable("no answer", "check that a firewall lets the port through");
    case "ECONNRESET":
    case "EPIPE":
      return unreachable("it hung up", "is it a relay, and not something else, at that port?");
    default:
      break;
  }
  if (code.startsWith("CERT_") || code.includes("CERT") || code.startsWith("ERR_TLS_CERT")) {
    return certificateUntrusted(address, cause);
  }
  return unreachable(message, "is `memferry relay` running there?");
}

export function certificateUntrusted(address: RelayAddress, cause: unknown): LinkError {
  return new LinkError(
    "CERTIFICATE_UNTRUSTED",
    `the relay at ${address.text} shows a certificate that this system does not trust ` +
      `(${describe(cause).message}): use a ticket or address that carries its hash`,
    { cause },
  );
}

export function certificateMismatch(address: RelayAddress): LinkError {
  return new LinkError(
    "CERTIFICATE_MISMATCH",
    `the relay at ${address.text} shows another certificate than the ticket names: ` +
      "ask for a new ticket; if it stays so, someone may be in between",
  );
}

export function deadlineExceeded(address: RelayAddress, deadlineMs: number): LinkError {
  return new LinkError(
    "DEADLINE_EXCEEDED",
    `no relay answers at ${address.text} within ${deadlineMs} ms: ` +
      "check that a firewall lets the port through",
  );
}

export function cancelled(address: RelayAddress, cause?: unknown): LinkError {
  return new LinkError("CANCELLED", `dialing ${address.text} was cancelled`, { cause });
}

/** An `AggregateError` of several addresses says no more than its first. */
function describe(cause: unknown): { code: string; message: string } {
  if (cause instanceof AggregateError && cause.errors.length > 0) return describe(cause.errors[0]);
  if (!(cause instanceof Error)) return { code: "", message: String(cause) };
  const code = "code" in cause && typeof cause.code === "string" ? cause.code : "";
  return { code, message: cause.message.split("\n")[0] ?? "" };
}
