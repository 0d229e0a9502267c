/**
 * What carries the bytes: the relay's own data path, or the least that could, each in a process of its own.
 *
 *     server.ts tcp|tls|websocket|relay SESSIONS
 *
 * `relay` is the relay's listener and switchboard with sessions kept in memory; `websocket` the same streams and the
 * same splice without TLS; `tls` and `tcp` join sockets by `pipe`, in the order in which they come. It prints where it
 * listens, and ends with its standard input.
 *
 * @module
 */
import { createServer as createHttpServer } from "node:http";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";

import { WebSocketServer } from "ws";

import { passReadStopBelowTls } from "../../../relay/protocol/tls-pause.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { websocketToByteStream } from "../../../relay/protocol/websocket-stream.ts";
import { splice } from "../../../relay/switchboard/splice.ts";
import { framedWebSocket } from "../../../relay/transport/framed-websocket.ts";
import { Switchboard } from "../../../relay/switchboard/switchboard.ts";
import { testCertificate, testListener } from "../../compliance/link-support.ts";
import { MemorySessionStore } from "../../support/memory-session-store.ts";
import { benchSession } from "./session.ts";

const [kind = "", sessions = "1"] = process.argv.slice(2);
const say = (line: object): void => console.log(JSON.stringify(line));
process.stdin.on("end", () => process.exit(0)).resume();

switch (kind) {
  case "tcp": {
    await listen(createServer(inPairs(pipeBoth)));
    break;
  }
  case "tls": {
    const { certificatePem, privateKeyPem } = await testCertificate();
    const pair = inPairs(pipeBoth);
    const server = createTlsServer({ cert: certificatePem, key: privateKeyPem }, (socket) => {
      passReadStopBelowTls(socket);
      pair(socket);
    });
    await listen(server);
    break;
  }
  case "websocket": {
    const server = createHttpServer();
    const websockets = new WebSocketServer({ server, perMessageDeflate: false });
    const pair = inPairs((a: ByteStream, b: ByteStream) => {
      const none = new Uint8Array(0);
      void splice({ stream: a, head: none }, { stream: b, head: none }, () => {});
    });
    websockets.on("connection", (socket) => pair(websocketToByteStream(framedWebSocket(socket))));
    await listen(server);
    break;
  }
  case "relay": {
    const store = new MemorySessionStore();
    for (let number = 0; number < Number(sessions); number++) {
      const { sessionId, tokens } = benchSession(number);
      store.create(sessionId, tokens);
    }
    const switchboard = new Switchboard({ store, log: () => {} });
    const { listener, certificate } = await testListener({
      onStream: (incoming) => switchboard.accept(incoming),
      webTransport: "off",
    });
    say({ port: listener.https.port, hash: [...certificate.hash] });
    break;
  }
  default:
    throw new Error(`no kind ${kind}`);
}

async function listen(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { hash } = await testCertificate();
  say({ port: (server.address() as AddressInfo).port, hash: [...hash] });
}

function inPairs<T>(join: (a: T, b: T) => void): (one: T) => void {
  let waiting: T | undefined;
  return (one) => {
    if (waiting === undefined) {
      waiting = one;
      return;
    }
    const first = waiting;
    waiting = undefined;
    join(first, one);
  };
}

function pipeBoth(a: Socket, b: Socket): void {
  for (const socket of [a, b]) {
    socket.setNoDelay(true);
    socket.on("error", () => {
      a.destroy();
      b.destroy();
    });
  }
  a.pipe(b).pipe(a);
}
