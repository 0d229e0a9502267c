import { createSocket } from "node:dgram";
import { createServer, type AddressInfo, type Socket } from "node:net";
import * as tls from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dialLink, WEBTRANSPORT_DELAY_MS } from "../../../peer/net/dial.ts";
import { LinkError } from "../../../peer/net/errors.ts";
import type { Dial, Link } from "../../../peer/net/link.ts";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../../peer/net/webtransport.ts";
import { testCertificate, testListener, type TestListener } from "../../compliance/link-support.ts";

let relay: TestListener;
const hasWebTransport = !("unavailable" in (await loadWebTransportClient()));

beforeAll(async () => {
  relay = await testListener();
});
afterAll(() => relay.close());

function fakeLink(closed: string[], name: string): Link {
  return {
    kind: "memory",
    openStream: () => Promise.reject(new Error("not here")),
    closed: new Promise(() => {}),
    close: async () => {
      closed.push(name);
    },
  };
}

function after<T>(ms: number, value: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    setTimeout(() => {
      try {
        resolve(value());
      } catch (error) {
        reject(error as Error);
      }
    }, ms);
  });
}

describe("dialLink()", () => {
  const options = { url: "https://127.0.0.1:1", certificateHashes: [] };

  const never: Dial = ({ signal }) =>
    new Promise((_resolve, reject) => {
      signal?.addEventListener("abort", () => reject(new LinkError("CANCELLED", "cancelled")));
    });

  test("auto takes WebSocket where it answers", async () => {
    const hashes = [relay.certificate.hash];
    const link = await dialLink("auto", { url: relay.url, certificateHashes: hashes });
    expect(link.kind).toBe("websocket");
    await link.close("OK", "done");
  });

  test.runIf(hasWebTransport)("auto takes WebTransport where TCP is silent", async () => {
    const link = await dialLink("auto", {
      url: relay.url,
      certificateHashes: [relay.certificate.hash],
      dials: { websocket: never, webtransport: dialWebTransport },
    });
    expect(link.kind).toBe("webtransport");
    await link.close("OK", "done");
  });

  test("auto closes the link that opens second", async () => {
    const closed: string[] = [];
    const slow: Dial = () => after(1_400, () => fakeLink(closed, "websocket"));
    const fast: Dial = () => after(10, () => fakeLink(closed, "webtransport"));
    await dialLink("auto", { ...options, dials: { webtransport: fast, websocket: slow } });
    await after(700, () => {});
    expect(closed).toEqual(["websocket"]);
  });

  test("auto starts WebTransport at once when WebSocket is refused", async () => {
    const start = performance.now();
    const refused: Dial = () => Promise.reject(new LinkError("RELAY_UNREACHABLE", "none"));
    const fast: Dial = () => after(1, () => fakeLink([], "webtransport"));
    await dialLink("auto", { ...options, dials: { webtransport: fast, websocket: refused } });
    expect(performance.now() - start).toBeLessThan(WEBTRANSPORT_DELAY_MS / 2);
  });

  test("auto greets on the first link alone, and not once another is tried", async () => {
    const greeted: unknown[] = [];
    const greeting = (): Uint8Array => Uint8Array.of(1);
    const early: Dial = async (given) => {
      greeted.push(given.greeting?.());
      return fakeLink([], "websocket");
    };
    await dialLink("auto", {
      ...options,
      greeting,
      dials: { webtransport: never, websocket: early },
    });
    const late: Dial = async (given) => {
      await after(WEBTRANSPORT_DELAY_MS + 300, () => {});
      greeted.push(given.greeting?.());
      return fakeLink([], "websocket");
    };
    await dialLink("auto", {
      ...options,
      greeting,
      dials: { webtransport: never, websocket: late },
    });
    expect(greeted).toEqual([Uint8Array.of(1), undefined]);
  });

  test("auto tells WebSocket's error, but a wrong certificate first", async () => {
    const fails = (code: "CERTIFICATE_MISMATCH" | "RELAY_UNREACHABLE"): Dial => {
      return () => Promise.reject(new LinkError(code, code));
    };
    await expect(
      dialLink("auto", {
        ...options,
        dials: {
          webtransport: fails("CERTIFICATE_MISMATCH"),
          websocket: fails("RELAY_UNREACHABLE"),
        },
      }),
    ).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
  });

  test("refuses an address that is more than host and port", async () => {
    for (const url of ["nonsense", "http://a:1", "https://a:1/path", "https://u:p@a:1"]) {
      await expect(dialLink("auto", { ...options, url })).rejects.toMatchObject({
        code: "ADDRESS_INVALID",
      });
    }
  });
});

const dials: [string, Dial][] = [["dialWebSocket()", dialWebSocket]];
if (hasWebTransport) dials.push(["dialWebTransport()", dialWebTransport]);

describe.each(dials)("%s", (_name, dial) => {
  test("refuses another certificate than the pinned one", async () => {
    const error: unknown = await dial({
      url: relay.url,
      certificateHashes: [new Uint8Array(32)],
    }).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ name: "LinkError", code: "CERTIFICATE_MISMATCH" });
    expect(String(error)).toContain(new URL(relay.url).host);
  });

  test("takes the pinned one among several", async () => {
    const link = await dial({
      url: relay.url,
      certificateHashes: [new Uint8Array(32), relay.certificate.hash],
    });
    await link.close("OK", "done");
    expect(await link.closed).toEqual({ code: "OK", reason: "done" });
  });

  test("without a pin trusts nobody that the system does not", async () => {
    await expect(dial({ url: relay.url, certificateHashes: [] })).rejects.toMatchObject({
      name: "LinkError",
      code: "CERTIFICATE_UNTRUSTED",
    });
  });

  test("gives up at the deadline when nothing answers", async () => {
    const mute = createServer(() => {});
    await new Promise<void>((resolve) => {
      mute.listen(0, "127.0.0.1", resolve);
    });
    const { port } = mute.address() as AddressInfo;
    const udp = createSocket("udp4");
    await new Promise<void>((resolve) => {
      udp.bind(port, "127.0.0.1", resolve);
    });
    const url = `https://127.0.0.1:${port}`;
    await expect(
      dial({ url, certificateHashes: [new Uint8Array(32)], deadlineMs: 300 }),
    ).rejects.toMatchObject({ code: "DEADLINE_EXCEEDED" });
    const cancelling = new AbortController();
    const cancelled = dial({
      url,
      certificateHashes: [new Uint8Array(32)],
      signal: cancelling.signal,
    });
    setTimeout(() => cancelling.abort(), 50);
    await expect(cancelled).rejects.toMatchObject({ code: "CANCELLED" });
    udp.close();
    mute.close();
  });
});

test("dialWebSocket() names address and cure when the connection is refused", async () => {
  await expect(
    dialWebSocket({ url: "https://127.0.0.1:9", certificateHashes: [] }),
  ).rejects.toThrow(
    "no relay answers at 127.0.0.1:9 (connection refused): is `memferry relay` running there?",
  );
});

test("dialWebSocket() sends nothing to a relay with the wrong certificate", async () => {
  const certificate = await testCertificate();
  let heard = 0;
  const sockets: Socket[] = [];
  const server = tls.createServer(
    { cert: certificate.certificatePem, key: certificate.privateKeyPem },
    (socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      socket.on("data", (bytes: Buffer) => {
        heard += bytes.length;
      });
    },
  );
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  await expect(
    dialWebSocket({ url: `https://127.0.0.1:${port}`, certificateHashes: [new Uint8Array(32)] }),
  ).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
  await after(100, () => {});
  expect(heard).toBe(0);
  for (const socket of sockets) socket.destroy();
  server.close();
});
