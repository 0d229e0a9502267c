/**
 * A link whose every stream has a connection of its own, so that none waits for another.
 *
 * On WebSocket that is one TCP connection each. On WebTransport it is one session each, because of what
 * one QUIC library does when a stream is not read: its connection window starts at 48 KiB and a stream may
 * hold 1 MiB, so that one stalled stream stalls all others of the session (rwebtransport 0.2.2 with
 * quiche 0.29, which offers no setting for it). The relay pauses streams all the time.
 *
 * @module
 */
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import { PREFACE_DEADLINE_MS } from "../../relay/protocol/limits.ts";
import type { ByteStream, CloseInfo, LinkKind } from "../../relay/protocol/stream.ts";
import { messageOf } from "../../relay/protocol/web-stream.ts";
import { LinkError } from "./errors.ts";
import type { Link } from "./link.ts";

export const DIAL_DEADLINE_MS = 10_000;
/** The first connection is made with the link; past this age the relay may have given up on it. */
const SPARE_AGE_MAX_MS = PREFACE_DEADLINE_MS / 2;

/** Ends of a stream that say something of the relay, not of the stream. */
const LOST_CODES: ReadonlySet<ProtocolErrorCode> = new Set([
  "LINK_CLOSED",
  "RELAY_DRAINING",
  "RELAY_UNAVAILABLE",
]);

export interface OpenLimits {
  readonly deadlineMs: number;
  readonly signal: AbortSignal | undefined;
}

/** @throws LinkError */
export type OpenConnection = (limits: OpenLimits) => Promise<ByteStream>;

/** Opens the first stream's connection at once, so that an unreachable relay is an error here. */
export async function openConnectionLink(
  kind: LinkKind,
  open: OpenConnection,
  limits: OpenLimits,
): Promise<Link> {
  return new ConnectionLink(kind, open, await open(limits));
}

class ConnectionLink implements Link {
  readonly kind: LinkKind;
  readonly closed: Promise<CloseInfo>;
  readonly #open: OpenConnection;
  readonly #streams = new Set<ByteStream>();
  readonly #dialing = new AbortController();
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #spare: { readonly stream: ByteStream; readonly madeAt: number } | null;
  #over: CloseInfo | null = null;

  constructor(kind: LinkKind, open: OpenConnection, first: ByteStream) {
    this.kind = kind;
    this.#open = open;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#spare = { stream: first, madeAt: performance.now() };
    void first.closed.then(() => {
      if (this.#spare?.stream === first) this.#spare = null;
    });
  }

  async openStream(): Promise<ByteStream> {
    this.#throwIfOver();
    const spare = this.#spare;
    this.#spare = null;
    if (spare !== null) {
      if (performance.now() - spare.madeAt < SPARE_AGE_MAX_MS) return this.#keep(spare.stream);
      spare.stream.abort("OK", "not used");
    }
    let stream;
    try {
      stream = await this.#open({ deadlineMs: DIAL_DEADLINE_MS, signal: this.#dialing.signal });
    } catch (error) {
      this.#throwIfOver();
      const late = error instanceof LinkError && error.code === "DEADLINE_EXCEEDED";
      throw new ProtocolError(late ? "DEADLINE_EXCEEDED" : "LINK_CLOSED", messageOf(error), {
        cause: error,
      });
    }
    if (this.#over !== null) {
      stream.abort("LINK_CLOSED", "the link was closed");
      this.#throwIfOver();
    }
    return this.#keep(stream);
  }

  async close(code: ProtocolErrorCode, reason: string): Promise<void> {
    if (this.#over === null) this.#end({ code, reason });
    await this.closed;
  }

  /**
   * A stream that the other side aborts is over, and the link goes on. A connection that is lost takes
   * the link with it once none is left: the next one may go another way, but nothing says so.
   */
  #keep(stream: ByteStream): ByteStream {
    this.#streams.add(stream);
    void stream.closed.then((info) => {
      this.#streams.delete(stream);
      const lost = LOST_CODES.has(info.code);
      if (lost && this.#streams.size === 0 && this.#over === null) this.#end(info);
    });
    return stream;
  }

  #end(info: CloseInfo): void {
    this.#over = info;
    this.#dialing.abort();
    const code = info.code === "OK" ? "LINK_CLOSED" : info.code;
    this.#spare?.stream.abort(code, info.reason);
    this.#spare = null;
    for (const stream of this.#streams) stream.abort(code, info.reason);
    this.#resolveClosed(info);
  }

  #throwIfOver(): void {
    if (this.#over === null) return;
    throw new ProtocolError("LINK_CLOSED", `the link is closed: ${this.#over.reason}`);
  }
}
