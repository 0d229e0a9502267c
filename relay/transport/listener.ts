/**
 * The relay's sockets: HTTPS with WebSocket upgrades on a TCP port, WebTransport on the UDP port of the
 * same number, and on request plain HTTP on loopback.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type RequestListener,
  type Server as HttpServer,
} from "node:http";
import { createServer as createHttpsServer, type Server as HttpsServer } from "node:https";
import type { AddressInfo, Server as NetServer, Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { WebSocketServer } from "ws";
import type { IncomingAgent } from "../agents/hub.ts";
import { AGENT_MESSAGE_BYTES_MAX, AGENT_PATH } from "../protocol/agent.ts";
import { ProtocolErrorNumber } from "../protocol/errors.ts";
import { passReadStopBelowTls } from "../protocol/tls-pause.ts";
import { messageOf, sessionEnd, webStreamToByteStream } from "../protocol/web-stream.ts";
import {
  WEBSOCKET_FRAGMENTS_MAX,
  WEBSOCKET_MESSAGE_BYTES_MAX,
  websocketToByteStream,
} from "../protocol/websocket-stream.ts";
import { relayLimits, type RelayLimits } from "../limits.ts";
import { isOwnOrigin } from "./origin.ts";
import { Admission, type Admitted } from "./admission.ts";
import type { RelayCertificate } from "./certificate.ts";
import { framedWebSocket } from "./framed-websocket.ts";
import type { OnStream } from "./transport.ts";
import {
  LINK_PATH,
  loadWebTransport,
  type WebTransportIncoming,
  type WebTransportServerImplementation,
} from "./webtransport.ts";
import { WebTransportPort, type WebTransportState } from "./webtransport-port.ts";

/** Open streams of one WebTransport session; what the QUIC libraries allow at once is about this. */
export const WEBTRANSPORT_STREAMS_MAX = 256;
/** Idle time before TCP asks whether the other side is there. */
const KEEPALIVE_MS = 15_000;
/** What telling the peers may take when the listener closes. */
const CLOSE_DEADLINE_MS = 1_000;
/** A free TCP port whose UDP twin is taken is given back and another asked for. */
const PORT_ATTEMPTS_MAX = 8;

export interface ListenOptions {
  /** An address or a name to bind: "0.0.0.0", "::", "127.0.0.1". */
  readonly host: string;
  /** 0 for any that is free on both TCP and UDP. */
  readonly port: number;
  readonly certificate: RelayCertificate;
  readonly onStream: OnStream;
  /** Takes what is opened at `AGENT_PATH`. Without it that is 404. */
  readonly onAgent?: (incoming: IncomingAgent) => void;
  /** Answers requests on HTTPS and on `plain`. Without it all are 404. */
  readonly requestListener?: RequestListener;
  /** Default "auto": what `loadWebTransport` finds. */
  readonly webTransport?: "auto" | "off" | WebTransportServerImplementation;
  /** A second listener without TLS, requests only. */
  readonly plain?: { readonly host: string; readonly port: number };
  /**
   * `handshakeMs` is for all of TLS, the request's headers and the first frame of a stream; and for the first stream
   * of a WebTransport session. Default: what docs/limits.md says.
   */
  readonly limits?: RelayLimits;
  /** Lets connections in. Default: one for this listener alone, by `limits`. */
  readonly admission?: Admission;
  /** What went wrong on a connection or a listener, for the log. Must not throw. */
  readonly onProblem?: (problem: ListenerProblem) => void;
}

export interface ListenerProblem {
  readonly what:
    | "accept"
    | "connection"
    | "request"
    | "webtransport-session"
    | "webtransport-listener";
  readonly remoteAddress: string;
  readonly message: string;
}

export interface ListenAddress {
  readonly address: string;
  readonly port: number;
}

export interface Listener {
  readonly https: ListenAddress;
  readonly plain: ListenAddress | null;
  readonly webTransport: WebTransportState;
  /**
   * From now on new connections meet this certificate. Those that are open go on, except WebTransport sessions
   * whose library cannot change it: its listener is closed and opened again, and their peers come back.
   */
  renew(certificate: RelayCertificate): Promise<void>;
  /** Stops accepting, ends every connection, resolves when the ports are free. Idempotent. */
  close(): Promise<void>;
}

/** What a listener was told, with what it was not told. */
type Bound = ListenOptions & Required<Pick<ListenOptions, "limits" | "admission">>;

