/**
 * Violations of the WebSocket protocol, case by case as the Autobahn test suite has them for servers (its own numbers):
 * framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, limits. Each ends with the code that RFC 6455 asks
 * for, and the relay goes on. Text is no part of the relay's protocol, so where Autobahn wants an echo of a text 1003 is
 * right, and 1007 where it is no UTF-8.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, expect, test } from "vitest";

import { listen, type Listener } from "../../relay/transport/listener.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import { relayLimits } from "../../relay/limits.ts";
import {
  WEBSOCKET_FRAGMENTS_MAX,
  WEBSOCKET_MESSAGE_BYTES_MAX,
} from "../../relay/protocol/websocket-stream.ts";
import { testCertificate } from "../compliance/link-support.ts";
import { RawWebSocket, wsFrame, type WsFrame } from "./raw.ts";

const ABRUPT = 1006;
const frame = (opcode: number, payload: WsFrame["payload"] = "", more: Partial<WsFrame> = {}) =>
  wsFrame({ opcode, payload, ...more });
const close = (code?: number, reason: string | Uint8Array = ""): Buffer => {
  const head = Buffer.alloc(code === undefined ? 0 : 2);
  if (code !== undefined) head.writeUInt16BE(code, 0);
  return frame(8, Buffer.concat([head, Buffer.from(reason)]));
};

let listener: Listener;
beforeAll(async () => {
  listener = await listen({
    host: "127.0.0.1",
    port: 0,
    certificate: await testCertificate(),
    webTransport: "off",
    limits: relayLimits({ acceptBurstPerPrefix: 10_000, acceptsPerPrefix: 10_000 }),
    // Says back what comes, so that a case shows that it was understood.
    onStream: ({ stream, established }) => {
      established?.();
      void echo(stream);
    },
  });
});
afterAll(() => listener?.close());

async function echo(stream: ByteStream): Promise<void> {
  try {
    for (;;) {
      const piece = await stream.read();
      if (piece === null) return await stream.end();
      await stream.write(piece);
    }
  } catch {
    // The case was about that.
  }
}

const open = (): Promise<RawWebSocket> => RawWebSocket.open(listener.https.port);

/** What is sent, and the codes that may come back. */
type Case = readonly [string, readonly Buffer[], readonly number[]];

const violations: readonly Case[] = [
  // 1: framing
  ["1.1 a text message", [frame(1, "hello")], [1003]],
  ["1.1 an empty text message", [frame(1)], [1003]],
  // 2: pings
  ["2.5 a ping of 126 bytes", [frame(9, randomBytes(126))], [1002]],
  ["2.5 a pong of 126 bytes", [frame(10, randomBytes(126))], [1002]],
  // 3: reserved bits
  ["3.1 bit 3", [frame(2, "x", { reserved: 1 })], [1002]],
  ["3.2 bit 2", [frame(2, "x", { reserved: 2 })], [1002]],
  ["3.3 bits 2 and 3", [frame(2, "x", { reserved: 3 })], [1002]],
  ["3.4 bit 1, that of compression", [frame(2, "x", { reserved: 4 })], [1002]],
  ["3.5 bits 1 and 3 in a binary message", [frame(2, "x", { reserved: 5 })], [1002]],
  ["3.6 bits 1 and 2 in a ping", [frame(9, "x", { reserved: 6 })], [1002]],
  ["3.7 all bits in a close", [frame(8, "", { reserved: 7 })], [1002]],
  // 4: opcodes
  ...[3, 4, 5, 6, 7].map((opcode): Case => [`4.1 opcode ${opcode}`, [frame(opcode, "x")], [1002]]),
  ...[11, 12, 13, 14, 15].map((opcode): Case => [
    `4.2 opcode ${opcode}`,
    [frame(opcode, "x")],
    [1002],
  ]),
  // 5: fragments
  ["5.1 a ping in two fragments", [frame(9, "x", { fin: false }), frame(0, "y")], [1002]],
  ["5.2 a pong in two fragments", [frame(10, "x", { fin: false }), frame(0, "y")], [1002]],
  ["5.9 a continuation of nothing", [frame(0, "x")], [1002]],
  ["5.11 a continuation of nothing, to go on", [frame(0, "x", { fin: false })], [1002]],
  [
    "5.15 a second continuation after the end",
    [frame(2, "a", { fin: false }), frame(0, "b"), frame(0, "c")],
    [1002],
  ],
  ["5.18 a message within a message", [frame(2, "a", { fin: false }), frame(2, "b")], [1002]],
  ["5.18 a text within a message", [frame(2, "a", { fin: false }), frame(1, "b")], [1002]],
  // 6: UTF-8
  ["6.3 text that is no UTF-8", [frame(1, Buffer.from("cebae1bdb9cf83ceedaf80", "hex"))], [1007]],
  ["6.12 half a character", [frame(1, Buffer.from("f0", "hex"))], [1007]],
  [
    "6.4 no UTF-8 in the second fragment",
    [frame(1, "a", { fin: false }), frame(0, Buffer.from("ff", "hex"))],
    [1007],
  ],
  // 7: closing
  ["7.3.2 a close of one byte", [frame(8, "x")], [1002]],
  ["7.3.6 a close of 126 bytes", [frame(8, Buffer.alloc(126, 3))], [1002]],
  ["7.5.1 a reason that is no UTF-8", [close(1000, Buffer.from("cebaedaf80", "hex"))], [1007]],
  ...[0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535].map((code): Case => [
    `7.9 close code ${code}`,
    [close(code)],
    [1002],
  ]),
  // What the mask is for
  ["no mask on a message", [frame(2, "x", { masked: false })], [1002]],
  ["no mask on a close", [wsFrame({ opcode: 8, masked: false })], [1002]],
  // 9: limits
  [
    "9.2 a message above the bound, by its header",
    [frame(2, "x", { length: BigInt(WEBSOCKET_MESSAGE_BYTES_MAX) + 1n })],
    [1009],
  ],
  ["9.2 a length of 2^63", [frame(2, "x", { length: 2n ** 63n })], [1009, 1002]],
  ["9.2 a length of 2^53", [frame(2, "x", { length: 2n ** 53n })], [1009]],
  [
    "9.4 fragments above the bound together",
    Array.from({ length: 5 }, (_, i) =>
      frame(i === 0 ? 2 : 0, Buffer.alloc(WEBSOCKET_MESSAGE_BYTES_MAX / 4 + 1), { fin: false }),
    ),
    [1009],
  ],
  [
    "9.4 more fragments than are taken",
    Array.from({ length: WEBSOCKET_FRAGMENTS_MAX + 2 }, (_, i) =>
      frame(i === 0 ? 2 : 0, "x", { fin: false }),
    ),
    [1008, 1009],
  ],
];

