/**
 * What the switchboard needs of the database.
 *
 * @module
 */
import type { Role, SessionState } from "../protocol/ids.ts";
import type { DescribeFrame, Progress, SessionTerms } from "../protocol/frame.ts";
import type { ProjectShare } from "./fair-share.ts";

/** Whose bytes a session's are, and how many it may move. */
export interface SessionBounds {
  readonly projectId: string;
  /** The session's own; 0: none. */
  readonly bytesPerS: number;
  readonly project: ProjectShare;
}

/** A session as far as joining it is concerned. */
export interface JoinedSession {
  readonly sessionId: Uint8Array;
  readonly owner: Role;
  /** The owner's epoch: 0 until the first commit. */
  readonly ownerEpoch: number;
  readonly state: SessionState;
  /** A store without projects has none. */
  readonly bounds?: SessionBounds;
  /** Somebody asked that no chunks are sent for now. */
  readonly held?: boolean;
  /** What the operator wants of it. */
  readonly terms?: SessionTerms;
}

export interface CommitOutcome {
  /** Whether the leecher owns the region now, by this call or an earlier one with the same epoch. */
  readonly committed: boolean;
  readonly owner: Role;
  readonly ownerEpoch: number;
  readonly state: SessionState;
}

/**
 * Every method may reject with `RelayError` `DATABASE_UNAVAILABLE`; a caller that must know asks again.
 */
export interface SessionStore {
  /**
   * Uses a ticket up and binds its role to a peer key, in one transaction.
   *
   * Asked again with the same token and the same key (the answer was lost), it says the same.
   *
   * @throws ProtocolError `TICKET_UNKNOWN`, `TICKET_USED` (by another key), `TICKET_EXPIRED`,
   *   `TICKET_WRONG_ROLE`, `SESSION_ENDED`.
   */
  useTicket(join: {
    readonly sessionId: Uint8Array;
    readonly role: Role;
    readonly token: Uint8Array;
    readonly peerKey: Uint8Array;
  }): Promise<JoinedSession>;
  /**
   * A peer that has proved its key comes back. To an ended session too: it may not have heard how it ended.
   *
   * @throws ProtocolError `PEER_UNKNOWN`.
   */
  rejoin(peer: {
    readonly sessionId: Uint8Array;
    readonly role: Role;
    readonly peerKey: Uint8Array;
  }): Promise<JoinedSession>;
  /** Compare-and-set: the leecher becomes the owner if the seeder is and the session is not cancelled. */
  commit(sessionId: Uint8Array, epoch: number): Promise<CommitOutcome>;
  owner(sessionId: Uint8Array): Promise<CommitOutcome>;
  /** Whether no chunks are to be sent at the moment; a store without that question never holds any. */
  isHeld?(sessionId: Uint8Array): Promise<boolean>;
  describe(sessionId: Uint8Array, role: Role, describe: DescribeFrame): Promise<void>;
  /**
   * Records a phase as an event and as the session's state. States of an ended session do not change,
   * and `cancelled` is refused after the commit.
   *
   * @returns Whether it was recorded.
   */
  setState(sessionId: Uint8Array, change: StateChange): Promise<boolean>;
  /** The last progress, written at most every few seconds. */
  saveProgress(sessionId: Uint8Array, progress: Progress): Promise<void>;
  addEvent(
    sessionId: Uint8Array,
    type: string,
    data: Readonly<Record<string, string | number | boolean>>,
  ): Promise<void>;
  index: IndexStore;
}

export interface StateChange {
  readonly by: Role | "relay" | "api";
  readonly state: SessionState;
  readonly reason: string;
}

/** The chunk index (design section 6). A repeated write of the same thing changes nothing. */
export interface IndexStore {
  putSegment(
    sessionId: Uint8Array,
    epoch: number,
    segment: number,
    hashes: Uint8Array,
  ): Promise<void>;
  appendDelta(sessionId: Uint8Array, entries: Uint8Array): Promise<void>;
  setRoot(sessionId: Uint8Array, epoch: number, root: Uint8Array): Promise<void>;
  /** Hashes of chunks `[first, first + count)`: the base with the deltas over it; `null` where unknown. */
  read(sessionId: Uint8Array, first: number, count: number): Promise<(Uint8Array | null)[]>;
}
