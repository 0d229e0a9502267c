/**
 * Length-prefixed messages over a byte stream: `u32 length`, `u8 kind`, payload.
 *
 * Both protocols are framed this way; the migration protocol seals what is inside.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";
import { decodeFrame, encodeFrame, FRAME_HEADER_BYTES, type Frame } from "./frame.ts";
import type { ByteStream } from "./stream.ts";

export interface Message {
  readonly kind: number;
  /** The caller's own: nothing else refers to it. */
  readonly payload: Uint8Array;
}

/** Takes whole messages off a stream, holding at most one incomplete one. */
export class MessageReader {
  readonly #stream: ByteStream;
  /** Received and not yet taken, in order; `#head` bytes of the first are already taken. */
  #pieces: Uint8Array[] = [];
  #head = 0;
  #available = 0;

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  /**
   * @param payloadBytesMax A longer message is refused as soon as its header is read.
   * @returns `null` at the end of the stream.
   * @throws ProtocolError `FRAME_TOO_LARGE`; `FRAME_MALFORMED` if the stream ends inside a message.
   */
  async next(payloadBytesMax: number): Promise<Message | null> {
    if (!(await this.#fill(FRAME_HEADER_BYTES))) return null;
    const header = this.#take(FRAME_HEADER_BYTES);
    const length = new DataView(header.buffer, header.byteOffset).getUint32(0, true);
    const kind = header[4] ?? 0;
    if (length > payloadBytesMax) {
      throw new ProtocolError(
        "FRAME_TOO_LARGE",
        `a message of ${length} bytes, at most ${payloadBytesMax}`,
      );
    }
    if (!(await this.#fill(length))) {
      throw new ProtocolError("FRAME_MALFORMED", "the stream ended inside a message");
    }
    return { kind, payload: this.#take(length) };
  }

  /** What was received beyond the last message, for a caller that takes the stream over. */
  takeRest(): Uint8Array {
    return this.#take(this.#available);
  }

  /** Reads until `count` bytes are there; false if the stream ended with none. */
  async #fill(count: number): Promise<boolean> {
    while (this.#available < count) {
      const piece = await this.#stream.read();
      if (piece === null) {
        if (this.#available > 0) {
          throw new ProtocolError("FRAME_MALFORMED", "the stream ended inside a message");
        }
        return count === 0;
      }
      this.#pieces.push(piece);
      this.#available += piece.length;
    }
    return true;
  }

  /** Removes `count` bytes that are there; copies only what spans pieces. */
  #take(count: number): Uint8Array {
    this.#available -= count;
    const first = this.#pieces[0];
    if (first !== undefined && first.length - this.#head >= count) {
      const view = first.subarray(this.#head, this.#head + count);
      this.#head += count;
      if (this.#head === first.length) this.#drop();
      return view;
    }
    const whole = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      const piece = this.#pieces[0];
      if (piece === undefined) throw new Error("took more than is available");
      const part = piece.subarray(this.#head, this.#head + count - filled);
      whole.set(part, filled);
      filled += part.length;
      this.#head += part.length;
      if (this.#head === piece.length) this.#drop();
    }
    return whole;
  }

  #drop(): void {
    this.#pieces.shift();
    this.#head = 0;
  }
}

/**
 * The next frame of the relay protocol that this version knows; unknown kinds are passed over.
 *
 * @throws ProtocolError `FRAME_TOO_LARGE`, `FRAME_MALFORMED`, or what the stream throws.
 */
export async function readFrame(reader: MessageReader, bytesMax: number): Promise<Frame | null> {
  for (;;) {
    const message = await reader.next(bytesMax - FRAME_HEADER_BYTES);
    if (message === null) return null;
    const frame = decodeFrame(message.kind, message.payload);
    if (frame !== undefined) return frame;
  }
}

export function writeFrame(stream: ByteStream, frame: Frame): Promise<void> {
  return stream.write(encodeFrame(frame));
}
