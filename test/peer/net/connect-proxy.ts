/**
 * An HTTP proxy that knows CONNECT and nothing else.
 *
 * @module
 */
import { createServer as createHttpServer, type IncomingMessage } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { connect, type AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import type { RelayCertificate } from "../../../relay/transport/certificate.ts";

export interface ConnectProxy {
  /** `127.0.0.1:PORT` */
  readonly host: string;
  /** Of each CONNECT: the target, and the credentials in clear. */
  readonly asked: { readonly target: string; readonly credentials: string }[];
  /** Not 200: it refuses. */
  status: number;
  close(): void;
}

/** @param certificate Speaks TLS with its clients. */
export async function connectProxy(certificate?: RelayCertificate): Promise<ConnectProxy> {
  const server =
    certificate === undefined
      ? createHttpServer()
      : createHttpsServer({ cert: certificate.certificatePem, key: certificate.privateKeyPem });
  const open = new Set<Duplex>();
  const keep = (socket: Duplex): void => {
    open.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => open.delete(socket));
  };
  const proxy: ConnectProxy = {
    host: "",
    asked: [],
    status: 200,
    close: () => {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
  server.on("connect", (request: IncomingMessage, client: Duplex) => {
    keep(client);
    const given = (request.headers["proxy-authorization"] ?? "").replace(/^Basic /, "");
    const credentials = Buffer.from(given, "base64").toString("utf8");
    const target = request.url ?? "";
    proxy.asked.push({ target, credentials });
    if (proxy.status !== 200) {
      client.end(`HTTP/1.1 ${proxy.status} No\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    const [host = "", port = ""] = target.split(":");
    const upstream = connect({ host, port: Number(port) }, () => {
      client.write("HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n");
      client.pipe(upstream).pipe(client);
    });
    keep(upstream);
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.destroy());
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  return Object.assign(proxy, { host: `127.0.0.1:${port}` });
}