/** @throws Error with `code` (`EADDRINUSE`, `EACCES`, ...) if a port cannot be had. */
export async function listen(given: ListenOptions): Promise<Listener> {
  const limits = given.limits ?? relayLimits();
  const options: Bound = {
    ...given,
    limits,
    admission: given.admission ?? new Admission({ limits }),
  };
  const sockets = new Set<Duplex>();
  const implementation = await webTransportOf(options);
  const sessions = new SessionTable(options);
  for (let attempt = 1; ; attempt += 1) {
    const server = makeHttpsServer(options, sockets);
    await listening(server, options, options);
    const https = addressOf(server);
    let webTransport: WebTransportPort | null = null;
    if (!("unavailable" in implementation)) {
      try {
        webTransport = await WebTransportPort.open({
          implementation,
          host: https.address,
          port: https.port,
          certificate: options.certificate,
          onSession: (incoming) => sessions.take(incoming),
          onProblem: (message) =>
            options.onProblem?.({ what: "webtransport-listener", remoteAddress: "", message }),
          endSessions: () => sessions.closeAll("the relay's certificate is renewed"),
        });
      } catch (error) {
        await closed(server);
        if (options.port === 0 && codeOf(error) === "EADDRINUSE" && attempt < PORT_ATTEMPTS_MAX) {
          continue;
        }
        throw error;
      }
    }
    const none = "unavailable" in implementation ? implementation : null;
    const plain = options.plain === undefined ? null : makePlainServer(options, sockets);
    if (plain !== null && options.plain !== undefined) {
      try {
        await listening(plain, options.plain, options);
      } catch (error) {
        await webTransport?.close();
        await closed(server);
        throw error;
      }
    }
    return makeListener({ https: server, plain, webTransport, none, sockets, sessions });
  }
}

async function webTransportOf(
  options: ListenOptions,
): Promise<WebTransportServerImplementation | { readonly unavailable: string }> {
  if (options.webTransport === "off") return { unavailable: "it is turned off" };
  if (options.webTransport === undefined || options.webTransport === "auto") {
    return loadWebTransport();
  }
  return options.webTransport;
}

function makeListener(parts: {
  https: HttpsServer;
  plain: HttpServer | null;
  webTransport: WebTransportPort | null;
  /** Why there is no WebTransport. */
  none: { readonly unavailable: string } | null;
  sockets: Set<Duplex>;
  sessions: SessionTable;
}): Listener {
  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    const down = [closed(parts.https)];
    if (parts.plain !== null) down.push(closed(parts.plain));
    for (const socket of parts.sockets) destroyLater(socket);
    // The listener's own close says nothing to the peers, who would wait out QUIC's 30 s.
    await parts.sessions.closeAll("the relay is stopping");
    if (parts.webTransport !== null) down.push(parts.webTransport.close());
    await Promise.all(down);
  };
  return {
    https: addressOf(parts.https),
    plain: parts.plain === null ? null : addressOf(parts.plain),
    get webTransport() {
      return parts.webTransport?.state ?? parts.none ?? { unavailable: "it is not open" };
    },
    renew: async (certificate) => {
      if (closing !== null) return;
      parts.https.setSecureContext(tlsContext(certificate));
      await parts.webTransport?.renew(certificate);
    },
    close: () => {
      closing ??= close();
      return closing;
    },
  };
}

function makeHttpsServer(options: Bound, sockets: Set<Duplex>): HttpsServer {
  const server = createHttpsServer(
    {
      ...tlsContext(options.certificate),
      handshakeTimeout: options.limits.handshakeMs,
      ...requestBounds(options.limits),
    },
    options.requestListener ?? notFound,
  );
  guard(server, options, sockets);
  server.on("tlsClientError", (error, socket) => {
    report(options, "connection", socket, error);
    destroyLater(socket);
  });
  const websockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: WEBSOCKET_MESSAGE_BYTES_MAX,
    maxFragments: WEBSOCKET_FRAGMENTS_MAX,
  });
  websockets.on("wsClientError", (error, socket, request) => {
    report(options, "request", request.socket, error);
    refuseUpgrade(socket, "400 Bad Request");
  });
  const agents = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: AGENT_MESSAGE_BYTES_MAX,
    maxFragments: WEBSOCKET_FRAGMENTS_MAX,
  });
  agents.on("wsClientError", (error, socket, request) => {
    report(options, "request", request.socket, error);
    refuseUpgrade(socket, "400 Bad Request");
  });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on("error", (error) => report(options, "connection", request.socket, error));
    const path = pathOf(request.url ?? "");
    const { onAgent } = options;
    const isAgent = path === AGENT_PATH && onAgent !== undefined;
    if (path !== LINK_PATH && !isAgent) return refuseUpgrade(socket, "404 Not Found");
    // Peers are no browsers. A page of somebody else that has its visitor's browser call here is up to no good.
    const { origin, host } = request.headers;
    if (origin !== undefined && !isOwnOrigin(origin, host)) {
      return refuseUpgrade(socket, "403 Forbidden");
    }
    request.socket.setNoDelay(true);
    request.socket.setKeepAlive(true, KEEPALIVE_MS);
    const remoteAddress = request.socket.remoteAddress ?? "";
    if (isAgent) {
      agents.handleUpgrade(request, socket, head, (websocket) => {
        const established = (): void => admittedOf(request.socket)?.established();
        onAgent({ websocket, remoteAddress, established });
      });
      return;
    }
    websockets.handleUpgrade(request, socket, head, (websocket) => {
      options.onStream({
        stream: websocketToByteStream(framedWebSocket(websocket)),
        kind: "websocket",
        remoteAddress,
        connectionId: randomUUID(),
        established: () => admittedOf(request.socket)?.established(),
      });
    });
  });
  return server;
}

