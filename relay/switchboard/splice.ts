/**
 * Joins two byte streams: what one peer sends the other reads, and the faster waits for the slower.
 *
 * Nothing is buffered here beyond the piece in hand; each transport bounds what it holds
 * (`STREAM_BUFFER_BYTES_MAX`).
 *
 * @module
 */
import { messageOf, ProtocolError, type ProtocolErrorCode } from "../protocol/errors.ts";
import type { ByteStream } from "../protocol/stream.ts";

export interface SpliceEnd {
  readonly stream: ByteStream;
  /** Bytes that were read from the stream together with its first frame. */
  readonly head: Uint8Array;
}

/** @returns What to wait for before so many bytes are passed on; `undefined` for nothing. Never rejects. */
export type Gate = (count: number) => Promise<void> | undefined;

/**
 * @param onBytes Told of each piece that has been passed on, by the side it came from.
 * @param gate While it holds a piece back, the stream that it came from is not read.
 * @returns Resolves when both directions are over; never rejects.
 */
export async function splice(
  a: SpliceEnd,
  b: SpliceEnd,
  onBytes: (from: "a" | "b", count: number) => void,
  gate: Gate = () => undefined,
): Promise<void> {
  const abortBoth = (error: unknown): void => {
    const code: ProtocolErrorCode = error instanceof ProtocolError ? error.code : "INTERNAL";
    a.stream.abort(code, messageOf(error));
    b.stream.abort(code, messageOf(error));
  };
  await Promise.all([
    pump(a, b.stream, gate, (count) => onBytes("a", count)).catch(abortBoth),
    pump(b, a.stream, gate, (count) => onBytes("b", count)).catch(abortBoth),
  ]);
}

async function pump(
  from: SpliceEnd,
  to: ByteStream,
  gate: Gate,
  onBytes: (count: number) => void,
): Promise<void> {
  if (from.head.length > 0) {
    const count = from.head.length;
    await to.write(from.head);
    onBytes(count);
  }
  for (;;) {
    const piece = await from.stream.read();
    if (piece === null) {
      await to.end();
      return;
    }
    const count = piece.length;
    const held = gate(count);
    if (held !== undefined) await held;
    await to.write(piece);
    onBytes(count);
  }
}
