/**
 * WebTransport for the relay on Node, by `rwebtransport` (quiche and BoringSSL, its binary in the package).
 *
 * @module
 */
import { isIPv6 } from "node:net";

import { messageOf, type WebTransportSessionLike } from "../protocol/web-stream.ts";
import type { WebTransportListen } from "./webtransport.ts";

/** The part of the package that is used; it is optional, so its own types may be absent. */
interface RwebtransportModule {
  readonly WebTransportServer: new (options: {
    host: string;
    port: number;
    cert: string;
    key: string;
  }) => RwebtransportServer;
  readonly WebTransportError: new (
    message: string,
    options: { source: "stream"; streamErrorCode: number },
  ) => Error;
}

interface RwebtransportServer {
  readonly ready: Promise<void>;
  readonly closed: Promise<void>;
  readonly port: number;
  readonly incomingSessions: ReadableStream<RwebtransportSession>;
  close(): void;
}

interface RwebtransportSession extends WebTransportSessionLike {
  readonly path: string;
  readonly remoteAddress: string;
}

const PACKAGE = "rwebtransport";

export async function loadRwebtransport(): Promise<
  WebTransportListen | { readonly unavailable: string }
> {
  const major = Number(process.versions.node.split(".")[0]);
  // Outside these the package throws at first use, not when it loads.
  if (major !== 24 && major !== 26) {
    return { unavailable: `${PACKAGE} runs on Node 24 and 26, this is ${process.versions.node}` };
  }
  try {
    import.meta.resolve(PACKAGE);
  } catch {
    return { unavailable: `${PACKAGE} is not installed` };
  }
  try {
    const loaded = (await import(PACKAGE)) as RwebtransportModule;
    return (options) => listen(loaded, options);
  } catch (error) {
    return { unavailable: `${PACKAGE} does not load: ${messageOf(error)}` };
  }
}

async function listen(
  { WebTransportServer, WebTransportError }: RwebtransportModule,
  options: Parameters<WebTransportListen>[0],
): ReturnType<WebTransportListen> {
  const server = new WebTransportServer({
    // It joins host and port with a colon.
    host: isIPv6(options.host) ? `[${options.host}]` : options.host,
    port: options.port,
    cert: options.certificate.certificatePath,
    key: options.certificate.privateKeyPath,
  });
  handleLostSessions(server);
  let closing = false;
  server.closed.catch(() => {});
  try {
    await server.ready;
  } catch (error) {
    server.close();
    const inUse = /in use|os error 98/i.test(messageOf(error));
    throw Object.assign(new Error(messageOf(error), { cause: error }), {
      code: inUse ? "EADDRINUSE" : "WEBTRANSPORT_FAILED",
    });
  }
  const resetError = (code: number, message: string): Error =>
    new WebTransportError(message, { source: "stream", streamErrorCode: code });
  const accept = async (): Promise<void> => {
    const reader = server.incomingSessions.getReader();
    for (;;) {
      const { done, value: session } = await reader.read();
      if (done) return;
      options.onSession({
        session,
        path: session.path,
        remoteAddress: session.remoteAddress,
        streamOptions: { resetError },
      });
    }
  };
  void accept()
    .then(() => server.closed)
    .then(
      () => {
        if (!closing) options.onLost(new Error("the WebTransport listener ended"));
      },
      (error: unknown) => {
        if (!closing) options.onLost(new Error(messageOf(error), { cause: error }));
      },
    );
  return {
    port: server.port,
    close: async () => {
      closing = true;
      server.close();
      await server.closed.catch(() => {});
    },
  };
}

/**
 * In 0.2.2 the server hangs a `finally` on each session's `closed` and drops the promise that makes: a
 * session lost by error or timeout is then an unhandled rejection, which ends a Node process. Its table
 * of sessions is where each one passes first, so there that promise is given a handler.
 */
function handleLostSessions(server: object): void {
  if (!("sessions" in server) || !(server.sessions instanceof Map)) return;
  const sessions: Map<unknown, unknown> = server.sessions;
  const set = sessions.set.bind(sessions);
  sessions.set = (id, core) => {
    const closed = closedPromiseOf(core);
    if (closed !== null) {
      closed.finally = async (done) => {
        await Promise.allSettled([closed]);
        done?.();
      };
    }
    return set(id, core);
  };
}

function closedPromiseOf(core: unknown): Promise<unknown> | null {
  if (typeof core !== "object" || core === null || !("closed" in core)) return null;
  const { closed } = core;
  if (typeof closed !== "object" || closed === null || !("promise" in closed)) return null;
  return closed.promise instanceof Promise ? closed.promise : null;
}
