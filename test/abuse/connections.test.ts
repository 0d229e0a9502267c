/** Cases 1 to 8 of the list of what a relay must survive: connections. */
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { ProtocolErrorNumber } from "../../relay/protocol/errors.ts";
import { encodeFrame } from "../../relay/protocol/frame.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../relay/protocol/version.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import {
  ended,
  exchange,
  loopback,
  RawWebSocket,
  secured,
  tcp,
  tlsSocket,
  wsFrame,
} from "./raw.ts";
import { Scene } from "./scene.ts";

const HANDSHAKE_MS = 1_500;
const MIB = 1024 * 1024;

let scene: Scene;
let key: string;
let port: number;

beforeAll(async () => {
  if (!requireTool("postgres").available) return;
  scene = await Scene.open({
    limits: {
      handshakeMs: HANDSHAKE_MS,
      handshakesPerPrefix: 64,
      acceptsPerPrefix: 100,
      acceptBurstPerPrefix: 300,
      pendingSessions: 50,
      requests: 2_000,
      requestBurst: 2_000,
    },
  });
  key = await scene.key("abuser");
  ({ port } = scene.relay);
});
afterAll(() => scene?.[Symbol.asyncDispose]());

/** Goes on until the signal, this many at a time. */
async function atOnce(
  count: number,
  signal: AbortSignal,
  work: (i: number) => Promise<void>,
): Promise<void> {
  await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      while (!signal.aborted) await work(i);
    }),
  );
}

const refusedStatus = (answer: string): number =>
  Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0);

