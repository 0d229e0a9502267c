/**
 * Connections to a relay at the level where abuse happens: TCP, TLS, bytes of HTTP and of WebSocket.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { createConnection, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";

import { encodeFrame, type Frame } from "../../relay/protocol/frame.ts";

/** Of 127.0.0.0/8: another /24 for each second byte. */
export function loopback(network: number, host = 1): string {
  return `127.0.${network}.${host}`;
}

export interface Ended {
  /** Everything that came before. */
  readonly received: Buffer;
  readonly afterMs: number;
}

/** Collects what comes until the connection is over; whatever way that is. */
export function ended(socket: Socket): Promise<Ended> {
  const pieces: Buffer[] = [];
  const startedAtMs = performance.now();
  socket.on("data", (piece: Buffer) => pieces.push(piece));
  socket.on("error", () => {});
  return new Promise((resolve) => {
    const end = (): void =>
      resolve({ received: Buffer.concat(pieces), afterMs: performance.now() - startedAtMs });
    if (socket.closed) end();
    else socket.once("close", end);
  });
}

export function tcp(port: number, localAddress = loopback(1)): Socket {
  const socket = createConnection({ port, host: "127.0.0.1", localAddress });
  socket.on("error", () => {});
  return socket;
}

/** The connection below a TLS socket, which alone can be reset. */
const below = new WeakMap<Socket, Socket>();

export function tlsSocket(port: number, localAddress = loopback(1)): TLSSocket {
  const connection = tcp(port, localAddress);
  const socket = connectTls({
    socket: connection,
    rejectUnauthorized: false,
    ALPNProtocols: ["http/1.1"],
  });
  below.set(socket, connection);
  socket.on("error", () => {});
  return socket;
}

export function reset(socket: Socket): void {
  (below.get(socket) ?? socket).resetAndDestroy();
}

/** Resolves with whether TLS came up. */
export function secured(socket: TLSSocket): Promise<boolean> {
  return new Promise((resolve) => {
    socket.once("secureConnect", () => resolve(true));
    socket.once("close", () => resolve(false));
  });
}

/** Sends these bytes over TLS and reads to the end of the connection. */
export async function exchange(
  port: number,
  says: string | Buffer,
  localAddress?: string,
): Promise<string> {
  const socket = tlsSocket(port, localAddress);
  const over = ended(socket);
  if (await secured(socket)) socket.write(says);
  return (await over).received.toString("latin1");
}

/** A WebSocket whose every byte is ours. */
export class RawWebSocket {
  readonly socket: TLSSocket;
  #buffer: Buffer = Buffer.alloc(0);
  #wake = (): void => {};
  #closed = false;

  private constructor(socket: TLSSocket, head: Buffer) {
    this.socket = socket;
    this.#buffer = head;
    socket.on("data", (piece: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, piece]);
      this.#wake();
    });
    socket.on("close", () => {
      this.#closed = true;
      this.#wake();
    });
  }

  static async open(
    port: number,
    { localAddress, headers = [] }: { localAddress?: string; headers?: readonly string[] } = {},
  ): Promise<RawWebSocket> {
    const socket = tlsSocket(port, localAddress);
    if (!(await secured(socket))) throw new Error("no TLS");
    socket.write(
      [
        "GET /link HTTP/1.1",
        "Host: relay",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
        ...headers,
        "",
        "",
      ].join("\r\n"),
    );
    let text: Buffer = Buffer.alloc(0);
    for (;;) {
      const piece = await new Promise<Buffer | null>((resolve) => {
        socket.once("data", resolve);
        socket.once("close", () => resolve(null));
      });
      socket.removeAllListeners("data");
      if (piece === null) throw new Error(`no upgrade: ${text.toString("latin1")}`);
      text = Buffer.concat([text, piece]);
      const end = text.indexOf("\r\n\r\n");
      if (end < 0) continue;
      if (!text.toString("latin1").startsWith("HTTP/1.1 101")) {
        throw new Error(`no upgrade: ${text.toString("latin1")}`);
      }
      return new RawWebSocket(socket, text.subarray(end + 4));
    }
  }

  send(bytes: Uint8Array): void {
    if (!this.socket.destroyed) this.socket.write(bytes);
  }

  /** A frame of the relay protocol in one message. */
  sendFrame(frame: Frame): void {
    this.send(wsFrame({ opcode: 2, payload: encodeFrame(frame) }));
  }

  /** The next frame of the server's; null once the connection is over. */
  async next(): Promise<{ opcode: number; fin: boolean; payload: Buffer } | null> {
    for (;;) {
      const parsed = this.#parse();
      if (parsed !== undefined) return parsed;
      if (this.#closed) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** The code that the server closes with; 1006 if it drops the connection without one. */
  async closeCode(): Promise<number> {
    for (;;) {
      const frame = await this.next();
      if (frame === null) return 1006;
      if (frame.opcode === 8) {
        return frame.payload.length >= 2 ? frame.payload.readUInt16BE(0) : 1005;
      }
    }
  }

  /** The payload of the next message that is no control frame. */
  async message(): Promise<Buffer> {
    for (;;) {
      const frame = await this.next();
      if (frame === null) throw new Error("the connection is over");
      if (frame.opcode === 8) throw new Error(`closed: ${frame.payload.toString("hex")}`);
      if (frame.opcode === 2) return frame.payload;
    }
  }

  destroy(): void {
    this.socket.destroy();
  }

  #parse(): { opcode: number; fin: boolean; payload: Buffer } | undefined {
    const bytes = this.#buffer;
    if (bytes.length < 2) return undefined;
    let length = (bytes[1] ?? 0) & 0x7f;
    let at = 2;
    if (length === 126) {
      if (bytes.length < 4) return undefined;
      length = bytes.readUInt16BE(2);
      at = 4;
    } else if (length === 127) {
      if (bytes.length < 10) return undefined;
      length = Number(bytes.readBigUInt64BE(2));
      at = 10;
    }
    if (bytes.length < at + length) return undefined;
    this.#buffer = bytes.subarray(at + length);
    const first = bytes[0] ?? 0;
    return {
      opcode: first & 15,
      fin: (first & 128) !== 0,
      payload: bytes.subarray(at, at + length),
    };
  }
}

export interface WsFrame {
  readonly opcode: number;
  readonly payload?: Uint8Array | string;
  readonly fin?: boolean;
  readonly reserved?: number;
  readonly masked?: boolean;
  /** What the header says, whatever follows. */
  readonly length?: bigint;
}

export function wsFrame(frame: WsFrame): Buffer {
  const { opcode, fin = true, reserved = 0, masked = true } = frame;
  const payload = Buffer.from(frame.payload ?? "");
  const length = frame.length ?? BigInt(payload.length);
  const first = (fin ? 0x80 : 0) | (reserved << 4) | opcode;
  const mask = masked ? 0x80 : 0;
  let header: Buffer;
  if (length < 126n) header = Buffer.from([first, mask | Number(length)]);
  else if (length < 65_536n) {
    header = Buffer.from([first, mask | 126, 0, 0]);
    header.writeUInt16BE(Number(length), 2);
  } else {
    header = Buffer.from([first, mask | 127, 0, 0, 0, 0, 0, 0, 0, 0]);
    header.writeBigUInt64BE(length, 2);
  }
  if (!masked) return Buffer.concat([header, payload]);
  const key = randomBytes(4);
  const body = Buffer.from(payload);
  for (let i = 0; i < body.length; i++) body[i] = (body[i] ?? 0) ^ (key[i & 3] ?? 0);
  return Buffer.concat([header, key, body]);
}