function tlsContext({ certificatePem, privateKeyPem }: RelayCertificate) {
  return { cert: certificatePem, key: privateKeyPem, minVersion: "TLSv1.2" } as const;
}

function makePlainServer(options: Bound, sockets: Set<Duplex>): HttpServer {
  const server = createHttpServer(
    requestBounds(options.limits),
    options.requestListener ?? notFound,
  );
  guard(server, options, sockets);
  server.on("upgrade", (_request, socket: Duplex) => refuseUpgrade(socket, "404 Not Found"));
  return server;
}

function requestBounds({ handshakeMs, headerBytes }: RelayLimits) {
  return {
    maxHeaderSize: headerBytes,
    headersTimeout: handshakeMs,
    requestTimeout: 2 * handshakeMs,
    connectionsCheckingInterval: Math.min(1_000, handshakeMs),
    keepAliveTimeout: 30_000,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEPALIVE_MS,
  };
}

/** What was let in, by the socket that a request shows. */
const admittedSockets = new WeakMap<object, Admitted>();
const admittedOf = (socket: object): Admitted | undefined => admittedSockets.get(socket);
/** A TLS socket does not show the one below it; they have the other side in common. */
const farEnd = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`;

/** One bad connection is that connection's end and nothing more. */
function guard(server: HttpServer | HttpsServer, options: Bound, sockets: Set<Duplex>) {
  const { admission, limits } = options;
  const track = (socket: Duplex): void => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  };
  const byFarEnd = new Map<string, Admitted>();
  // The server's own work for a connection, TLS above all, begins with its listener: it comes after ours, or not at all.
  const begin = server.listeners("connection");
  server.removeAllListeners("connection");
  server.on("connection", (socket: Socket) => {
    const admitted = admission.admit(socket.remoteAddress ?? "");
    if (admitted === undefined) {
      // Not in order: a flood would leave as many sockets waiting for their other side.
      socket.resetAndDestroy();
      return;
    }
    track(socket);
    const late = setTimeout(() => {
      report(options, "connection", socket, new Error("it took too long to say what it is"));
      destroyLater(socket);
    }, limits.handshakeMs);
    let over = false;
    const established = (): void => {
      if (over) return;
      over = true;
      clearTimeout(late);
      admitted.established();
    };
    const key = farEnd(socket);
    const entry: Admitted = {
      established,
      closed: () => {
        established();
        admitted.closed();
        if (byFarEnd.get(key) === entry) byFarEnd.delete(key);
      },
    };
    byFarEnd.set(key, entry);
    admittedSockets.set(socket, entry);
    socket.on("close", entry.closed);
    // The server's option is not enough on Deno: each handshake would wait 40 ms for an acknowledgement.
    socket.setNoDelay(true);
    // Before TLS is up nothing else listens: a reset here would end the process.
    socket.on("error", () => {});
    for (const listener of begin) listener.call(server, socket);
  });
  server.on("secureConnection", (socket: TLSSocket) => {
    track(socket);
    const entry = byFarEnd.get(farEnd(socket));
    if (entry !== undefined) admittedSockets.set(socket, entry);
    passReadStopBelowTls(socket);
  });
  server.on("request", ({ socket }: IncomingMessage) => admittedOf(socket)?.established());
  server.on("clientError", (error, socket) => {
    // Who leaves before it has asked for anything, as a peer does that does not know our certificate, is no problem.
    if (codeOf(error) === "ECONNRESET") return destroyLater(socket);
    report(options, "request", socket, error);
    const status = codeOf(error) === "HPE_HEADER_OVERFLOW" ? "431" : "400";
    if (socket.writable) {
      socket.end(`HTTP/1.1 ${status} Bad Request\r\nConnection: close\r\n\r\n`);
    }
    destroyLater(socket);
  });
}

function report(
  options: Bound,
  what: ListenerProblem["what"],
  socket: Duplex,
  error: unknown,
): void {
  const remoteAddress =
    "remoteAddress" in socket && typeof socket.remoteAddress === "string"
      ? socket.remoteAddress
      : "";
  options.onProblem?.({ what, remoteAddress, message: messageOf(error) });
}

/** Node 24 may crash when a TLS socket is destroyed in what its own reading runs. */
function destroyLater(socket: Duplex): void {
  setImmediate(() => socket.destroy());
}

function refuseUpgrade(socket: Duplex, status: string): void {
  socket.on("error", () => {});
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}

const notFound: RequestListener = (_request, response) => {
  response.writeHead(404).end();
};

function pathOf(target: string): string {
  return target.split("?")[0] ?? "";
}

/** The open WebTransport sessions: bounded, and each must open a stream soon. */
class SessionTable {
  readonly #options: Bound;
  readonly #open = new Set<WebTransportIncoming["session"]>();

  constructor(options: Bound) {
    this.#options = options;
  }

  take(incoming: WebTransportIncoming): void {
    const { session } = incoming;
    session.closed.catch(() => {});
    if (pathOf(incoming.path) !== LINK_PATH) {
      return refuse(session, ProtocolErrorNumber.FRAME_UNEXPECTED, `only ${LINK_PATH} is served`);
    }
    if (this.#open.size >= this.#options.limits.webTransportSessions) {
      return refuse(session, ProtocolErrorNumber.LIMIT_EXCEEDED, "too many sessions");
    }
    const admitted = this.#options.admission.admit(incoming.remoteAddress);
    if (admitted === undefined) {
      return refuse(session, ProtocolErrorNumber.LIMIT_EXCEEDED, "too many connections");
    }
    this.#open.add(session);
    void sessionEnd(session).then(() => admitted.closed());
    this.#serve(incoming, admitted).catch((error: unknown) => {
      this.#options.onProblem?.({
        what: "webtransport-session",
        remoteAddress: incoming.remoteAddress,
        message: messageOf(error),
      });
    });
  }

  /** Resolves when every peer was told, within a bound. */
  async closeAll(reason: string): Promise<void> {
    const open = [...this.#open];
    for (const session of open) refuse(session, ProtocolErrorNumber.RELAY_DRAINING, reason);
    await Promise.race([Promise.all(open.map(sessionEnd)), delay(CLOSE_DEADLINE_MS)]);
  }

  async #serve(incoming: WebTransportIncoming, admitted: Admitted): Promise<void> {
    const { session, remoteAddress } = incoming;
    const connectionId = randomUUID();
    const idleMs = this.#options.limits.handshakeMs;
    const tooIdle = (): void =>
      refuse(session, ProtocolErrorNumber.DEADLINE_EXCEEDED, "no stream was opened in time");
    let lost = false;
    const ended = sessionEnd(session).then((error) => {
      lost = true;
      this.#open.delete(session);
      return error;
    });
    let idle = setTimeout(tooIdle, idleMs);
    let streamsOpen = 0;
    const streamOptions = { ...incoming.streamOptions, sessionEnd: ended };
    try {
      const reader = session.incomingBidirectionalStreams.getReader();
      for (;;) {
        const { done, value: pair } = await reader.read();
        if (done || pair === undefined) break;
        clearTimeout(idle);
        const stream = webStreamToByteStream(pair, streamOptions);
        if (streamsOpen >= WEBTRANSPORT_STREAMS_MAX) {
          stream.abort("LIMIT_EXCEEDED", "too many streams");
          continue;
        }
        streamsOpen += 1;
        void stream.closed.then(({ code, reason }) => {
          streamsOpen -= 1;
          if (streamsOpen > 0 || lost) return;
          // The session's close carries the code where a stream's reset cannot, and the reason too.
          if (code !== "OK") return refuse(session, ProtocolErrorNumber[code], reason);
          clearTimeout(idle);
          idle = setTimeout(tooIdle, idleMs);
        });
        this.#options.onStream({
          stream,
          kind: "webtransport",
          remoteAddress,
          connectionId,
          established: admitted.established,
        });
      }
    } catch (error) {
      // Such is the end of a session that is lost; anything else is worth a line.
      if (!lost) await Promise.race([ended, delay(100)]);
      if (!lost) throw error;
    } finally {
      await ended;
      clearTimeout(idle);
    }
  }
}

function refuse(session: WebTransportIncoming["session"], closeCode: number, reason: string): void {
  try {
    session.close({ closeCode, reason });
  } catch {
    // It closed by itself in the meantime.
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

function listening(
  server: NetServer,
  { host, port }: { readonly host: string; readonly port: number },
  { onProblem }: Pick<ListenOptions, "onProblem">,
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port }, () => {
      server.off("error", reject);
      // Such as EMFILE on accept: the next connection may be better off.
      server.on("error", ({ message }) =>
        onProblem?.({ what: "accept", remoteAddress: "", message }),
      );
      resolve();
    });
  });
}

function closed(server: HttpServer | HttpsServer): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

function addressOf(server: NetServer): ListenAddress {
  // A TCP server that listens has one; a string would be a socket path.
  const { address, port } = server.address() as AddressInfo;
  return { address, port };
}

function codeOf(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}