describe("connections", () => {
  test("(1) a handshake that trickles has one deadline for all of it, in TCP, TLS and HTTP", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const request = `GET /link HTTP/1.1\r\nHost: relay\r\nX-Long: ${"x".repeat(4_000)}`;
    const hello = Buffer.from("16030102000100", "hex");
    const kept: number[] = [];
    const trickle = async (socket: Socket, bytes: Buffer, signal: AbortSignal): Promise<void> => {
      const over = ended(socket);
      for (const byte of bytes) {
        if (socket.destroyed || signal.aborted) break;
        socket.write(Uint8Array.of(byte));
        await Promise.race([sleep(100), over]);
      }
      if (!signal.aborted) kept.push((await over).afterMs);
      socket.destroy();
    };
    await scene.during((signal) =>
      atOnce(30, signal, async (i) => {
        const address = loopback(10 + (i % 3));
        if (i % 3 === 0) return await trickle(tcp(port, address), hello, signal);
        const socket = tlsSocket(port, address);
        if (!(await secured(socket))) return await sleep(50);
        await trickle(socket, Buffer.from(request), signal);
      }),
    );
    expect(kept.length).toBeGreaterThan(10);
    // By what was configured; a deadline per read would have kept them for as long as bytes come.
    for (const ms of kept) expect(ms).toBeLessThan(HANDSHAKE_MS * 2.5);
  });

  test("(1) a stream whose first frame trickles ends with the same deadline", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const frame = encodeFrame({
      kind: "hello",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
      features: 0,
      role: "seeder",
      sessionId: randomBytes(16),
      peerKey: randomBytes(32),
      token: randomBytes(32),
    });
    const ws = await RawWebSocket.open(port, { localAddress: loopback(11) });
    const startedAtMs = performance.now();
    const closed = ws.closeCode();
    let over = false;
    void closed.then(() => {
      over = true;
    });
    for (const byte of frame) {
      if (over) break;
      ws.send(wsFrame({ opcode: 2, payload: Uint8Array.of(byte) }));
      await sleep(100);
    }
    await closed;
    expect(performance.now() - startedAtMs).toBeLessThan(HANDSHAKE_MS * 2.5);
  });

  test("(2) a flood from one network is dropped before TLS, and others get in", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    let dropped = 0;
    let others = 0;
    await scene.during(async (signal) => {
      await Promise.all([
        atOnce(40, signal, async (i) => {
          const socket = tlsSocket(port, loopback(20, 1 + i));
          if (!(await secured(socket))) dropped++;
          socket.destroy();
        }),
        atOnce(1, signal, async () => {
          const answer = await exchange(
            port,
            "GET /version HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n",
            loopback(21),
          );
          expect(refusedStatus(answer)).toBe(200);
          others++;
          await sleep(100);
        }),
      ]);
    });
    expect(dropped).toBeGreaterThan(100);
    expect(others).toBeGreaterThan(5);
    expect(await scene.throttled("acceptsPerPrefix")).toBeGreaterThan(100);
  });

  test("(2) connections that say nothing take a bounded number of handshakes", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const open: Socket[] = [];
    await scene.during(async (signal) => {
      while (!signal.aborted) {
        if (open.length < 400) open.push(tcp(port, loopback(22, 1 + (open.length % 200))));
        await sleep(2);
      }
    });
    expect(await scene.throttled("handshakesPerPrefix")).toBeGreaterThan(50);
    for (const socket of open) socket.destroy();
  });

  test("(3) sessions that nobody joins are bounded by project", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    let [made, refused] = [0, 0];
    await scene.during((signal) =>
      atOnce(6, signal, async () => {
        const { status, body, headers } = await scene.ask(key, "POST", "/v1/sessions", {});
        if (status === 201) made++;
        else {
          refused++;
          expect([status, body.code, body.limitName]).toEqual([
            429,
            "LIMIT_EXCEEDED",
            "pendingSessions",
          ]);
          expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
          await sleep(5);
        }
      }),
    );
    expect(made).toBe(50);
    expect(refused).toBeGreaterThan(20);
    const { body } = await scene.ask(key, "GET", "/v1/limits");
    const pending = body.limits.find(({ name }: { name: string }) => name === "pendingSessions");
    expect(pending).toMatchObject({ bound: 50, used: 50 });
    // Others may.
    expect((await scene.ask(await scene.key("c"), "POST", "/v1/sessions", {})).status).toBe(201);
  });

  test("(5) headers without end, bad upgrades and smuggled requests are refused", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const host = "Host: relay\r\n";
    const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    const key16 = `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n`;
    const cases: readonly (readonly [string, string, readonly number[]])[] = [
      ["one header of 1 MiB", `GET / HTTP/1.1\r\n${host}X: ${"x".repeat(MIB)}\r\n\r\n`, [431, 0]],
      ["10,000 headers", `GET / HTTP/1.1\r\n${host}${"X: y\r\n".repeat(10_000)}\r\n`, [431, 0]],
      [
        "a length and chunks",
        `POST /v1/sessions HTTP/1.1\r\n${host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n${host}\r\n`,
        [400],
      ],
      [
        "two lengths",
        `POST /v1/sessions HTTP/1.1\r\n${host}Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd`,
        [400],
      ],
      [
        "a length that is none",
        `POST /v1/sessions HTTP/1.1\r\n${host}Content-Length: -1\r\n\r\n`,
        [400],
      ],
      ["a bare line feed", `GET / HTTP/1.1\nHost: relay\n\n`, [400]],
      ["a space before the colon", `GET / HTTP/1.1\r\nHost : relay\r\n\r\n`, [400]],
      ["no host", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", [400]],
      ["NUL in a header", `GET / HTTP/1.1\r\n${host}X: a\0b\r\n\r\n`, [400]],
      ["HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 0, 505]],
      [
        "an upgrade without a key",
        `GET /link HTTP/1.1\r\n${host}${upgrade}Sec-WebSocket-Version: 13\r\n\r\n`,
        [400],
      ],
      [
        "an upgrade of version 7",
        `GET /link HTTP/1.1\r\n${host}${upgrade}${key16}Sec-WebSocket-Version: 7\r\n\r\n`,
        [400, 426],
      ],
      [
        "an upgrade elsewhere",
        `GET /v1/sessions HTTP/1.1\r\n${host}${upgrade}${key16}Sec-WebSocket-Version: 13\r\n\r\n`,
        [404],
      ],
      [
        "an upgrade to h2c",
        `GET /link HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n`,
        [400, 404, 426],
      ],
      [
        "a tunnel",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
        [400, 404, 405, 0],
      ],
      [
        "an address for a proxy",
        "GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n",
        [200, 400, 404],
      ],
    ];
    for (const [what, says, statuses] of cases) {
      const answer = await exchange(port, says, loopback(30));
      expect(statuses, `${what}: ${answer.slice(0, 200)}`).toContain(refusedStatus(answer));
      // One answer at most: nothing that came behind was taken for a request of its own.
      expect(answer.match(/HTTP\/1\.1 \d{3}/g)?.length ?? 0, what).toBeLessThanOrEqual(1);
    }
    await scene.during((signal) =>
      atOnce(8, signal, async (i) => {
        const [, says = ""] = cases[Math.floor(Math.random() * cases.length)] ?? [];
        await exchange(port, says, loopback(31 + i));
      }),
    );
  });

  test("(5) HTTP/2 is not spoken, so there are no streams to reset rapidly", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const { connect } = await import("node:tls");
    const socket = connect({
      port,
      host: "127.0.0.1",
      rejectUnauthorized: false,
      ALPNProtocols: ["h2"],
    });
    socket.on("error", () => {});
    await secured(socket);
    expect(socket.alpnProtocol === "h2").toBe(false);
    socket.destroy();
  });

  test("(6) bombs of fragments, of pings and of unfinished messages are bounded", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const fragment = wsFrame({ opcode: 0, fin: false, payload: "" });
    const fragments = Buffer.concat(Array.from({ length: 1_000 }, () => fragment));
    const pings = Buffer.concat(
      Array.from({ length: 2_000 }, () => wsFrame({ opcode: 9, payload: randomBytes(125) })),
    );
    let closed = 0;
    await scene.during((signal) =>
      atOnce(12, signal, async (i) => {
        let ws: RawWebSocket;
        try {
          ws = await RawWebSocket.open(port, { localAddress: loopback(50 + i) });
        } catch {
          // The rate of connections is a bound as well.
          return await sleep(50);
        }
        const code = ws.closeCode();
        if (i % 3 === 0) {
          ws.send(wsFrame({ opcode: 2, fin: false, payload: "x" }));
          ws.send(fragments);
        } else if (i % 3 === 1) {
          ws.send(pings);
        } else {
          ws.send(wsFrame({ opcode: 2, fin: false, payload: randomBytes(200_000) }));
        }
        const found = await Promise.race([code, sleep(2 * HANDSHAKE_MS).then(() => -1)]);
        if (i % 3 === 0) expect([1002, 1008, 1006]).toContain(found);
        if (found !== -1) closed++;
        ws.destroy();
      }),
    );
    expect(closed).toBeGreaterThan(10);
  });

  test("(7) frames of no length, of 2^32-1, cut off, unknown and of other versions", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const header = (length: number, kind: number): Buffer => {
      const bytes = Buffer.alloc(5);
      bytes.writeUInt32LE(length, 0);
      bytes[4] = kind;
      return bytes;
    };
    const base = 4000;
    const refusals: readonly (readonly [string, Buffer, readonly number[]])[] = [
      ["no length", header(0, 1), [base + ProtocolErrorNumber.FRAME_MALFORMED]],
      ["2^32-1", header(0xffff_ffff, 1), [base + ProtocolErrorNumber.FRAME_TOO_LARGE]],
      ["above the first frame's", header(513, 1), [base + ProtocolErrorNumber.FRAME_TOO_LARGE]],
      [
        "cut off",
        header(87, 1).subarray(0, 3),
        [base + ProtocolErrorNumber.DEADLINE_EXCEEDED, 1006],
      ],
      [
        "from the relay",
        Buffer.from(encodeFrame({ kind: "pong", nonce: 1 })),
        [base + ProtocolErrorNumber.FRAME_UNEXPECTED],
      ],
      [
        "another version",
        Buffer.concat([header(2, 1), Buffer.from([99, 0])]),
        [
          base + ProtocolErrorNumber.VERSION_UNSUPPORTED,
          base + ProtocolErrorNumber.FRAME_MALFORMED,
        ],
      ],
      [
        "not begun with a hello",
        Buffer.from(encodeFrame({ kind: "ping", nonce: 1 })),
        [base + ProtocolErrorNumber.FRAME_UNEXPECTED],
      ],
    ];
    for (const [what, bytes, codes] of refusals) {
      const ws = await RawWebSocket.open(port, { localAddress: loopback(70) });
      ws.send(wsFrame({ opcode: 2, payload: bytes }));
      // It says why in a frame of its own, and closes in order or by the code.
      const said: Buffer[] = [];
      let code = 1006;
      for (let frame = await ws.next(); frame !== null; frame = await ws.next()) {
        if (frame.opcode === 2) said.push(frame.payload);
        if (frame.opcode === 8) code = frame.payload.readUInt16BE(0);
      }
      const message = Buffer.concat(said);
      const told = message[4] === 0x47 ? base + message.readUInt16LE(5) : 0;
      expect(codes.includes(code) || codes.includes(told), `${what}: ${code}, ${told}`).toBe(true);
    }
    await scene.during((signal) =>
      atOnce(8, signal, async (i) => {
        const ws = await RawWebSocket.open(port, { localAddress: loopback(71 + i) }).catch(
          () => undefined,
        );
        if (ws === undefined) return await sleep(50);
        ws.send(wsFrame({ opcode: 2, payload: randomBytes(1 + Math.floor(Math.random() * 600)) }));
        await Promise.race([ws.closeCode(), sleep(200)]);
        ws.destroy();
      }),
    );
  });

  test("(8) datagrams that nobody asked for get no answer, and no answer is larger than its question", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const discovery = await scene.ask("", "POST", "/v1/discovery");
    expect(discovery.status).toBe(200);
    const [udp = 0] = discovery.body.ports as number[];
    const token = Buffer.from(String(discovery.body.token), "base64url");
    const socket = createSocket("udp4");
    await new Promise<void>((resolve) => socket.bind(0, loopback(90), resolve));
    const answers: number[] = [];
    // QUIC answers a version that it does not know with those that it does: what RFC 9000 asks for.
    let quicBytes = 0;
    let sentBytes = 0;
    socket.on("message", (bytes, from) => {
      if (from.port === port) quicBytes += bytes.length;
      else answers.push(bytes.length);
    });
    const question = (bytes: Buffer): Buffer =>
      Buffer.concat([Buffer.from("0c6d667101", "hex"), randomBytes(12), bytes, Buffer.alloc(95)]);
    const stun = Buffer.concat([Buffer.from("000100002112a442", "hex"), randomBytes(12)]);
    let sent = 0;
    await scene.during(async (signal) => {
      while (!signal.aborted) {
        for (let i = 0; i < 200; i++) {
          for (const bytes of [
            Buffer.from([1]),
            Buffer.alloc(0),
            stun,
            question(randomBytes(16)),
            question(token).subarray(0, 127),
            Buffer.concat([question(token), Buffer.from([0])]),
            randomBytes(1_200),
            Buffer.from("c0000000010800000000000000000000", "hex"),
          ]) {
            socket.send(bytes, udp, "127.0.0.1");
            socket.send(bytes, port, "127.0.0.1");
            sent += 2;
            sentBytes += bytes.length;
          }
        }
        await sleep(20);
      }
    });
    expect(sent).toBeGreaterThan(5_000);
    expect(answers).toEqual([]);
    expect(quicBytes).toBeLessThanOrEqual(sentBytes);
    // The good one is answered, smaller than it asked.
    for (let i = 0; i < 20 && answers.length === 0; i++) {
      socket.send(question(token), udp, "127.0.0.1");
      await sleep(100);
    }
    expect(answers.length).toBeGreaterThan(0);
    expect(Math.max(...answers)).toBeLessThan(128);
    socket.close();
  });
});
