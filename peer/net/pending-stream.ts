/**
 * A byte stream that is used before it is open: reads and writes wait for it.
 *
 * @module
 */
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import { messageOf } from "../../relay/protocol/web-stream.ts";

/** Writes in call order, each held by its caller until the stream takes it: nothing is queued here. */
export class PendingStream implements ByteStream {
  readonly closed: Promise<CloseInfo>;
  readonly #opening: Promise<ByteStream>;
  #stream: ByteStream | undefined;
  /** Writes that wait for the stream; later ones go behind them. */
  #waiting = 0;
  #aborted: CloseInfo | undefined;

  constructor(opening: Promise<ByteStream>) {
    this.#opening = opening.then(
      (stream) => {
        this.#stream = stream;
        if (this.#aborted !== undefined) stream.abort(this.#aborted.code, this.#aborted.reason);
        return stream;
      },
      (error: unknown) => {
        if (error instanceof ProtocolError) throw error;
        throw new ProtocolError("LINK_CLOSED", messageOf(error), { cause: error });
      },
    );
    this.closed = this.#opening.then(
      (stream) => stream.closed,
      (error: ProtocolError) => this.#aborted ?? { code: error.code, reason: error.message },
    );
  }

  async read(): Promise<Uint8Array | null> {
    this.#throwIfAborted();
    const stream = this.#stream ?? (await this.#opening);
    return await stream.read();
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#throwIfAborted();
    if (this.#stream !== undefined && this.#waiting === 0) return await this.#stream.write(bytes);
    this.#waiting++;
    let writing;
    try {
      const stream = await this.#opening;
      writing = stream.write(bytes);
    } finally {
      this.#waiting--;
    }
    await writing;
  }

  async end(): Promise<void> {
    this.#throwIfAborted();
    await (await this.#opening).end();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    if (this.#stream !== undefined) return this.#stream.abort(code, reason);
    this.#aborted ??= { code, reason };
  }

  #throwIfAborted(): void {
    if (this.#aborted === undefined) return;
    throw new ProtocolError(this.#aborted.code, this.#aborted.reason);
  }
}
