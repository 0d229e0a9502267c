/**
 * WebTransport for the relay on Node, by `@fails-components/webtransport` where its native HTTP/3 part is
 * installed.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import {
  failsStreamOptions,
  messageOf,
  type WebTransportSessionLike,
} from "../protocol/web-stream.ts";
import type { WebTransportListen, WebTransportListenOptions } from "./webtransport.ts";
import { LINK_PATH } from "./webtransport.ts";

const PACKAGE = "@fails-components/webtransport";
const HTTP3_PART = "@fails-components/webtransport-transport-http3-quiche";
/** Its default windows hold bulk streams back, on HTTP/2 to a standstill; a receiver may have to hold so much. */
const WINDOW_BYTES = 4 * 1024 * 1024;

/** What the server's constructor takes; the rest has defaults. */
export interface FailsServerOptions {
  host: string;
  port: number;
  secret: string;
  cert: string;
  privKey: string;
  initialStreamFlowControlWindow: number;
  initialSessionFlowControlWindow: number;
  streamFlowControlWindowSizeLimit: number;
  sessionFlowControlWindowSizeLimit: number;
}

export interface FailsServer {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<unknown>;
  startServer(): void;
  stopServer(): void;
  address(): { port: number; host: string } | null;
  sessionStream(path: string): ReadableStream<FailsSession>;
}

interface FailsSession extends WebTransportSessionLike {
  readonly peerAddress?: string;
}

interface FailsModule {
  readonly Http3Server: new (options: FailsServerOptions) => FailsServer;
  readonly quicheLoaded: Promise<unknown>;
}

export async function loadFails(): Promise<WebTransportListen | { readonly unavailable: string }> {
  // The main package prints a stack trace when it is imported without its HTTP/3 part.
  for (const name of [HTTP3_PART, PACKAGE]) {
    try {
      import.meta.resolve(name);
    } catch {
      return { unavailable: `${name} is not installed` };
    }
  }
  try {
    await import(HTTP3_PART);
    const loaded = (await import(PACKAGE)) as FailsModule;
    await loaded.quicheLoaded;
    return (options) => listenFails((init) => new loaded.Http3Server(init), options);
  } catch (error) {
    return { unavailable: `${HTTP3_PART} does not load: ${messageOf(error)}` };
  }
}

/** @param make Makes the server; a parameter because its HTTP/2 sibling has the same face. */
export async function listenFails(
  make: (options: FailsServerOptions) => FailsServer,
  options: WebTransportListenOptions,
): ReturnType<WebTransportListen> {
  const server = make({
    host: options.host,
    port: options.port,
    secret: randomBytes(16).toString("hex"),
    cert: options.certificate.certificatePem,
    privKey: options.certificate.privateKeyPem,
    initialStreamFlowControlWindow: WINDOW_BYTES,
    initialSessionFlowControlWindow: WINDOW_BYTES,
    streamFlowControlWindowSizeLimit: WINDOW_BYTES,
    sessionFlowControlWindowSizeLimit: WINDOW_BYTES,
  });
  let closing = false;
  const sessions = server.sessionStream(LINK_PATH).getReader();
  server.startServer();
  try {
    await server.ready;
  } catch (error) {
    const inUse = /EADDRINUSE|in use/i.test(messageOf(error));
    throw Object.assign(new Error(messageOf(error), { cause: error }), {
      code: inUse ? "EADDRINUSE" : "WEBTRANSPORT_FAILED",
    });
  }
  const accept = async (): Promise<void> => {
    for (;;) {
      const { done, value: session } = await sessions.read();
      if (done) return;
      void session.ready.then(
        () =>
          options.onSession({
            session,
            path: LINK_PATH,
            remoteAddress: hostOf(session.peerAddress ?? ""),
            streamOptions: failsStreamOptions,
          }),
        // A session that was lost before it was established: nobody knows of it yet.
        () => {},
      );
    }
  };
  void accept().then(
    () => {
      if (!closing) options.onLost(new Error("the WebTransport listener ended"));
    },
    (error: unknown) => {
      if (!closing) options.onLost(new Error(messageOf(error), { cause: error }));
    },
  );
  return {
    port: server.address()?.port ?? options.port,
    close: async () => {
      closing = true;
      server.stopServer();
      await Promise.resolve();
    },
  };
}

/** "[::1]:443" and "192.0.2.1:443" without the port. */
export function hostOf(address: string): string {
  return address.replace(/:\d+$/, "").replaceAll(/^\[|\]$/g, "");
}
