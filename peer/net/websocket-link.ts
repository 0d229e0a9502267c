/**
 * A link over WebSocket: one TLS connection per stream.
 *
 * @module
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import * as tls from "node:tls";
import WebSocket from "ws";
import { passReadStopBelowTls } from "../../relay/protocol/tls-pause.ts";
import {
  WEBSOCKET_FRAGMENTS_MAX,
  WEBSOCKET_MESSAGE_BYTES_MAX,
  websocketToByteStream,
} from "../../relay/protocol/websocket-stream.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import {
  LINK_PATH,
  cancelled,
  certificateMismatch,
  connectionError,
  deadlineExceeded,
  parseRelayUrl,
  type RelayAddress,
} from "./address.ts";
import { DIAL_DEADLINE_MS, openConnectionLink, type OpenLimits } from "./connection-link.ts";
import { LinkError } from "./errors.ts";
import type { Dial, DialOptions, Link } from "./link.ts";

/** Idle time before TCP asks whether the other side is there. */
const KEEPALIVE_MS = 15_000;

/** Opens the connection that TLS then runs over; for proxies, and for tests. */
export type ConnectTcp = (address: RelayAddress) => Socket;

export interface WebSocketDialOptions extends DialOptions {
  readonly connectTcp?: ConnectTcp;
}

/** Makes the first stream's connection at once, so that an unreachable relay is an error here. */
export const dialWebSocket = async (options: WebSocketDialOptions): Promise<Link> => {
  const address = parseRelayUrl(options.url);
  const dialer: Dialer = {
    address,
    certificateHashes: options.certificateHashes,
    connectTcp: options.connectTcp ?? directTcp,
  };
  return openConnectionLink("websocket", (limits) => openWebSocket(dialer, limits), {
    deadlineMs: options.deadlineMs ?? DIAL_DEADLINE_MS,
    signal: options.signal,
  });
};
dialWebSocket satisfies Dial;

interface Dialer {
  readonly address: RelayAddress;
  readonly certificateHashes: readonly Uint8Array[];
  readonly connectTcp: ConnectTcp;
}

async function openWebSocket(
  dialer: Dialer,
  { deadlineMs, signal }: OpenLimits,
): Promise<ByteStream> {
  const { address } = dialer;
  if (signal?.aborted === true) throw cancelled(address, signal.reason);
  const open: { destroy(): void }[] = [];
  let stop: (error: LinkError) => void = () => {};
  const stopped = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  stopped.catch(() => {});
  const timer = setTimeout(() => stop(deadlineExceeded(address, deadlineMs)), deadlineMs);
  const onAbort = (): void => stop(cancelled(address, signal?.reason));
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const socket = await Promise.race([connectTls(dialer, open), stopped]);
    return await Promise.race([upgrade(dialer, socket), stopped]);
  } catch (error) {
    // Not in this turn: Node 24 crashes (in `TLSWrap::ClearOut`) when a TLS socket is destroyed in what its
    // `secureConnect` runs.
    setImmediate(() => {
      for (const one of open.reverse()) one.destroy();
    });
    throw connectionError(address, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/** The certificate is checked before the socket is given to anyone who would write to it. */
function connectTls(dialer: Dialer, open: { destroy(): void }[]): Promise<tls.TLSSocket> {
  const { address, certificateHashes } = dialer;
  const tcp = dialer.connectTcp(address);
  open.push(tcp);
  const pinned = certificateHashes.length > 0;
  return new Promise((resolve, reject) => {
    const onTcpError = (error: Error): void => reject(error);
    tcp.on("error", onTcpError);
    tcp.setNoDelay(true);
    tcp.setKeepAlive(true, KEEPALIVE_MS);
    const socket = tls.connect({
      socket: tcp,
      ALPNProtocols: ["http/1.1"],
      minVersion: "TLSv1.2",
      // Only together with the check of the hash below.
      rejectUnauthorized: !pinned,
      ...(pinned ? {} : { ca: trustedCertificates() }),
      ...(isIP(address.host) === 0 ? { servername: address.host } : { host: address.host }),
    });
    open.push(socket);
    socket.on("error", onTcpError);
    socket.once("close", () => reject(hungUp()));
    socket.once("secureConnect", () => {
      if (pinned && !isPinned(socket.getPeerCertificate().raw, certificateHashes)) {
        return reject(certificateMismatch(address));
      }
      passReadStopBelowTls(socket);
      resolve(socket);
    });
  });
}

function isPinned(der: Uint8Array | undefined, hashes: readonly Uint8Array[]): boolean {
  if (der === undefined) return false;
  const digest = createHash("sha256").update(der).digest();
  return hashes.some((hash) => hash.length === digest.length && timingSafeEqual(hash, digest));
}

function upgrade(dialer: Dialer, socket: tls.TLSSocket): Promise<ByteStream> {
  const { address } = dialer;
  return new Promise((resolve, reject) => {
    const websocket = new WebSocket(`wss://${address.text}${LINK_PATH}`, {
      createConnection: () => socket,
      perMessageDeflate: false,
      skipUTF8Validation: true,
      maxPayload: WEBSOCKET_MESSAGE_BYTES_MAX,
      maxFragments: WEBSOCKET_FRAGMENTS_MAX,
      followRedirects: false,
    });
    websocket.on("error", reject);
    websocket.once("unexpected-response", (_request, response) => {
      reject(
        new LinkError(
          "RELAY_REFUSED",
          `${address.text} answers ${response.statusCode ?? 0} instead of opening a stream: ` +
            "is it a relay, and not something else, at that port?",
        ),
      );
    });
    websocket.once("open", () => resolve(websocketToByteStream(websocket)));
  });
}

function hungUp(): Error {
  return Object.assign(new Error("the connection was closed"), { code: "ECONNRESET" });
}

function directTcp(address: RelayAddress): Socket {
  return connectTcp({ host: address.host, port: address.port, autoSelectFamily: true });
}

let trusted: readonly string[] | undefined;

/** What Node ships and what the system adds to it; read once, it is some hundred certificates. */
function trustedCertificates(): string[] {
  trusted ??=
    typeof tls.getCACertificates === "function"
      ? [...new Set([...tls.getCACertificates("default"), ...tls.getCACertificates("system")])]
      : tls.rootCertificates;
  return [...trusted];
}
