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

/**
 * WebSocket's head start. Where TCP passes it moves several times as much at a fifth of the relay's work
 * (docs/transports.md), so it is worth more than a round trip; past this TCP is slow because it is filtered.
 */
export const WEBTRANSPORT_DELAY_MS = 1_000;

/** What is left for WebTransport once WebSocket has failed. */
const WEBTRANSPORT_ALONE_MS = 3_000;

export interface DialLinkOptions extends DialOptions {
  /** For tests. */
  readonly dials?: { readonly webtransport: Dial; readonly websocket: Dial };
}

/**
 * `auto` tries WebSocket, and WebTransport if that has not opened soon or as soon as it failed; the first to open is
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
  let isAlone = true;
  const { greeting } = options;
  // A peer that greets twice throws itself out.
  const greetAlone = (): Uint8Array | undefined => (isAlone ? greeting?.() : undefined);
  const first = dials.websocket(
    greeting === undefined ? attempt : { ...attempt, greeting: greetAlone },
  );
  let timer;
  const headStart = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), WEBTRANSPORT_DELAY_MS);
  });
  const outcome = await Promise.race([
    first.then(
      () => "open" as const,
      (error: unknown) => ({ error }),
    ),
    headStart,
  ]);
  clearTimeout(timer);
  // One that does not match is renewed or forged, whatever way it is looked at.
  if (outcome === "open" || (outcome !== "late" && isMismatch(outcome.error))) return await first;
  isAlone = false;
  const second = dials.webtransport(attempt);
  // Where TCP is refused there is hardly a relay on UDP: it gets a little time, not all of it.
  first.catch(() => setTimeout(() => losing.abort(), WEBTRANSPORT_ALONE_MS).unref());
  try {
    const link = await Promise.any([first, second]);
    losing.abort();
    for (const other of [first, second]) closeUnless(other, link);
    return link;
  } catch {
    throw await errorToTell(first, second);
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

function isMismatch(error: unknown): boolean {
  return error instanceof LinkError && error.code === "CERTIFICATE_MISMATCH";
}

async function errorToTell(websocket: Promise<Link>, webtransport: Promise<Link>): Promise<Error> {
  const errors: unknown[] = (await Promise.allSettled([websocket, webtransport])).flatMap((one) =>
    one.status === "rejected" ? [one.reason] : [],
  );
  const known = errors.filter((one) => one instanceof LinkError);
  const told = known.find(isMismatch) ?? known[0];
  return told ?? new LinkError("RELAY_UNREACHABLE", messageOf(errors[0]), { cause: errors[0] });
}
