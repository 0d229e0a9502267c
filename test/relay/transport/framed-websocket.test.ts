import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";

import { afterEach, expect, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";

import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { websocketToByteStream } from "../../../relay/protocol/websocket-stream.ts";
import { splice } from "../../../relay/switchboard/splice.ts";
import { framedWebSocket } from "../../../relay/transport/framed-websocket.ts";

const KIB = 1024;
/** On both sides of where the header grows, of what is left to `ws`, of what memory is kept for. */
const SIZES = [
  1,
  125,
  126,
  8 * KIB - 1,
  8 * KIB,
  16 * KIB,
  40 * KIB - 1,
  40 * KIB,
  64 * KIB - 1,
  64 * KIB,
  64 * KIB + 1,
  256 * KIB,
] as const;

const open: (() => void)[] = [];
afterEach(() => {
  for (const close of open.splice(0)) close();
});

/** A server that gives every WebSocket to `take`. */
async function listening(take: (websocket: WebSocket) => void): Promise<number> {
  const server: Server = createServer();
  const websockets = new WebSocketServer({ server, perMessageDeflate: false });
  websockets.on("connection", take);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => {
    for (const client of websockets.clients) client.terminate();
    websockets.close();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

async function dial(port: number): Promise<WebSocket> {
  const websocket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false });
  await once(websocket, "open");
  return websocket;
}

async function received(websocket: WebSocket, count: number): Promise<Buffer[]> {
  const messages: Buffer[] = [];
  const all = Promise.withResolvers<void>();
  websocket.on("message", (data) => {
    // What `ws` gives on Node.
    messages.push(data as Buffer);
    if (messages.length === count) all.resolve();
  });
  await all.promise;
  return messages;
}

test("framedWebSocket() says each size back as it came, in one frame, and whole", async () => {
  const port = await listening((websocket) => {
    const framed = framedWebSocket(websocket);
    framed.on("message", (data) => {
      framed.send(data as Uint8Array, { binary: true, compress: false }, () => {});
    });
  });
  const client = await dial(port);
  // Three times: the memory of the first round is used again.
  const sent = [...SIZES, ...SIZES, ...SIZES].map((size) => randomBytes(size));
  const back = received(client, sent.length);
  for (const message of sent) client.send(message);
  const got = await back;
  expect(got.map(({ length }) => length)).toEqual(sent.map(({ length }) => length));
  expect(got.every((message, at) => message.equals(sent[at] ?? Buffer.alloc(0)))).toBe(true);
});

test("framedWebSocket() answers pings between messages, and takes a message in fragments", async () => {
  const port = await listening((websocket) => {
    const framed = framedWebSocket(websocket);
    framed.on("message", (data) => {
      framed.send(data as Uint8Array, { binary: true, compress: false }, () => {});
    });
  });
  const client = await dial(port);
  const pongs: string[] = [];
  client.on("pong", (data) => pongs.push(data.toString()));
  const [a, b, c] = [randomBytes(64 * KIB), randomBytes(50 * KIB), randomBytes(20 * KIB)];
  const back = received(client, 4);
  client.send(a);
  client.ping("1");
  client.send(b, { fin: false });
  client.ping("2");
  client.send(c, { fin: false });
  client.send(Buffer.alloc(0));
  // All of it in the first fragment.
  client.send(a, { fin: false });
  client.send(Buffer.alloc(0));
  client.ping("3");
  client.send(b);
  const got = await back;
  expect(
    got.map((message, at) => message.equals([a, Buffer.concat([b, c]), a, b][at] ?? a)),
  ).toEqual([true, true, true, true]);
  await expect.poll(() => pongs).toEqual(["1", "2", "3"]);
});

test("framedWebSocket() sends a part of a message as `ws` does", async () => {
  const sent = randomBytes(64 * KIB);
  const port = await listening((websocket) => {
    const framed = framedWebSocket(websocket);
    framed.on("message", (data) => {
      const message = data as Uint8Array;
      const say = (bytes: Uint8Array): void =>
        framed.send(bytes, { binary: true, compress: false }, () => {});
      say(message.subarray(0, 100));
      say(message.subarray(1));
      say(message);
    });
  });
  const client = await dial(port);
  const back = received(client, 3);
  client.send(sent);
  const got = await back;
  const expected = [sent.subarray(0, 100), sent.subarray(1), sent];
  expect(got.map((message, at) => message.equals(expected[at] ?? sent))).toEqual(
    expected.map(() => true),
  );
});

test("framedWebSocket() tells a send after the end of its failure", async () => {
  const { promise: taken, resolve: take } = Promise.withResolvers<WebSocket>();
  const messages = Promise.withResolvers<Uint8Array>();
  const port = await listening((websocket) => {
    framedWebSocket(websocket).on("message", (data) => messages.resolve(data as Uint8Array));
    take(websocket);
  });
  const client = await dial(port);
  client.send(randomBytes(64 * KIB));
  const [websocket, message] = await Promise.all([taken, messages.promise]);
  const framed = framedWebSocket(websocket);
  websocket.terminate();
  const error = await new Promise((resolve) => {
    framed.send(message, { binary: true, compress: false }, resolve);
  });
  expect(error).toBeInstanceOf(Error);
});

// Memory that is used again must never show what another pair sent.
test("framedWebSocket(): what pairs send at once arrives at the other of each, byte for byte", async () => {
  const pairs = 6;
  const messages = 120;
  let waiting: ByteStream | undefined;
  const port = await listening((websocket) => {
    const stream = websocketToByteStream(framedWebSocket(websocket));
    if (waiting === undefined) {
      waiting = stream;
      return;
    }
    const first = waiting;
    waiting = undefined;
    const none = new Uint8Array(0);
    void splice({ stream: first, head: none }, { stream, head: none }, () => {});
  });
  const streams: [ByteStream, ByteStream, WebSocket][] = [];
  for (let pair = 0; pair < pairs; pair++) {
    const a = await dial(port);
    const b = await dial(port);
    streams.push([websocketToByteStream(a), websocketToByteStream(b), b]);
  }
  const same = await Promise.all(
    streams.map(async ([from, to, toSocket], pair) => {
      const sizes = Array.from(
        { length: messages },
        (_, at) => SIZES[(at * 7 + pair) % SIZES.length] ?? 1,
      );
      const content = randomBytes(sizes.reduce((sum, size) => sum + size, 0));
      const sending = (async () => {
        let at = 0;
        for (const size of sizes) await from.write(content.subarray(at, (at += size)));
        await from.end();
      })();
      const pieces: Uint8Array[] = [];
      for (let piece = await to.read(); piece !== null; piece = await to.read()) {
        pieces.push(piece);
        // Some are slow, so that the relay holds what it has.
        if (pair % 2 === 1 && pieces.length % 16 === 0) {
          toSocket.pause();
          await new Promise((resolve) => {
            setImmediate(resolve);
          });
          toSocket.resume();
        }
      }
      await sending;
      return Buffer.concat(pieces).equals(content);
    }),
  );
  expect(same).toEqual(streams.map(() => true));
});

test("framedWebSocket() is the same socket where `ws` is not as expected", () => {
  const other = { on: () => {}, _socket: {} as Socket } as unknown as WebSocket;
  expect(framedWebSocket(other)).toBe(other);
});
