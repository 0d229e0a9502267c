/**
 * What does not speak the protocol is closed with a code, and costs nobody else anything.
 */
import { randomBytes } from "node:crypto";
import { request } from "node:https";

import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";

import { encodeFrame } from "../../relay/protocol/frame.ts";
import { decodeTicket, encodeTicket } from "../../relay/protocol/ticket.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../relay/protocol/version.ts";
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

test("garbage, wrong versions, oversize and text frames are closed with a code, and a migration beside them is unharmed", async () => {
  const from = stage.file("source");
  const to = stage.file("destination");
  await makeFile(from, 24 * MIB + 11);
  // Slow enough to be under way all the time, and longer than the relay waits for a stream's first frame.
  await using proxy = await startProxy({ port: relay.port, bytesPerS: 2_000_000 });
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", "websocket"]);
  const args = ["--file", to, "--link", "websocket"];
  const leecher = stage.leech(redirect(ticket, proxy.url), args);
  await leecher.waitForPhase("precopy");

  const { token, sessionId } = decodeTicket(ticket);
  const hello = {
    kind: "hello",
    major: PROTOCOL_MAJOR,
    minor: PROTOCOL_MINOR,
    features: 0,
    role: "leecher",
    sessionId,
    peerKey: new Uint8Array(32),
    token,
  } as const;
  const bytes = {
    garbage: Buffer.from("GET / HTTP/1.0\r\n\r\n"),
    zeros: Buffer.alloc(64),
    noise: randomBytes(4_096),
    unexpected: encodeFrame({ kind: "ping", nonce: 1 }),
    wrongVersion: encodeFrame({ ...hello, major: 0xffff }),
    claimsTooMuch: Buffer.alloc(8, 0xff),
    oversize: Buffer.alloc(40 * MIB),
    text: "hello",
  };
  const codes = Object.fromEntries(
    await Promise.all(
      Object.entries(bytes).map(async ([what, data]) => {
        const code = await closeCode((socket) => socket.send(data));
        return [what, code] as const;
      }),
    ),
  );
  console.log(`close codes: ${JSON.stringify(codes)}`);
  for (const [what, code] of Object.entries(codes)) {
    // Not 1000, a good end, and not 1006, none at all.
    expect({ what, told: code > 1_000 && code !== 1_006 }).toEqual({ what, told: true });
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
