/**
 * What does not speak the protocol is closed with a code, and costs nobody else anything.
 */
import { request } from "node:https";

import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";

import { decodeTicket, encodeTicket } from "../../relay/protocol/ticket.ts";
import { makeFile, sameContent } from "./files.ts";
import { redirect, Stage, type TestRelay } from "./harness.ts";
import { startProxy } from "./proxy.ts";

const MIB = 1024 * 1024;
const CLOSE_MS = 15_000;

let stage: Stage;
let relay: TestRelay;

beforeAll(async () => {
  stage = await Stage.open();
  relay = await stage.relay();
});

afterAll(() => stage[Symbol.asyncDispose]());

/** Sends, and waits to be closed. @returns The close code. */
async function closeCode(send: (socket: WebSocket) => void): Promise<number> {
  const socket = new WebSocket(`${relay.url.replace("https:", "wss:")}/link`, {
    rejectUnauthorized: false,
  });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const timer = setTimeout(() => reject(new Error("the relay keeps the connection")), CLOSE_MS);
  socket.on("close", resolve);
  // A connection that is reset while we still send is closed as well; `close` follows.
  socket.on("error", () => undefined);
  socket.on("open", () => send(socket));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    socket.terminate();
  }
}

/** A frame as the codec writes it: length, kind, body. */
function frame(kind: number, body: Uint8Array): Buffer {
  const bytes = Buffer.alloc(5 + body.length);
  bytes.writeUInt32BE(1 + body.length);
  bytes.writeUInt8(kind, 4);
  bytes.set(body, 5);
  return bytes;
}

test("garbage, wrong versions, oversize and text frames are closed with a code, and a migration beside them is unharmed", async () => {
  const from = stage.file("source");
  const to = stage.file("destination");
  await makeFile(from, 24 * MIB + 11);
  // Slow enough to be under way all the time.
  await using proxy = await startProxy({ port: relay.port, bytesPerS: 6_000_000 });
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", "websocket"]);
  const args = ["--file", to, "--link", "websocket"];
  const leecher = stage.leech(redirect(ticket, proxy.url), args);
  await leecher.waitForPhase("precopy");

  const { token, sessionId } = decodeTicket(ticket);
  const codes = {
    garbage: await closeCode((socket) => socket.send(Buffer.from("GET / HTTP/1.0\r\n\r\n"))),
    zeros: await closeCode((socket) => socket.send(Buffer.alloc(64))),
    unknownKind: await closeCode((socket) => socket.send(frame(0xee, Buffer.alloc(8)))),
    wrongVersion: await closeCode((socket) => {
      socket.send(frame(1, Buffer.concat([Buffer.from([0xff, 0xff, 0, 0]), sessionId, token])));
    }),
    claimsTooMuch: await closeCode((socket) => socket.send(Buffer.alloc(8, 0xff))),
    oversize: await closeCode((socket) => socket.send(Buffer.alloc(40 * MIB))),
    text: await closeCode((socket) => socket.send("hello")),
  };
  console.log(`close codes: ${JSON.stringify(codes)}`);
  for (const [what, code] of Object.entries(codes)) {
    expect(code, what).not.toBe(1000);
    expect(code, what).toBeGreaterThan(1000);
  }
  expect(leecher.last("done"), "all that while the migration ran").toBeUndefined();

  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  expect(await sameContent(from, to)).toBe(true);
  expect(leecher.eventNames()).not.toContain("phase paused");
  expect(relay.program.exit).toBeUndefined();
});

test("whoever holds the relay's part of a ticket, but not its secret, cannot take the region", async () => {
  const from = stage.file("source-2");
  await makeFile(from, MIB);
  const { seeder, ticket } = await stage.seed(["--file", from]);
  const stolen = encodeTicket({ ...decodeTicket(ticket), secret: new Uint8Array(32) });
  const thief = stage.leech(stolen, ["--file", stage.file("loot")]);
  await Promise.all([thief.expectExit(1), seeder.expectExit(1)]);
  expect(seeder.last("committed")).toBeUndefined();
  expect(thief.eventNames()).not.toContain("channel");
});

test("half-open connections in numbers do not keep a migration from running", async () => {
  const open: WebSocket[] = [];
  for (let i = 0; i < 50; i++) {
    const socket = new WebSocket(`${relay.url.replace("https:", "wss:")}/link`, {
      rejectUnauthorized: false,
    });
    socket.on("error", () => undefined);
    open.push(socket);
  }
  try {
    const from = stage.file("source-3");
    const to = stage.file("destination-3");
    await makeFile(from, 4 * MIB + 1);
    const { seeder, ticket } = await stage.seed(["--file", from]);
    const leecher = stage.leech(ticket, ["--file", to]);
    await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
    expect(await sameContent(from, to)).toBe(true);
  } finally {
    for (const socket of open) socket.terminate();
  }
});

test("a request that is too large, or without a key, is refused with a problem document", async () => {
  const ask = (body: Buffer, key: string): Promise<{ status: number; type: string }> =>
    new Promise((resolve, reject) => {
      const sent = request(
        `${relay.url}/v1/sessions`,
        {
          method: "POST",
          rejectUnauthorized: false,
          headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        },
        (response) => {
          response.resume();
          resolve({
            status: response.statusCode ?? 0,
            type: response.headers["content-type"] ?? "",
          });
        },
      );
      sent.on("error", reject);
      sent.end(body);
    });
  expect(await ask(Buffer.from("{}"), "wrong")).toMatchObject({ status: 401 });
  expect(await ask(Buffer.from("{"), relay.key)).toMatchObject({ status: 400 });
  const large = Buffer.from(JSON.stringify({ name: "x".repeat(1_000_000) }));
  const { status, type } = await ask(large, relay.key);
  expect(status).toBe(413);
  expect(type).toContain("application/problem+json");
});
