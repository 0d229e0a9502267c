/**
 * The two things every byte stream keeps: what has arrived and is not read yet, and what ended it.
 *
 * @module
 */
import { ProtocolError, type ProtocolErrorCode } from "./errors.ts";
import type { BufferBound, CloseInfo } from "./stream.ts";

const REASON_CHARACTERS_MAX = 256;

/** Text that may come from the other side, made fit for one line of a log. */
export function closeReason(text: string): string {
  let line = "";
  for (const character of text.slice(0, REASON_CHARACTERS_MAX)) {
    const point = character.codePointAt(0) ?? 0;
    line += point < 0x20 || (point >= 0x7f && point < 0xa0) ? " " : character;
  }
  return line;
}

/**
 * What a piece costs beside its bytes: without it, pieces of one byte each would take a hundred times what is counted.
 */
export const PIECE_COST_BYTES = 256;
/** Pieces are joined up to this. */
const JOINED_BYTES_MAX = 16 * 1024;
/** A view of a buffer so much larger keeps all of it. */
const SLACK_MAX = 2;

/** The same bytes, in memory of their own where they are a small part of some that would be kept with them. */
export function ownBytes(bytes: Uint8Array): Uint8Array {
  return bytes.buffer.byteLength > SLACK_MAX * bytes.length
    ? new Uint8Array(bytes)
    : plainBytes(bytes);
}

/** The same bytes as a plain array: Node's own kind differs where it is sliced. */
export function plainBytes(bytes: Uint8Array): Uint8Array {
  if (Object.getPrototypeOf(bytes) === Uint8Array.prototype) return bytes;
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Pieces in order, for one reader. The bound is the owner's: it stops the sender by `bytes`. */
export class ByteQueue {
  /** Held and not yet read. */
  bytes = 0;
  readonly #onRead: () => void;
  readonly #join: boolean;
  /** Those that were read are let go at once. */
  #pieces: (Uint8Array | undefined)[] = [];
  /** Index of the next piece: moving it is cheaper than shifting a long array. */
  #next = 0;
  #waiting: { resolve: (piece: Uint8Array | null) => void; reject: (error: Error) => void } | null =
    null;
  #over: "no" | "ended" | Error = "no";

  /**
   * @param onRead Called after `bytes` went down.
   * @param join Small pieces that wait are read as one: whoever passes them on has the work of one.
   */
  constructor(onRead: () => void = () => {}, { join = false }: { readonly join?: boolean } = {}) {
    this.#onRead = onRead;
    this.#join = join;
  }

  /** What `bytes` take, with what the pieces cost. */
  get heldBytes(): number {
    return this.bytes + PIECE_COST_BYTES * (this.#pieces.length - this.#next);
  }

  /** Takes a piece over; one of no bytes, or one after the end, is dropped. */
  push(piece: Uint8Array): void {
    if (this.#over !== "no" || piece.length === 0) return;
    const waiting = this.#waiting;
    if (waiting !== null) {
      this.#waiting = null;
      waiting.resolve(piece);
      return;
    }
    this.#pieces.push(piece);
    this.bytes += piece.length;
  }

  /** No more pieces: `read` returns `null` once what is held is read. */
  end(): void {
    if (this.#over !== "no") return;
    this.#over = "ended";
    this.#waiting?.resolve(null);
    this.#waiting = null;
  }

  /** Drops what is held; `read` throws from now on. */
  fail(error: Error): void {
    if (this.#over instanceof Error) return;
    this.#over = error;
    this.#pieces = [];
    this.#next = 0;
    this.bytes = 0;
    this.#waiting?.reject(error);
    this.#waiting = null;
  }

  read(): Promise<Uint8Array | null> {
    if (this.#waiting !== null) return Promise.reject(new Error("a read is already waiting"));
    const piece = this.#take();
    if (piece !== undefined) {
      const joins = this.#join && piece.length < JOINED_BYTES_MAX;
      const together = joins ? this.#joined(piece) : piece;
      this.#onRead();
      return Promise.resolve(together);
    }
    if (this.#over === "ended") return Promise.resolve(null);
    if (this.#over instanceof Error) return Promise.reject(this.#over);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  #take(): Uint8Array | undefined {
    const piece = this.#pieces[this.#next];
    if (piece === undefined) return undefined;
    this.#pieces[this.#next] = undefined;
    this.#next += 1;
    if (this.#next === this.#pieces.length) {
      this.#pieces = [];
      this.#next = 0;
    } else if (this.#next === 1024) {
      this.#pieces = this.#pieces.slice(this.#next);
      this.#next = 0;
    }
    this.bytes -= piece.length;
    return piece;
  }

  #joined(first: Uint8Array): Uint8Array {
    const pieces = [first];
    let bytes = first.length;
    for (;;) {
      const next = this.#pieces[this.#next];
      if (next === undefined || bytes + next.length > JOINED_BYTES_MAX) break;
      this.#take();
      pieces.push(next);
      bytes += next.length;
    }
    if (pieces.length === 1) return first;
    const together = new Uint8Array(bytes);
    let at = 0;
    for (const piece of pieces) {
      together.set(piece, at);
      at += piece.length;
    }
    return together;
  }
}

/** Bytes that were given to a transport and that it has not taken yet. */
export class SendWindow {
  bound: BufferBound;
  #bytes = 0;
  #waiting: { resolve: () => void; reject: (error: Error) => void }[] = [];
  #failed: Error | null = null;

  constructor(bytesMax: number) {
    this.bound = { bytes: bytesMax };
  }

  get bytes(): number {
    return this.#bytes;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
  }

  taken(bytes: number): void {
    this.#bytes -= bytes;
    if (this.#bytes > this.bound.bytes || this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const one of waiting) one.resolve();
  }

  fail(error: Error): void {
    this.#failed ??= error;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const one of waiting) one.reject(this.#failed);
  }

  /** Resolves when the transport will take more. */
  room(): Promise<void> {
    if (this.#failed !== null) return Promise.reject(this.#failed);
    if (this.#bytes <= this.bound.bytes) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
    });
  }
}

/** Ends once: when both directions ended in order, or at the first error. */
export class StreamLife {
  readonly closed: Promise<CloseInfo>;
  #resolve: (info: CloseInfo) => void = () => {};
  #reading = true;
  #writing = true;
  #error: ProtocolError | null = null;

  constructor() {
    this.closed = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Why the stream is broken, if it is. */
  get error(): ProtocolError | null {
    return this.#error;
  }

  get over(): boolean {
    return this.#error !== null || (!this.#reading && !this.#writing);
  }

  readOver(): void {
    this.#reading = false;
    if (this.over) this.#resolve({ code: "OK", reason: "" });
  }

  writeOver(): void {
    this.#writing = false;
    if (this.over) this.#resolve({ code: "OK", reason: "" });
  }

  /** @returns The error every later call throws, or `null` if the stream was over before. */
  fail(code: ProtocolErrorCode, reason: string): ProtocolError | null {
    if (this.over) return null;
    const line = closeReason(reason);
    this.#error = new ProtocolError(code, line);
    this.#resolve({ code, reason: line });
    return this.#error;
  }

  /** What a call on a stream that is over throws. */
  overError(): ProtocolError {
    return this.#error ?? new ProtocolError("LINK_CLOSED", "the stream is over");
  }
}
