/**
 * A byte stream over one WebSocket, for the `ws` package on either side.
 *
 * Bytes go as binary messages of at most `WEBSOCKET_MESSAGE_BYTES_MAX`. WebSocket has no half-close, so an
 * empty message says that its sender writes no more; when both have said it, the connection closes with
 * 1000. An abort closes with 4000 plus the error's number.
 *
 * @module
 */
import { ByteQueue, ownBytes, PIECE_COST_BYTES, SendWindow, StreamLife } from "./byte-queue.ts";
import { ProtocolErrorNumber, protocolErrorCode, type ProtocolErrorCode } from "./errors.ts";
import { STREAM_BUFFER_BYTES_MAX } from "./limits.ts";
import type { BufferBound, ByteStream } from "./stream.ts";

/** A larger message from the other side is refused. */
export const WEBSOCKET_MESSAGE_BYTES_MAX = 256 * 1024;
/** Larger writes are split: the relay passes a message on only when all of it is there. */
const WRITE_BYTES = 64 * 1024;
/** The same for the first bytes, which a new connection carries a few at a time. */
const FIRST_WRITE_BYTES = 8 * 1024;
const FIRST_BYTES = 256 * 1024;
/** A message may come in this many frames; ours always come in one. */
export const WEBSOCKET_FRAGMENTS_MAX = 16;
/** An orderly close or an abort may take this long before the connection is cut. */
export const WEBSOCKET_CLOSE_DEADLINE_MS = 2_000;

const CLOSE_CODE_BASE = 4000;
const CLOSE_REASON_BYTES_MAX = 120;

/** What this needs of a `ws` WebSocket, which is open, and of which no message was taken yet. */
export interface WebSocketLike {
  readonly bufferedAmount: number;
  send(
    data: Uint8Array,
    options: { binary: boolean; compress: boolean },
    done: (error?: Error | null) => void,
  ): void;
  pause(): void;
  resume(): void;
  close(code: number, reason: string): void;
  terminate(): void;
  on(event: "message", listener: (data: unknown, isBinary: boolean) => void): unknown;
  on(event: "close", listener: (code: number, reason: Uint8Array) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
}

export function websocketToByteStream(socket: WebSocketLike): ByteStream {
  return new WebSocketByteStream(socket);
}

/** What a close code from the wire says. `OK` is an orderly end. */
export function websocketCloseMeaning(code: number): ProtocolErrorCode {
  // An abort is never an orderly end, whatever its code.
  if (code === CLOSE_CODE_BASE) return "LINK_CLOSED";
  if (code > CLOSE_CODE_BASE && code < CLOSE_CODE_BASE + 1000) {
    return protocolErrorCode(code - CLOSE_CODE_BASE);
  }
  switch (code) {
    case 1000:
      return "OK";
    case 1002:
    case 1003:
    case 1007:
    case 1008:
      return "FRAME_MALFORMED";
    case 1009:
      return "FRAME_TOO_LARGE";
    case 1011:
      return "INTERNAL";
    case 1012:
    case 1013:
      return "RELAY_UNAVAILABLE";
    default:
      return "LINK_CLOSED";
  }
}

class WebSocketByteStream implements ByteStream {
  readonly #socket: WebSocketLike;
  readonly #life = new StreamLife();
  readonly #received: ByteQueue;
  readonly #sending = new SendWindow(STREAM_BUFFER_BYTES_MAX);
  #bound: BufferBound = this.#sending.bound;
  #written = 0;
  #paused = false;
  #ending: Promise<void> | null = null;
  #gone = false;

