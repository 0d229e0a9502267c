/**
 * Byte streams over W3C streams, and the part of W3C WebTransport that a link uses: bidirectional
 * streams and close codes. Structural, so that a browser's, Deno's and any Node package's fit.
 *
 * @module
 */
import { plainBytes, SendWindow, StreamLife } from "./byte-queue.ts";
import {
  ProtocolError,
  ProtocolErrorNumber,
  protocolErrorCode,
  type ProtocolErrorCode,
} from "./errors.ts";
import { STREAM_BUFFER_BYTES_MAX } from "./limits.ts";
import type { BufferBound, ByteStream, CloseInfo } from "./stream.ts";

/** The end of a session and the errors of its streams come in no fixed order: wait so long for the former. */
const SESSION_END_WAIT_MS = 100;
/** Larger writes are split: Deno's streams take a write of 256 KiB at a third of the speed of 64 KiB ones. */
const WRITE_BYTES_MAX = 64 * 1024;

export interface ReaderLike<T> {
  readonly closed: Promise<unknown>;
  read(): Promise<{ readonly done: boolean; readonly value?: T | undefined }>;
  cancel(reason?: unknown): Promise<unknown>;
}

export interface ReadableLike<T> {
  getReader(): ReaderLike<T>;
}

export interface WriterLike {
  readonly closed: Promise<unknown>;
  write(bytes: Uint8Array): Promise<unknown>;
  close(): Promise<unknown>;
  abort(reason?: unknown): Promise<unknown>;
}

export interface WebStreamPair {
  readonly readable: ReadableLike<Uint8Array>;
  readonly writable: { getWriter(): WriterLike };
}

export interface WebTransportCloseLike {
  readonly closeCode?: number | undefined;
  readonly reason?: string | undefined;
}

/** A session, client or server side. */
export interface WebTransportSessionLike {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<WebTransportCloseLike>;
  readonly incomingBidirectionalStreams: ReadableLike<WebStreamPair>;
  createBidirectionalStream(): Promise<WebStreamPair>;
  /** Either name for the sending half, by the age of the draft that was implemented. */
  readonly datagrams?: {
    readonly writable?: { getWriter(): WriterLike };
    createWritable?(): { getWriter(): WriterLike };
  };
  close(info: { closeCode: number; reason: string }): void;
}

export interface WebStreamOptions {
  /** The error whose code the implementation puts into RESET_STREAM; default: one that has the field. */
  readonly resetError?: (code: number, message: string) => Error;
  /** The number in an error of a stream that the other side reset; default `resetCodeOf`. */
  readonly resetCode?: (error: unknown) => number | null;
  /** Why the session ended, once it has; explains the errors of its streams that carry no code. */
  readonly sessionEnd?: Promise<ProtocolError>;
}

export function webStreamToByteStream(
  pair: WebStreamPair,
  options: WebStreamOptions = {},
): ByteStream {
  return new WebByteStream(pair, options);
}

/** The number in an error of a stream that the other side reset, or `null`. */
export function resetCodeOf(error: unknown): number | null {
  if (typeof error !== "object" || error === null || !("streamErrorCode" in error)) return null;
  return typeof error.streamErrorCode === "number" ? error.streamErrorCode : null;
}

/** How `@fails-components/webtransport` says codes: a field when it sends, words when it receives. */
export const failsStreamOptions: WebStreamOptions = {
  resetError: (code, message) => Object.assign(new Error(message), { code }),
  resetCode: (error) => {
    const said = /^(?:Resetstream|StopSending) with code:(\d+)$/.exec(messageOf(error));
    return said === null ? null : Number(said[1]);
  },
};

