/**
 * Opens a link to the relay by the best way that works.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/web-stream.ts";
import { parseRelayUrl } from "./address.ts";
import { LinkError } from "./errors.ts";
import type { Dial, DialOptions, Link } from "./link.ts";
import { dialWebSocket } from "./websocket-link.ts";
import { dialWebTransport } from "./webtransport-link.ts";

export type LinkChoice = "auto" | "webtransport" | "websocket";

/** WebTransport's head start: UDP that is filtered shows only as silence. */
export const WEBSOCKET_DELAY_MS = 300;

/** What is left for WebTransport once WebSocket has failed. */
const WEBTRANSPORT_ALONE_MS = 3_000;

export interface DialLinkOptions extends DialOptions {
  /** For tests. */
  readonly dials?: { readonly webtransport: Dial; readonly websocket: Dial };
}

/**
 * `auto` tries WebTransport, and WebSocket soon after or as soon as that failed; the first to open is
 * taken and the other closed.
 *
 * @throws LinkError of the one way, or for `auto` of WebSocket, which is the one that should always work;
 * a certificate that does not match is told first.
 */
export function dialLink(choice: LinkChoice, options: DialLinkOptions): Promise<Link> {
  const dials = options.dials ?? { webtransport: dialWebTransport, websocket: dialWebSocket };
  switch (choice) {
    case "webtransport":
      return dials.webtransport(options);
    case "websocket":
      return dials.websocket(options);
    case "auto":
      return dialBoth(dials, options);
  }
}

async function dialBoth(
  dials: { readonly webtransport: Dial; readonly websocket: Dial },
  options: DialLinkOptions,
): Promise<Link> {
  // A bad address is the same error either way: say it before anything is tried.
  parseRelayUrl(options.url);
  const losing = new AbortController();
  const signal =
    options.signal === undefined ? losing.signal : AbortSignal.any([options.signal, losing.signal]);
  const attempt = { ...options, signal };
  const first = dials.webtransport(attempt);
  let timer;
  const headStart = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, WEBSOCKET_DELAY_MS);
  });
  const opened = first.then(
    () => true,
    () => false,
  );
  if ((await Promise.race([opened, headStart])) === true) {
    clearTimeout(timer);
    return first;
  }
  clearTimeout(timer);
  const second = dials.websocket(attempt);
  // Where TCP is refused there is hardly a relay on UDP: it gets a little time, not all of it.
  second.catch(() => setTimeout(() => losing.abort(), WEBTRANSPORT_ALONE_MS));
  try {
    const link = await Promise.any([first, second]);
    losing.abort();
    for (const other of [first, second]) closeUnless(other, link);
    return link;
  } catch (error) {
    throw errorToTell(error);
  }
}

/** The loser may open in the moment in which it is told to stop. */
function closeUnless(dialing: Promise<Link>, winner: Link): void {
  dialing.then(
    (link) => (link === winner ? undefined : link.close("OK", "another link opened first")),
    // It lost: why is of no interest while the other works.
    () => undefined,
  );
}

function errorToTell(error: unknown): Error {
  const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
  const known = errors.filter((one) => one instanceof LinkError);
  const told = known.find((one) => one.code === "CERTIFICATE_MISMATCH") ?? known.at(-1);
  return told ?? new LinkError("RELAY_UNREACHABLE", messageOf(errors.at(-1)), { cause: error });
}