test.for(violations)("%s", async ([, sends, codes]) => {
  const ws = await open();
  for (const bytes of sends) ws.send(bytes);
  const code = await ws.closeCode();
  expect(codes).toContain(code);
  ws.destroy();
});

/** What is sent, and the code that ends it in order. */
const closings: readonly (readonly [string, readonly Buffer[], number])[] = [
  ["7.3.1 without a code", [close()], 1005],
  ["7.1.1 after a message", [frame(2, "x"), close(1000)], 1000],
  ["7.1.3 a ping after it", [close(1000), frame(9, "x")], 1000],
  ["7.1.5 a message after it", [close(1000), frame(2, "x")], 1000],
  ["7.1.2 twice", [close(1000), close(1000)], 1000],
  ["7.3.5 with the longest reason", [close(1000, "x".repeat(123))], 1000],
  ...[1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999].map(
    (code) => [`7.7 with ${code}`, [close(code)], code] as const,
  ),
];

test.for(closings)("a close %s is answered", async ([, sends, code]) => {
  const ws = await open();
  for (const bytes of sends) ws.send(bytes);
  expect(await ws.closeCode()).toBe(code);
  // And then the server ends the connection.
  while ((await ws.next()) !== null);
});

test("1.2 binary messages of every length are understood, also byte by byte", async () => {
  const ws = await open();
  for (const length of [1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000]) {
    const payload = randomBytes(length);
    ws.send(frame(2, payload));
    let back = Buffer.alloc(0);
    while (back.length < length) back = Buffer.concat([back, await ws.message()]);
    expect(back.equals(payload)).toBe(true);
  }
  const slow = frame(2, "slowly");
  for (const byte of slow) {
    ws.send(Uint8Array.of(byte));
    await sleep(1);
  }
  expect((await ws.message()).toString()).toBe("slowly");
  ws.destroy();
});

test("2 pings are answered with their own bytes, also between fragments; pongs are not", async () => {
  const ws = await open();
  const answers: string[] = [];
  const nextPong = async (): Promise<void> => {
    const got = await ws.next();
    if (got?.opcode === 10) answers.push(got.payload.toString("latin1"));
  };
  ws.send(frame(9));
  await nextPong();
  ws.send(frame(9, Buffer.alloc(125, 0xfe)));
  await nextPong();
  ws.send(frame(10, "unsolicited"));
  ws.send(frame(2, "a", { fin: false }));
  ws.send(frame(9, "between"));
  ws.send(frame(0, "b"));
  await nextPong();
  expect((await ws.message()).toString()).toBe("ab");
  for (let i = 0; i < 10; i++) ws.send(frame(9, `ping ${i}`));
  for (let i = 0; i < 10; i++) await nextPong();
  expect(answers).toEqual([
    "",
    Buffer.alloc(125, 0xfe).toString("latin1"),
    "between",
    ...Array.from({ length: 10 }, (_, i) => `ping ${i}`),
  ]);
  ws.destroy();
});

test("5.6 fragments within the bound are put together, empty ones too", async () => {
  const ws = await open();
  for (let i = 0; i < WEBSOCKET_FRAGMENTS_MAX - 1; i++) {
    ws.send(frame(i === 0 ? 2 : 0, i % 2 === 0 ? "x" : "", { fin: false }));
  }
  ws.send(frame(0, "y"));
  expect((await ws.message()).toString()).toBe(`${"x".repeat(WEBSOCKET_FRAGMENTS_MAX / 2)}y`);
  ws.destroy();
});

test("12 compression is not agreed to, whatever is offered", async () => {
  const offers =
    "permessage-deflate; client_max_window_bits, permessage-deflate, x-webkit-deflate-frame";
  const ws = await RawWebSocket.open(listener.https.port, {
    headers: [`Sec-WebSocket-Extensions: ${offers}`],
  });
  // A bomb of 1 MiB of zeros, as one who believes in it sends it.
  const { deflateRawSync } = await import("node:zlib");
  ws.send(frame(2, deflateRawSync(Buffer.alloc(1024 * 1024)), { reserved: 4 }));
  expect(await ws.closeCode()).toBe(1002);
  ws.destroy();
});

test("10 a connection that is dropped in the middle of a message ends the stream", async () => {
  const ws = await open();
  ws.send(frame(2, randomBytes(1_000)).subarray(0, 500));
  ws.destroy();
  expect(await ws.closeCode()).toBe(ABRUPT);
  const next = await open();
  next.send(frame(2, "still there"));
  expect((await next.message()).toString()).toBe("still there");
  next.destroy();
});
