/**
 * The one shape of a byte stream, whatever carries it: WebTransport, WebSocket, memory.
 *
 * Ordered, reliable, both ways, with backpressure both ways. The end of a stream is never taken from
 * the transport (Deno's WebTransport client sends no FIN): messages are length-prefixed and say
 * themselves when they are over, so `end` only releases what the transport holds.
 *
 * @module
 */
import type { ProtocolErrorCode } from "./errors.ts";

/** Why a stream or link is over. */
export interface CloseInfo {
  readonly code: ProtocolErrorCode;
  /** One line for a person; may come from the other side, so it is data. At most 256 characters. */
  readonly reason: string;
}

/** What a stream may hold each way for a side that is slow; it may change at any time. */
export interface BufferBound {
  readonly bytes: number;
}

export interface ByteStream {
  /**
   * The next bytes, in pieces of any size `> 0`, or `null` after the other side's orderly end. The caller
   * owns the piece. One read at a time. What has not been read holds back the sender within a bound.
   *
   * @throws ProtocolError once the stream is aborted by either side or its link is lost.
   */
  read(): Promise<Uint8Array | null>;
  /**
   * Sends bytes; resolves when the transport will take more. The stream owns `bytes` from the call on
   * (it may be sent later without a copy, and what was read from a stream may get other bytes after that):
   * do not change it, read it or send it again. Calls may overlap; order is call order.
   *
   * @throws ProtocolError once the stream is aborted by either side or its link is lost.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** No more writes. Resolves when everything written is handed to the transport. */
  end(): Promise<void>;
  /** Drops both directions at once; what is queued may be lost. Idempotent. Never throws. */
  abort(code: ProtocolErrorCode, reason: string): void;
  /** Resolves when both directions are over; never rejects. */
  readonly closed: Promise<CloseInfo>;
  /** Bytes that arrived and were not read, or were written and not taken by the transport, as far as is known here. */
  readonly queuedBytes?: number;
  /** Holds at most this much from now on, where the transport lets that be chosen. */
  setBufferBound?(bound: BufferBound): void;
}

export type LinkKind = "webtransport" | "websocket" | "direct" | "memory";
