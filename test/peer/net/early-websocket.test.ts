import { createHash } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import * as tls from "node:tls";
import { setTimeout as sleep } from "node:timers/promises";
import { createRequire } from "node:module";
import { expect, onTestFinished, test } from "vitest";
import { parseRelayUrl } from "../../../peer/net/address.ts";
import { canSendEarly, clientFrame } from "../../../peer/net/early-websocket.ts";
import { sayNothing } from "../../../peer/net/idle-connection.ts";
import { connectPinned, directTcp } from "../../../peer/net/tls.ts";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { testCertificate, testListener } from "../../compliance/link-support.ts";
import { relayLimits } from "../../../relay/limits.ts";

async function server(onData: (socket: tls.TLSSocket, text: string) => void) {
  const certificate = await testCertificate();
  const sockets = new Set<tls.TLSSocket>();
  const listening = tls.createServer(
    { cert: certificate.certificatePem, key: certificate.privateKeyPem },
    (socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("data", (bytes: Uint8Array) =>
        onData(socket, Buffer.from(bytes).toString("latin1")),
      );
    },
  );
  await once(listening.listen(0, "127.0.0.1"), "listening");
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    listening.close();
  });
  const { port } = listening.address() as AddressInfo;
  return { url: `https://127.0.0.1:${port}`, certificateHashes: [certificate.hash] };
}

test("dialWebSocket({ greeting }) sends it behind the request, without an answer", async () => {
  let got = "";
  const options = await server((_socket, text) => {
    got += text;
  });
  const greeting = new TextEncoder().encode("a greeting that is long enough");
  const dialing = dialWebSocket({ ...options, greeting: () => greeting, deadlineMs: 1_000 });
  await expect(dialing).rejects.toMatchObject({ code: "DEADLINE_EXCEEDED" });
  const [head = "", frame = ""] = got.split("\r\n\r\n");
  expect(head).toMatch(/^GET \/link HTTP\/1\.1\r\n/);
  const bytes = Buffer.from(frame, "latin1");
  // Final, binary, masked, of this length; then the mask.
  expect([...bytes.subarray(0, 2)]).toEqual([0x82, 0x80 | greeting.length]);
  const mask = bytes.subarray(2, 6);
  const plain = bytes.subarray(6).map((byte, i) => byte ^ (mask[i & 3] ?? 0));
  expect(Buffer.compare(plain, greeting)).toBe(0);
});

test("a stream of an open link takes bytes at once, and they reach the relay in order", async () => {
  const relay = await testListener({ webTransport: "off" });
  onTestFinished(() => relay.close());
  const link = await dialWebSocket({ url: relay.url, certificateHashes: [relay.certificate.hash] });
  await link.openStream();
  await relay.arrivals.next();
  const near = await link.openStream();
  const sizes = [1, 125, 126, 65_535, 10, 70_000, 3, 200_000];
  const sent = Buffer.concat(sizes.map((size, i) => Buffer.alloc(size, i + 1)));
  const writing = sizes.map((size, i) => near.write(new Uint8Array(size).fill(i + 1)));
  const far = await relay.arrivals.next();
  const pieces: Uint8Array[] = [];
  for (let have = 0; have < sent.length;) {
    const piece = await far.stream.read();
    if (piece === null) break;
    pieces.push(piece);
    have += piece.length;
  }
  expect(Buffer.compare(Buffer.concat(pieces), sent)).toBe(0);
  await Promise.all(writing);
  await link.close("OK", "done");
});

test.runIf(canSendEarly)(
  "where a greeting gets lost, the next link waits for its answer",
  async () => {
    // Opens the stream, and what came with the request reaches nobody.
    const options = await server((socket, text) => {
      const key = /^sec-websocket-key: (.+)\r$/im.exec(text)?.[1];
      if (key === undefined) return;
      const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
      socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
          `Sec-WebSocket-Accept: ${accept.digest("base64")}\r\n\r\n`,
      );
      setTimeout(() => socket.destroy(), 100);
    });
    const greeting = (): Uint8Array => Uint8Array.of(1);
    const first = await dialWebSocket({ ...options, greeting });
    expect(first.greeted).toBe(true);
    const stream = await first.openStream();
    await stream.closed;
    const second = await dialWebSocket({ ...options, greeting });
    expect(second.greeted).toBe(false);
    await Promise.all([first.close("OK", "done"), second.close("OK", "done")]);
  },
);

test("clientFrame() has the three forms of a length", () => {
  expect(clientFrame(new Uint8Array(125))).toHaveLength(2 + 4 + 125);
  expect(clientFrame(new Uint8Array(126))).toHaveLength(4 + 4 + 126);
  expect(clientFrame(new Uint8Array(65_536))).toHaveLength(10 + 4 + 65_536);
});

test("sayNothing() keeps a connection that the relay would have ended, and a stream opens on it", async () => {
  const relay = await testListener({
    webTransport: "off",
    limits: relayLimits({ handshakeMs: 400 }),
  });
  onTestFinished(() => relay.close());
  const address = parseRelayUrl(relay.url);
  const connected = async (): Promise<tls.TLSSocket> => {
    const open: { destroy(): void }[] = [];
    onTestFinished(() => open.forEach((one) => one.destroy()));
    const { hash } = relay.certificate;
    return await connectPinned({ address, certificateHashes: [hash], connectTcp: directTcp }, open);
  };
  const [kept, forgotten] = [await connected(), await connected()];
  forgotten.resume();
  expect(await sayNothing(kept, address)).toBe(true);
  await once(forgotten, "close");
  await sleep(1_000);
  expect(kept.destroyed).toBe(false);
  expect(await sayNothing(kept, address)).toBe(true);
});

test.runIf(canSendEarly)("ws masks with bufferutil where it is installed", () => {
  const require = createRequire(import.meta.url);
  let isInstalled = true;
  try {
    require.resolve("bufferutil");
  } catch {
    isInstalled = false;
  }
  const loaded = Object.keys(require.cache).some((file) => file.endsWith("bufferutil.node"));
  expect(loaded).toBe(isInstalled && process.platform === "linux" && process.arch === "x64");
});
