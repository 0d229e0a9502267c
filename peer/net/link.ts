/**
 * A peer's connection to the relay: opens byte streams, and says when it is lost.
 *
 * The relay never opens a stream towards a peer; each stream starts with the frame that says what it is
 * (`relay/protocol`). On WebSocket every stream is a connection of its own, so no stream waits behind
 * another's lost segment.
 *
 * @module
 */
import type { ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo, LinkKind } from "../../relay/protocol/stream.ts";

export interface Link {
  readonly kind: LinkKind;
  /** @throws ProtocolError `LINK_CLOSED` if the link is lost, `DEADLINE_EXCEEDED` if it takes too long. */
  openStream(): Promise<ByteStream>;
  /** Resolves when the link is over, whoever ended it; never rejects. */
  readonly closed: Promise<CloseInfo>;
  close(code: ProtocolErrorCode, reason: string): Promise<void>;
  /** Whether the first stream that is opened has said the greeting already. */
  readonly greeted?: boolean;
  /** So many streams will be opened soon. */
  warm?(streams: number): void;
}

export interface DialOptions {
  /** `https://host:port`, nothing else in it. */
  readonly url: string;
  /** SHA-256 of the relay's certificates (DER); if empty the system's trust store decides. */
  readonly certificateHashes: readonly Uint8Array[];
  /** Vouches for certificates that came after those; without it another certificate is refused. */
  readonly relayIdentity?: Uint8Array | undefined;
  readonly signal?: AbortSignal;
  /** Total time to an open link. Default 10,000. */
  readonly deadlineMs?: number;
  /**
   * The first bytes of the first stream, for a link that can send them with what opens it; see `Link.greeted`. Asked
   * for when they are about to be sent; `undefined` if not now. Who has one joins a session, and will want a second
   * stream.
   */
  readonly greeting?: () => Uint8Array | undefined;
}

/** @throws LinkError with a code, a one-line message that names the address and the cure. */
export type Dial = (options: DialOptions) => Promise<Link>;