  constructor(socket: WebSocketLike) {
    this.#socket = socket;
    this.#received = new ByteQueue(() => this.#resumeIfRead(), { join: true });
    socket.on("message", (data, isBinary) => this.#onMessage(data, isBinary));
    socket.on("error", (error) => this.#onError(error));
    socket.on("close", (code, reason) => this.#onClose(code, reason));
  }

  get closed(): ByteStream["closed"] {
    return this.#life.closed;
  }

  get queuedBytes(): number {
    return this.#received.bytes + this.#sending.bytes;
  }

  setBufferBound(bound: BufferBound): void {
    this.#bound = bound;
    this.#sending.bound = bound;
    this.#resumeIfRead();
  }

  read(): Promise<Uint8Array | null> {
    return this.#received.read();
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#life.error !== null || this.#ending !== null) throw this.#life.overError();
    for (let start = 0; start < bytes.length;) {
      const most = this.#written < FIRST_BYTES ? FIRST_WRITE_BYTES : WRITE_BYTES;
      const piece = bytes.subarray(start, start + most);
      this.#written += piece.length;
      start += piece.length;
      void this.#send(piece);
    }
    await this.#sending.room();
  }

  end(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    const error = this.#life.fail(code, reason);
    if (error === null) return;
    this.#drop(error);
    // A paused socket would not see the other side's answer to the close.
    this.#resume();
    this.#socket.close(CLOSE_CODE_BASE + ProtocolErrorNumber[code], shortReason(error.message));
    this.#terminateLater();
  }

  async #end(): Promise<void> {
    if (this.#life.error !== null) throw this.#life.error;
    await this.#send(new Uint8Array(0));
    this.#life.writeOver();
    this.#closeIfOver();
  }

  /** In call order: `ws` keeps it. The promise never rejects unless the stream is broken. */
  #send(bytes: Uint8Array): Promise<void> {
    this.#sending.add(bytes.length + PIECE_COST_BYTES);
    const sent = new Promise<void>((resolve, reject) => {
      this.#socket.send(bytes, { binary: true, compress: false }, (error) => {
        this.#sending.taken(bytes.length + PIECE_COST_BYTES);
        if (error === undefined || error === null) return resolve();
        this.#fail("LINK_CLOSED", `the connection was lost: ${error.message}`);
        reject(this.#life.overError());
      });
    });
    // Whoever wrote learns of the loss through the window; `end` awaits this one itself.
    sent.catch(() => {});
    return sent;
  }

  #onMessage(data: unknown, isBinary: boolean): void {
    if (this.#life.over) return;
    if (!isBinary || !(data instanceof Uint8Array)) {
      const error = this.#life.fail("FRAME_MALFORMED", "a text message on a stream of bytes");
      if (error === null) return;
      this.#drop(error);
      this.#socket.close(1003, "binary messages only");
      this.#terminateLater();
      return;
    }
    if (data.length === 0) {
      this.#received.end();
      this.#life.readOver();
      this.#closeIfOver();
      return;
    }
    this.#received.push(ownBytes(data));
    if (this.#received.heldBytes > this.#bound.bytes && !this.#paused) {
      this.#paused = true;
      this.#socket.pause();
    }
  }

  #resumeIfRead(): void {
    if (this.#received.heldBytes <= this.#bound.bytes / 2) this.#resume();
  }

  #resume(): void {
    if (!this.#paused || this.#gone) return;
    this.#paused = false;
    this.#socket.resume();
  }

  /** A violation of the WebSocket protocol (`ws` has sent the close code), or a socket error. */
  #onError(error: Error): void {
    const code = (error as { code?: unknown }).code;
    const tooLarge = code === "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH";
    const violation = typeof code === "string" && code.startsWith("WS_ERR_");
    this.#fail(
      tooLarge ? "FRAME_TOO_LARGE" : violation ? "FRAME_MALFORMED" : "LINK_CLOSED",
      error.message,
    );
    this.#terminateLater();
  }

  #onClose(code: number, reason: Uint8Array): void {
    this.#gone = true;
    const meaning = websocketCloseMeaning(code);
    if (meaning === "OK") {
      // The other side closed without a word on our direction: what it sent is whole, ours is cut.
      this.#received.end();
      this.#life.readOver();
      const error = this.#life.fail("LINK_CLOSED", "the other side closed the connection");
      if (error !== null) this.#sending.fail(error);
      return;
    }
    const text = code === 1006 ? "the connection was lost" : new TextDecoder().decode(reason);
    this.#fail(meaning, text === "" ? `closed with code ${code}` : text);
  }

  #closeIfOver(): void {
    if (!this.#life.over || this.#life.error !== null) return;
    this.#socket.close(1000, "");
    this.#terminateLater();
  }

  #fail(code: ProtocolErrorCode, reason: string): void {
    const error = this.#life.fail(code, reason);
    if (error !== null) this.#drop(error);
  }

  #drop(error: Error): void {
    this.#received.fail(error);
    this.#sending.fail(error);
  }

  #terminateLater(): void {
    const timer: unknown = setTimeout(() => {
      if (!this.#gone) this.#socket.terminate();
    }, WEBSOCKET_CLOSE_DEADLINE_MS);
    this.#socket.on("close", () => clearTimeout(timer as Parameters<typeof clearTimeout>[0]));
  }
}

/** At most what a close frame carries, cut at a character. */
function shortReason(reason: string): string {
  const encoder = new TextEncoder();
  let text = reason;
  while (encoder.encode(text).length > CLOSE_REASON_BYTES_MAX) text = text.slice(0, -1);
  return text;
}
