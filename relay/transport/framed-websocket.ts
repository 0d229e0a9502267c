/**
 * A server's `ws` WebSocket that passes large messages on with one copy.
 *
 * A message comes in several reads of the socket and has to be put together once, which `ws` does. Here that is done
 * into memory that has room for a frame's header before the payload: what is sent on as it came gets its header
 * written in front of it and goes to the socket in one piece. `ws` sends two, which TLS puts together by another copy.
 * The memory is used again, so that the relay does not make garbage of all that passes it.
 *
 * All else is left to `ws`: every frame is parsed, unmasked and checked by it, and smaller messages, control frames and
 * the close are its own.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import type { Duplex } from "node:stream";

import type { WebSocket } from "ws";

import type { WebSocketLike } from "../protocol/websocket-stream.ts";
import { FRAME_BUFFERS_KEPT_MAX } from "./limits.ts";

/** The header of a server's frame is at most so long: two bytes, and a length of eight. */
const HEADER_BYTES = 10;
/** Smaller messages are left to `ws`: copying them is cheap. */
const FRAMED_BYTES_MIN = 8 * 1024;
/** Our peers' writes; buffers for them are kept and used again. */
const KEPT_BYTES = 64 * 1024;
/** A piece that takes less of a kept buffer than this gets one of its own: it may be held for long. */
const KEPT_BYTES_MIN = 40 * 1024;

const BINARY_FRAME = 0x82;
const LENGTH_16 = 126;
const LENGTH_64 = 127;

/** What this needs to know of the receiver of `ws`, which is no part of its API. */
interface Receiver {
  _state: number;
  _opcode: number;
  _payloadLength: number;
  _buffers: Buffer[];
  _bufferedBytes: number;
  consume(bytes: number): Buffer;
}
const GET_DATA = 4;
const OPCODE_BINARY = 2;

/** Memory whose message was not sent yet, with how long that is. */
const framed = new WeakMap<ArrayBufferLike, number>();
const kept: ArrayBuffer[] = [];

/** On other runtimes, and where `ws` is not as expected, the same socket. */
export function framedWebSocket(websocket: WebSocket): WebSocketLike {
  if ("Deno" in globalThis) return websocket;
  const receiver: unknown = Reflect.get(websocket, "_receiver");
  const socket: unknown = Reflect.get(websocket, "_socket");
  if (!isReceiver(receiver) || !isSocket(socket)) return websocket;
  receiveFramed(receiver);
  return new FramedWebSocket(websocket, socket);
}

function isReceiver(value: unknown): value is Receiver {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof Reflect.get(value, "consume") === "function" &&
    Array.isArray(Reflect.get(value, "_buffers")) &&
    ["_state", "_opcode", "_payloadLength", "_bufferedBytes"].every(
      (name) => typeof Reflect.get(value, name) === "number",
    )
  );
}

function isSocket(value: unknown): value is Duplex {
  return (
    typeof value === "object" && value !== null && typeof Reflect.get(value, "write") === "function"
  );
}

function receiveFramed(receiver: Receiver): void {
  const consume = receiver.consume.bind(receiver);
  receiver.consume = (bytes) => {
    const isWhole =
      receiver._state === GET_DATA &&
      receiver._opcode === OPCODE_BINARY &&
      bytes === receiver._payloadLength &&
      bytes >= FRAMED_BYTES_MIN;
    if (!isWhole) return consume(bytes);
    const memory =
      bytes <= KEPT_BYTES && bytes >= KEPT_BYTES_MIN
        ? (kept.pop() ?? new ArrayBuffer(HEADER_BYTES + KEPT_BYTES))
        : Buffer.allocUnsafeSlow(HEADER_BYTES + bytes).buffer;
    const message = Buffer.from(memory, HEADER_BYTES, bytes);
    for (let at = 0; at < bytes;) {
      const [piece] = receiver._buffers;
      if (piece === undefined) throw new RangeError(`a message of ${bytes} bytes ends at ${at}`);
      const part = Math.min(piece.length, bytes - at);
      message.set(part === piece.length ? piece : piece.subarray(0, part), at);
      if (part === piece.length) receiver._buffers.shift();
      else receiver._buffers[0] = piece.subarray(part);
      receiver._bufferedBytes -= part;
      at += part;
    }
    framed.set(memory, bytes);
    return message;
  };
}

class FramedWebSocket implements WebSocketLike {
  readonly #websocket: WebSocket;
  readonly #socket: Duplex;

  constructor(websocket: WebSocket, socket: Duplex) {
    this.#websocket = websocket;
    this.#socket = socket;
  }

  get bufferedAmount(): number {
    return this.#websocket.bufferedAmount;
  }

  send(
    data: Uint8Array,
    options: { binary: boolean; compress: boolean },
    done: (error?: Error | null) => void,
  ): void {
    const memory = data.buffer;
    const isWhole = data.byteOffset === HEADER_BYTES && framed.get(memory) === data.length;
    if (!isWhole || this.#websocket.readyState !== this.#websocket.OPEN) {
      this.#websocket.send(data, options, done);
      return;
    }
    // Only once: it is the stream's now, and nobody else may have it sent.
    framed.delete(memory);
    const header = writeHeader(memory, data.length);
    const frame = Buffer.from(memory as ArrayBuffer, HEADER_BYTES - header, header + data.length);
    this.#socket.write(frame, (error) => {
      const fits = memory.byteLength === HEADER_BYTES + KEPT_BYTES;
      // After an error the socket may still hold it.
      if (!error && fits && kept.length < FRAME_BUFFERS_KEPT_MAX) kept.push(memory as ArrayBuffer);
      done(error);
    });
  }

  pause(): void {
    this.#websocket.pause();
  }

  resume(): void {
    this.#websocket.resume();
  }

  close(code: number, reason: string): void {
    this.#websocket.close(code, reason);
  }

  terminate(): void {
    this.#websocket.terminate();
  }

  on(event: "message", listener: (data: unknown, isBinary: boolean) => void): unknown;
  on(event: "close", listener: (code: number, reason: Uint8Array) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: string, listener: (...values: never[]) => void): unknown {
    return this.#websocket.on(event, listener as (...values: unknown[]) => void);
  }
}

/** Ends where the payload begins. @returns Its length. */
function writeHeader(memory: ArrayBufferLike, bytes: number): number {
  const view = new DataView(memory, 0, HEADER_BYTES);
  if (bytes < 65_536) {
    view.setUint8(HEADER_BYTES - 4, BINARY_FRAME);
    view.setUint8(HEADER_BYTES - 3, LENGTH_16);
    view.setUint16(HEADER_BYTES - 2, bytes);
    return 4;
  }
  view.setUint8(0, BINARY_FRAME);
  view.setUint8(1, LENGTH_64);
  view.setBigUint64(2, BigInt(bytes));
  return HEADER_BYTES;
}
