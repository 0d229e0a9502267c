/**
 * Which WebTransport server this runtime has, and what each must offer.
 *
 * @module
 */
import type { WebStreamOptions, WebTransportSessionLike } from "../protocol/web-stream.ts";
import type { RelayCertificate } from "./certificate.ts";

/** Where peers open streams, on either kind of link. */
export const LINK_PATH = "/link";

/** A session that a peer opened. */
export interface WebTransportIncoming {
  readonly session: WebTransportSessionLike;
  /** Of the CONNECT request, with its query if it has one. */
  readonly path: string;
  readonly remoteAddress: string;
  readonly streamOptions: WebStreamOptions;
}

export interface WebTransportListenOptions {
  /** An address, not a name. */
  readonly host: string;
  readonly port: number;
  readonly certificate: RelayCertificate;
  /** Must not throw. */
  readonly onSession: (incoming: WebTransportIncoming) => void;
  /** The listener is lost, after it was open. Must not throw. */
  readonly onLost: (error: Error) => void;
}

export interface WebTransportListening {
  readonly port: number;
  /** New sessions meet this certificate, open ones go on. Absent where the library cannot. */
  renew?(certificate: RelayCertificate): Promise<void>;
  close(): Promise<void>;
}

/** Opens a UDP port; rejects if it cannot, with `code` `EADDRINUSE` where the cause is known. */
export type WebTransportListen = (
  options: WebTransportListenOptions,
) => Promise<WebTransportListening>;

export interface WebTransportServerImplementation {
  readonly name: "deno" | "fails-components" | "rwebtransport";
  readonly listen: WebTransportListen;
}

/** The first that loads, or why none does. Nothing is imported that is not used. */
export async function loadWebTransport(): Promise<
  WebTransportServerImplementation | { readonly unavailable: string }
> {
  if ("Deno" in globalThis) {
    const { denoUnavailable, listenDeno } = await import("./webtransport-deno.ts");
    const unavailable = denoUnavailable();
    return unavailable === null ? { name: "deno", listen: listenDeno } : { unavailable };
  }
  const reasons: string[] = [];
  const fails = await import("./webtransport-fails.ts");
  const failsListen = await fails.loadFails();
  if (typeof failsListen === "function") return { name: "fails-components", listen: failsListen };
  reasons.push(failsListen.unavailable);
  const rwebtransport = await import("./webtransport-rwebtransport.ts");
  const rwebtransportListen = await rwebtransport.loadRwebtransport();
  if (typeof rwebtransportListen === "function") {
    return { name: "rwebtransport", listen: rwebtransportListen };
  }
  reasons.push(rwebtransportListen.unavailable);
  return { unavailable: reasons.join("; ") };
}
