/**
 * The frames between a peer and the relay, as values. README.md beside this file has the table.
 *
 * @module
 */
import type { ProtocolErrorCode } from "./errors.ts";
import type { Role, SessionState } from "./ids.ts";
import type { Progress, ProgressMore } from "./progress.ts";

/** First frame of a control stream: who joins which session. */
export interface HelloFrame {
  readonly kind: "hello";
  readonly major: number;
  readonly minor: number;
  /** Bits of optional abilities; an unknown bit is ignored. */
  readonly features: number;
  readonly role: Role;
  readonly sessionId: Uint8Array;
  /** ed25519; the ticket is bound to it at the first join. */
  readonly peerKey: Uint8Array;
  /** Present when a ticket is being used; absent on a reconnect, which the relay then challenges. */
  readonly token: Uint8Array | undefined;
}

/** First frame of any other stream. Both peers' streams of one pairing and index are joined. */
export interface StreamFrame {
  readonly kind: "stream";
  readonly sessionId: Uint8Array;
  readonly role: Role;
  readonly streamSecret: Uint8Array;
  readonly pairing: number;
  readonly streamIndex: number;
}

/** The signature of `challenge || session id || role` by the peer key. */
export interface ProofFrame {
  readonly kind: "proof";
  readonly signature: Uint8Array;
}

/** The leecher asks to become the owner. Asked again, it gets the same answer. */
export interface CommitFrame {
  readonly kind: "commit";
  readonly epoch: number;
}

/**
 * A peer asks to end the session with the seeder as the owner. The relay answers with `owner`: if its state is
 * `cancelled` the source may go on, if the leecher owns the region it was too late.
 */
export interface RevokeFrame {
  readonly kind: "revoke";
  /** One line, for the log and the API. */
  readonly reason: string;
}

/** What the relay may know of the region; shown in the API. */
export interface DescribeFrame {
  readonly kind: "describe";
  readonly regionName: string;
  readonly regionBytes: number;
  readonly chunkBytes: number;
  readonly host: string;
  readonly version: string;
}

export interface PhaseFrame {
  readonly kind: "phase";
  readonly state: SessionState;
  /** For `failed` and `cancelled`: why, one line; never a path, a key or content. */
  readonly reason: string;
}

/** Numbers for people; nothing decides by them. */
export interface ProgressFrame {
  readonly kind: "progress";
  readonly progress: Progress;
}

/** More numbers, and which way the bytes go: to a relay whose `welcome` has `FEATURES.commands`. */
export interface ProgressMoreFrame {
  readonly kind: "progressMore";
  readonly more: ProgressMore;
}

/** Hashes of consecutive chunks; a shorter one ends the region. */
export interface IndexSegmentFrame {
  readonly kind: "indexSegment";
  readonly epoch: number;
  readonly segment: number;
  readonly hashes: Uint8Array;
}

/** Hashes that replaced those of a segment: `INDEX_DELTA_ENTRY_BYTES` per entry. */
export interface IndexDeltaFrame {
  readonly kind: "indexDelta";
  readonly entries: Uint8Array;
}

/** A generation of the index is whole: this is its root. */
export interface IndexRootFrame {
  readonly kind: "indexRoot";
  readonly epoch: number;
  readonly root: Uint8Array;
}

export interface PingFrame {
  readonly kind: "ping";
  readonly nonce: number;
}

/** The peer is leaving for good; its role's part of the session is over. */
export interface ByeFrame {
  readonly kind: "bye";
}

/**
 * For the other peer, sealed for it: how the two find a direct path. The relay passes it on, unread, if the other peer
 * is there and understands `peerSignal`; too many are dropped.
 */
export interface SignalFrame {
  readonly kind: "signal";
  readonly payload: Uint8Array;
}

/** This peer has left the streams of a pairing: if it is the current one, both peers get a new one. */
export interface RenewPairingFrame {
  readonly kind: "renewPairing";
  readonly pairing: number;
}

export interface ChallengeFrame {
  readonly kind: "challenge";
  readonly challenge: Uint8Array;
}

