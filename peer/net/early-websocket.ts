/**
 * Bytes that are sent together with the request that opens a WebSocket, rather than a round trip later.
 *
 * Both ends are ours: the relay finds them behind the request and reads them as the first messages. RFC 6455 (4.1)
 * has a client wait for the answer; what is between here and there only passes bytes on, and nginx and HAProxy do.
 * Where the first stream of a link gets no answer this way, its next ones wait.
 *
 * @module
 */
import { randomFillSync } from "node:crypto";
import type { ClientRequest } from "node:http";
import type { Socket } from "node:net";
import type { ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import { PendingStream } from "./pending-stream.ts";

/** What one stream sends ahead; the rest waits until it is open. */
const EARLY_BYTES_MAX = 64 * 1024;

/** Deno's HTTP client takes the connection over: nothing can be sent behind its request. */
export const canSendEarly = !("Deno" in globalThis);

/** Writes behind the request once that has left. */
export class EarlySender {
  readonly #socket: Socket;
  #waiting: Uint8Array[] | null = [];
  #bytes = 0;

  constructor(socket: Socket, request: ClientRequest) {
    this.#socket = socket;
    request.once("finish", () => {
      const waiting = this.#waiting ?? [];
      this.#waiting = null;
      for (const frame of waiting) socket.write(frame);
    });
  }

  /** @returns `false` if that is too much to be sent ahead: nothing of it was. */
  send(bytes: Uint8Array): boolean {
    if (this.#bytes + bytes.length > EARLY_BYTES_MAX) return false;
    this.#bytes += bytes.length;
    if (bytes.length === 0) return true;
    const frame = clientFrame(bytes);
    if (this.#waiting === null) this.#socket.write(frame);
    else this.#waiting.push(frame);
    return true;
  }
}

/** A stream whose opening was asked for, and that takes its first bytes meanwhile. */
export class EarlyStream implements ByteStream {
  readonly #stream: PendingStream;
  /** As long as the stream is not open and nothing waits for it. */
  #early: EarlySender | undefined;

  constructor(opening: Promise<ByteStream>, sender: EarlySender) {
    this.#early = sender;
    this.#stream = new PendingStream(
      opening.then((stream) => {
        this.#early = undefined;
        return stream;
      }),
    );
  }

  get closed(): Promise<CloseInfo> {
    return this.#stream.closed;
  }

  read(): Promise<Uint8Array | null> {
    return this.#stream.read();
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#early?.send(bytes) === true) return;
    // What comes after this one goes behind it.
    this.#early = undefined;
    await this.#stream.write(bytes);
  }

  end(): Promise<void> {
    this.#early = undefined;
    return this.#stream.end();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    this.#early = undefined;
    this.#stream.abort(code, reason);
  }
}

/** One binary message of a client, masked as RFC 6455 (5.2, 5.3) has it. */
export function clientFrame(bytes: Uint8Array): Uint8Array {
  const { length } = bytes;
  const extended = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const start = 2 + extended + 4;
  const frame = new Uint8Array(start + length);
  const view = new DataView(frame.buffer);
  frame[0] = 0x82;
  frame[1] = 0x80 | (extended === 0 ? length : extended === 2 ? 126 : 127);
  if (extended === 2) view.setUint16(2, length);
  if (extended === 8) view.setBigUint64(2, BigInt(length));
  const mask = frame.subarray(2 + extended, start);
  randomFillSync(mask);
  for (let i = 0; i < length; i++) frame[start + i] = (bytes[i] ?? 0) ^ (mask[i & 3] ?? 0);
  return frame;
}
