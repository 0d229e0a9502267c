import { createConnection, createServer, type AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import * as tls from "node:tls";
import { request } from "node:https";
import { request as requestPlain } from "node:http";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import WebSocket from "ws";
import { dialWebTransport } from "../../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../../peer/net/webtransport.ts";
import { relayLimits } from "../../../relay/limits.ts";
import { ProtocolErrorNumber } from "../../../relay/protocol/errors.ts";
import { WEBSOCKET_MESSAGE_BYTES_MAX } from "../../../relay/protocol/websocket-stream.ts";
import { listen, type ListenerProblem } from "../../../relay/transport/listener.ts";
import { testCertificate, testListener, type TestListener } from "../../compliance/link-support.ts";

const problems: ListenerProblem[] = [];
let under: TestListener;

beforeAll(async () => {
  under = await testListener({
    limits: relayLimits({ handshakeMs: 400, connections: 20 }),
    onProblem: (problem) => problems.push(problem),
    plain: { host: "127.0.0.1", port: 0 },
    requestListener: (_request, response) => response.end("hello"),
  });
});
afterAll(() => under.close());

function open(path = "/link"): WebSocket {
  return new WebSocket(`wss://127.0.0.1:${under.listener.https.port}${path}`, {
    rejectUnauthorized: false,
  });
}

function opened(socket: WebSocket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
}

function closeCode(socket: WebSocket): Promise<number> {
  return new Promise((resolve) => {
    socket.once("close", resolve);
  });
}

/** How long a raw connection that says only this much is kept. */
function keptMs(options: { readonly tls: boolean; readonly says: string }): Promise<number> {
  const start = performance.now();
  const { port } = under.listener.https;
  const socket = options.tls
    ? tls.connect({ port, host: "127.0.0.1", rejectUnauthorized: false })
    : createConnection({ port, host: "127.0.0.1" });
  socket.once(options.tls ? "secureConnect" : "connect", () => socket.write(options.says));
  socket.resume();
  socket.on("error", () => {});
  return new Promise((resolve) => {
    socket.once("close", () => resolve(performance.now() - start));
  });
}

describe("listen()", () => {
  test("answers requests on HTTPS and on the plain listener", async () => {
    const { https, plain } = under.listener;
    const secure = await new Promise((resolve, reject) => {
      request({ port: https.port, host: "127.0.0.1", rejectUnauthorized: false }, (response) => {
        response.on("data", (bytes: Buffer) => resolve(bytes.toString()));
      })
        .on("error", reject)
        .end();
    });
    expect(secure).toBe("hello");
    const open = await new Promise((resolve, reject) => {
      requestPlain({ port: plain?.port, host: "127.0.0.1" }, (response) => {
        response.on("data", (bytes: Buffer) => resolve(bytes.toString()));
      })
        .on("error", reject)
        .end();
    });
    expect(open).toBe("hello");
  });

  test("closes with 1003 on a text message and gives the stream an error", async () => {
    const socket = open();
    await opened(socket);
    const { stream } = await under.arrivals.next();
    const reading = stream.read();
    reading.catch(() => {});
    const code = closeCode(socket);
    socket.send("text");
    expect(await code).toBe(1003);
    await expect(reading).rejects.toMatchObject({ code: "FRAME_MALFORMED" });
  });

  test("closes with 1009 on a message above the bound", async () => {
    const socket = open();
    await opened(socket);
    const { stream } = await under.arrivals.next();
    const code = closeCode(socket);
    socket.send(new Uint8Array(WEBSOCKET_MESSAGE_BYTES_MAX + 1));
    expect(await code).toBe(1009);
    expect((await stream.closed).code).toBe("FRAME_TOO_LARGE");
  });

  test("closes a stream that is aborted with 4000 plus the number of the error", async () => {
    const socket = open();
    await opened(socket);
    const { stream } = await under.arrivals.next();
    const code = closeCode(socket);
    stream.abort("TICKET_USED", "used");
    expect(await code).toBe(4000 + ProtocolErrorNumber.TICKET_USED);
  });

  test("cuts off a peer that does not answer the close", async () => {
    const socket = open();
    await opened(socket);
    const { stream } = await under.arrivals.next();
    socket.pause();
    const start = performance.now();
    stream.abort("TICKET_USED", "used");
    expect((await stream.closed).code).toBe("TICKET_USED");
    socket.on("error", () => {});
    setTimeout(() => socket.resume(), 2_300);
    await closeCode(socket);
    expect(performance.now() - start).toBeLessThan(5_000);
  });

  test("refuses an upgrade elsewhere", async () => {
    await expect(opened(open("/elsewhere"))).rejects.toThrow("404");
  });

  test("drops a connection whose TLS handshake does not come", async () => {
    expect(await keptMs({ tls: false, says: "" })).toBeLessThan(2_500);
  });

  test("drops a connection whose TLS is no TLS", async () => {
    expect(await keptMs({ tls: false, says: "GET / HTTP/1.1\r\n\r\n" })).toBeLessThan(2_500);
  });

  test("drops a request whose headers do not end", async () => {
    expect(await keptMs({ tls: true, says: "GET /link HTTP/1.1\r\nHost: x\r\n" })).toBeLessThan(
      4_000,
    );
  });

  test("refuses headers above the bound and goes on", async () => {
    const says = `GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(64 * 1024)}\r\n\r\n`;
    await keptMs({ tls: true, says });
    const socket = open();
    await opened(socket);
    (await under.arrivals.next()).stream.abort("TICKET_USED", "done");
    expect(await closeCode(socket)).toBe(4000 + ProtocolErrorNumber.TICKET_USED);
  });

  test("says that the port is taken", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => {
      taken.listen(0, "127.0.0.1", resolve);
    });
    const { port } = taken.address() as AddressInfo;
    const certificate = await testCertificate();
    const options = { host: "127.0.0.1", port, certificate, onStream: () => {} };
    await expect(listen(options)).rejects.toMatchObject({ code: "EADDRINUSE" });
    taken.close();
  });

  // rwebtransport put the port behind an address without brackets, and the relay did not start.
  test.for(["::1", "::"])("listens at %s, also for WebTransport", async (host, ctx) => {
    if (
      !Object.values(networkInterfaces())
        .flat()
        .some((one) => one?.address === "::1")
    ) {
      ctx.skip("no IPv6 on this host: sysctl net.ipv6.conf.lo.disable_ipv6=0");
    }
    const here = await testListener({ host });
    try {
      const { https, webTransport } = here.listener;
      const client = await loadWebTransportClient();
      // Deno's client takes the brackets of an address for a part of a name.
      const cannotDial = "unavailable" in client || client.name === "deno";
      if ("unavailable" in webTransport || cannotDial) return;
      const url = `https://[::1]:${https.port}`;
      const link = await dialWebTransport({ url, certificateHashes: [here.certificate.hash] });
      expect(link.kind).toBe("webtransport");
      await link.close("OK", "only looked");
    } finally {
      await here.close();
    }
  });

  // Deno frees a QUIC endpoint's port when it collects the endpoint, and not before.
  test.runIf(!("Deno" in globalThis))("frees both ports when it closes", async () => {
    const first = await testListener();
    const { port } = first.listener.https;
    await first.close();
    await first.close();
    const second = await testListener({ port });
    expect(second.listener.https.port).toBe(port);
    await second.close();
  });
});

// Cross-site WebSocket hijacking: a browser asks no permission before it opens a WebSocket to another site.
test("a WebSocket from another site's page is refused, one from no page or the relay's own is not", async () => {
  const { port } = under.listener.https;
  const status = (origin: string | undefined): Promise<number> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(`wss://127.0.0.1:${port}/link`, {
        rejectUnauthorized: false,
        ...(origin === undefined ? {} : { origin }),
      });
      socket.once("open", () => {
        socket.terminate();
        resolve(101);
      });
      socket.once("unexpected-response", (_request, response) => {
        resolve(response.statusCode ?? 0);
        response.destroy();
      });
      socket.once("error", reject);
    });
  expect(await status(undefined)).toBe(101);
  expect(await status(`https://127.0.0.1:${port}`)).toBe(101);
  for (const origin of ["https://evil.test", "null", `https://127.0.0.1:${port + 1}`, "x"]) {
    expect([origin, await status(origin)]).toEqual([origin, 403]);
  }
});
