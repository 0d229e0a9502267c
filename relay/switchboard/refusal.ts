/**
 * The last frames of a stream that is not wanted.
 *
 * @module
 */
import { ProtocolError } from "../protocol/errors.ts";
import { writeFrame } from "../protocol/message-stream.ts";
import type { ByteStream } from "../protocol/stream.ts";

/** How long a refused peer has to read why. */
const REFUSAL_LINGER_MS = 2_000;

/** A peer that is not let in because of a bound, and may be later. */
export class LimitRefusal extends ProtocolError {
  readonly limitName: string;
  readonly retryInMs: number;

  constructor(limitName: string, retryInMs: number, message: string) {
    super("LIMIT_EXCEEDED", message);
    this.limitName = limitName;
    this.retryInMs = retryInMs;
  }
}

/** Says why, then drops the stream. */
export async function refuse(stream: ByteStream, error: unknown): Promise<void> {
  const code = error instanceof ProtocolError ? error.code : "INTERNAL";
  const message = error instanceof ProtocolError ? error.message : "an internal error";
  const bound = error instanceof LimitRefusal ? error : undefined;
  const retryable =
    bound !== undefined || code === "RELAY_UNAVAILABLE" || code === "RELAY_DRAINING";
  try {
    if (bound !== undefined) {
      const { limitName, retryInMs } = bound;
      await writeFrame(stream, { kind: "throttled", limitName, bytesPerS: 0, retryInMs });
    }
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
