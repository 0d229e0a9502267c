/**
 * Two ends of a byte stream in memory, with somebody in between who may change what passes.
 *
 * @module
 */
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";

export interface Wire {
  readonly a: ByteStream;
  readonly b: ByteStream;
}

/** @param change What becomes of each piece; the same for both ways. */
export function pipe(change: (bytes: Uint8Array) => Uint8Array = (bytes) => bytes): Wire {
  const [a, b] = [new End(change), new End(change)];
  a.other = b;
  b.other = a;
  return { a, b };
}

class End implements ByteStream {
  other: End | undefined;
  readonly closed: Promise<CloseInfo>;
  readonly #change: (bytes: Uint8Array) => Uint8Array;
  readonly #queue: (Uint8Array | null)[] = [];
  #wake: (() => void) | undefined;
  #over: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => undefined;

  constructor(change: (bytes: Uint8Array) => Uint8Array) {
    this.#change = change;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      const piece = this.#queue.shift();
      if (piece !== undefined) return piece;
      if (this.#over !== undefined) throw new ProtocolError(this.#over.code, this.#over.reason);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#over !== undefined) {
      return Promise.reject(new ProtocolError(this.#over.code, this.#over.reason));
    }
    this.other?.push(this.#change(bytes));
    return Promise.resolve();
  }

  end(): Promise<void> {
    this.other?.push(null);
    return Promise.resolve();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    this.finish({ code, reason });
    this.other?.finish({ code, reason });
  }

  push(piece: Uint8Array | null): void {
    this.#queue.push(piece);
    this.#wake?.();
  }

  finish(info: CloseInfo): void {
    this.#over ??= info;
    this.#resolveClosed(info);
    this.#wake?.();
  }
}