export interface WelcomeFrame {
  readonly kind: "welcome";
  readonly major: number;
  readonly minor: number;
  readonly features: number;
  readonly streamSecret: Uint8Array;
  readonly owner: Role;
  readonly ownerEpoch: number;
  readonly state: SessionState;
}

/** Whether the other peer is there. Each time both are, `pairing` is new and streams start afresh. */
export interface PeerFrame {
  readonly kind: "peer";
  readonly present: boolean;
  readonly pairing: number;
}

/** Who owns the region: the answer to `commit` and `revoke`, and told to both peers when it changes. */
export interface OwnerFrame {
  readonly kind: "owner";
  readonly owner: Role;
  readonly ownerEpoch: number;
  readonly state: SessionState;
  /** Why, if the session has just been ended; else empty. */
  readonly reason: string;
}

/** The first two are known to every peer, the others to one whose `hello` has `FEATURES.commands`. */
export const COMMANDS = ["finalize", "cancel", "pause", "resume", "postcopy"] as const;
/**
 * What a person asked for through the API. `pause`: no chunks but those that somebody waits for, and no hand-over,
 * until `resume`. `postcopy`: hand over now, and fetch afterwards what is missing.
 */
export type Command = (typeof COMMANDS)[number];

export interface CommandFrame {
  readonly kind: "command";
  readonly command: Command;
  readonly reason: string;
}

export interface PongFrame {
  readonly kind: "pong";
  readonly nonce: number;
}

/** The relay is going down: reconnect after `reconnectInMs`, keep trying for `tryForMs`. */
export interface GoAwayFrame {
  readonly kind: "goAway";
  readonly reconnectInMs: number;
  readonly tryForMs: number;
}

/** What the other peer sent as `signal`. */
export interface PeerSignalFrame {
  readonly kind: "peerSignal";
  readonly payload: Uint8Array;
}

/** How to ask the relay's UDP ports for one's own address; to a peer whose `hello` has `FEATURES.direct`. */
export interface DiscoveryFrame {
  readonly kind: "discovery";
  /** Good while the control stream lasts. */
  readonly token: Uint8Array;
  /** At the address of the relay. */
  readonly ports: readonly [number, number];
}

/** A bound of the relay's holds this session back, or keeps it out: told when that begins, not for every piece. */
export interface ThrottledFrame {
  readonly kind: "throttled";
  /** As in docs/limits.md. */
  readonly limitName: string;
  /** What it may have; 0 where it is not a rate. */
  readonly bytesPerS: number;
  /** When to ask again, if it is kept out; 0 if it is only held back. */
  readonly retryInMs: number;
}

/**
 * What the operator wants of the migration: told to a peer whose `hello` has `FEATURES.commands` before the first
 * pairing, and again when it changes. What is 0 or `undefined` is left to the peer.
 */
export interface TermsFrame {
  readonly kind: "terms";
  readonly terms: SessionTerms;
}

export interface SessionTerms {
  /** `precopy`: nothing is handed over before all of it is there. */
  readonly mode: "live" | "precopy" | undefined;
  readonly downtimeTargetMs: number;
  readonly maxRounds: number;
}

export interface ErrorFrame {
  readonly kind: "error";
  readonly code: ProtocolErrorCode;
  /** Whether the same request may succeed later. */
  readonly retryable: boolean;
  readonly message: string;
}

export type PeerToRelayFrame =
  | HelloFrame
  | StreamFrame
  | ProofFrame
  | CommitFrame
  | RevokeFrame
  | DescribeFrame
  | PhaseFrame
  | ProgressFrame
  | ProgressMoreFrame
  | IndexSegmentFrame
  | IndexDeltaFrame
  | IndexRootFrame
  | PingFrame
  | SignalFrame
  | RenewPairingFrame
  | ByeFrame;

export type RelayToPeerFrame =
  | ChallengeFrame
  | WelcomeFrame
  | PeerFrame
  | OwnerFrame
  | CommandFrame
  | PongFrame
  | GoAwayFrame
  | PeerSignalFrame
  | DiscoveryFrame
  | ThrottledFrame
  | TermsFrame
  | ErrorFrame;

export type Frame = PeerToRelayFrame | RelayToPeerFrame;