/** Why a WebTransport session is over. */
export async function sessionEnd(session: {
  readonly closed: Promise<WebTransportCloseLike>;
}): Promise<ProtocolError> {
  try {
    const info = await session.closed;
    const code = protocolErrorCode(info?.closeCode ?? 0);
    const reason = info?.reason ?? "";
    if (code === "OK") {
      return new ProtocolError("LINK_CLOSED", reason === "" ? "the link was closed" : reason);
    }
    return new ProtocolError(code, reason);
  } catch (error) {
    return new ProtocolError("LINK_CLOSED", `the link was lost: ${messageOf(error)}`);
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

class WebByteStream implements ByteStream {
  readonly #reader: ReaderLike<Uint8Array>;
  readonly #writer: WriterLike;
  readonly #options: WebStreamOptions;
  readonly #life = new StreamLife();
  readonly #sending = new SendWindow(STREAM_BUFFER_BYTES_MAX);
  #ending: Promise<void> | null = null;
  #failing: Promise<void> | null = null;

  constructor(pair: WebStreamPair, options: WebStreamOptions) {
    this.#reader = pair.readable.getReader();
    this.#writer = pair.writable.getWriter();
    this.#options = options;
    this.#reader.closed.then(
      () => this.#life.readOver(),
      (error: unknown) => void this.#fail(error),
    );
    this.#writer.closed.then(
      () => this.#life.writeOver(),
      (error: unknown) => void this.#fail(error),
    );
  }

  get closed(): ByteStream["closed"] {
    return this.#life.closed;
  }

  /** What the transport holds for a reader is the transport's to know. */
  get queuedBytes(): number {
    return this.#sending.bytes;
  }

  /** What arrived is held by the library, whose own windows bound it. */
  setBufferBound(bound: BufferBound): void {
    this.#sending.bound = bound;
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      if (this.#life.error !== null) throw this.#life.error;
      let result;
      try {
        result = await this.#reader.read();
      } catch (error) {
        await this.#fail(error);
        throw this.#life.overError();
      }
      // An abort of ours cancels the reader, which answers a waiting read with `done`.
      if (this.#life.error !== null) throw this.#life.error;
      if (result.done) return null;
      if (result.value !== undefined && result.value.length > 0) return plainBytes(result.value);
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#life.error !== null || this.#ending !== null) throw this.#life.overError();
    for (let start = 0; start < bytes.length; start += WRITE_BYTES_MAX) {
      this.#send(bytes.subarray(start, start + WRITE_BYTES_MAX));
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
    this.#sending.fail(error);
    this.#release(ProtocolErrorNumber[code], error.message);
  }

  #send(bytes: Uint8Array): void {
    this.#sending.add(bytes.length);
    this.#writer.write(bytes).then(
      () => this.#sending.taken(bytes.length),
      (error: unknown) => {
        void this.#fail(error).then(() => this.#sending.taken(bytes.length));
      },
    );
  }

  async #end(): Promise<void> {
    if (this.#life.error !== null) throw this.#life.error;
    try {
      await this.#writer.close();
    } catch (error) {
      await this.#fail(error);
      throw this.#life.overError();
    }
    this.#life.writeOver();
  }

  /** One direction is broken, so both are: nothing above reads half of a broken stream. */
  #fail(cause: unknown): Promise<void> {
    this.#failing ??= this.#explain(cause).then(({ code, reason }) => {
      const error = this.#life.fail(code, reason);
      if (error === null) return;
      this.#sending.fail(error);
      this.#release(error.number, error.message);
    });
    return this.#failing;
  }

  async #explain(cause: unknown): Promise<CloseInfo> {
    const reset = (this.#options.resetCode ?? resetCodeOf)(cause);
    if (reset !== null && reset !== ProtocolErrorNumber.OK) {
      return { code: protocolErrorCode(reset), reason: "the other side reset the stream" };
    }
    if (this.#options.sessionEnd !== undefined) {
      let timer;
      const late = new Promise<null>((resolve) => {
        timer = setTimeout(() => resolve(null), SESSION_END_WAIT_MS);
      });
      const ended = await Promise.race([this.#options.sessionEnd, late]);
      clearTimeout(timer);
      if (ended !== null) return { code: ended.code, reason: ended.message };
    }
    return { code: "LINK_CLOSED", reason: messageOf(cause) };
  }

  #release(number: number, message: string): void {
    const error =
      this.#options.resetError?.(number, message) ??
      Object.assign(new Error(message), { source: "stream", streamErrorCode: number });
    // The direction that is broken already refuses this; there is nothing left to release then.
    this.#reader.cancel(error).catch(() => {});
    this.#writer.abort(error).catch(() => {});
  }
}
