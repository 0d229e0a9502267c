/**
 * The last frame of a stream that is not wanted.
 *
 * @module
 */
import { ProtocolError } from "../protocol/errors.ts";
import { writeFrame } from "../protocol/message-stream.ts";
import type { ByteStream } from "../protocol/stream.ts";

/** How long a refused peer has to read why. */
const REFUSAL_LINGER_MS = 2_000;

/** Says why, then drops the stream. */
export async function refuse(stream: ByteStream, error: unknown): Promise<void> {
  const code = error instanceof ProtocolError ? error.code : "INTERNAL";
  const message = error instanceof ProtocolError ? error.message : "an internal error";
  const retryable = code === "RELAY_UNAVAILABLE" || code === "RELAY_DRAINING";
  try {
    await writeFrame(stream, { kind: "error", code, retryable, message });
    await stream.end();
    const linger = setTimeout(() => stream.abort(code, message), REFUSAL_LINGER_MS);
    await stream.closed;
    clearTimeout(linger);
  } catch {
    // The peer is gone: nobody is left to be told.
    stream.abort(code, message);
  }
}
