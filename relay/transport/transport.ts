/**
 * The accepting side of a link.
 *
 * @module
 */
import type { ByteStream, LinkKind } from "../protocol/stream.ts";

/** A stream that a peer opened, before its first frame is read. */
export interface IncomingStream {
  readonly stream: ByteStream;
  readonly kind: LinkKind;
  /** The transport's idea of the other address, e.g. "203.0.113.7"; for limits and the log. */
  readonly remoteAddress: string;
  /**
   * Streams of one WebTransport session share this; on WebSocket each stream is its own. When it is
   * lost, so are its streams.
   */
  readonly connectionId: string;
  /** To be called when the stream's first frame was found good: its connection is no handshake any more. */
  readonly established?: () => void;
}

/** Takes each stream as it arrives. Must not throw; it owns the stream. */
export type OnStream = (incoming: IncomingStream) => void;
