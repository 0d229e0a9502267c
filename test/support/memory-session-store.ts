/**
 * A session store in plain memory: what the switchboard asks of a database, with the same answers.
 *
 * @module
 */
import { toHex } from "../../relay/protocol/bytes.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import { isEnded, type Role, type SessionState } from "../../relay/protocol/ids.ts";
import type {
  CommitOutcome,
  IndexStore,
  JoinedSession,
  SessionStore,
  StateChange,
} from "../../relay/switchboard/session-store.ts";

interface Session {
  owner: Role;
  ownerEpoch: number;
  state: SessionState;
  readonly tokens: Record<Role, string>;
  readonly keys: Partial<Record<Role, string>>;
  readonly events: string[];
}

export class MemorySessionStore implements SessionStore {
  readonly #sessions = new Map<string, Session>();
  readonly indexRoots: string[] = [];
  /** Whether no chunks are to be sent. */
  held = false;
  /** Fails every question while set. */
  unavailable = false;

  create(sessionId: Uint8Array, tokens: Record<Role, Uint8Array>): void {
    this.#sessions.set(toHex(sessionId), {
      owner: "seeder",
      ownerEpoch: 0,
      state: "pending",
      tokens: { seeder: toHex(tokens.seeder), leecher: toHex(tokens.leecher) },
      keys: {},
      events: [],
    });
  }

  session(sessionId: Uint8Array): Session {
    const session = this.#sessions.get(toHex(sessionId));
    if (session === undefined) throw new ProtocolError("TICKET_UNKNOWN", "no such session");
    return session;
  }

  useTicket(join: Parameters<SessionStore["useTicket"]>[0]): Promise<JoinedSession> {
    return this.#answer(() => {
      const session = this.session(join.sessionId);
      if (session.tokens[join.role] !== toHex(join.token)) {
        throw new ProtocolError("TICKET_UNKNOWN", "no such ticket");
      }
      const bound = session.keys[join.role];
      if (bound !== undefined && bound !== toHex(join.peerKey)) {
        throw new ProtocolError("TICKET_USED", "this ticket was used");
      }
      session.keys[join.role] = toHex(join.peerKey);
      return this.#joined(join.sessionId);
    });
  }

  rejoin(peer: Parameters<SessionStore["rejoin"]>[0]): Promise<JoinedSession> {
    return this.#answer(() => {
      if (this.session(peer.sessionId).keys[peer.role] !== toHex(peer.peerKey)) {
        throw new ProtocolError("PEER_UNKNOWN", "no such peer");
      }
      return this.#joined(peer.sessionId);
    });
  }

  commit(sessionId: Uint8Array, epoch: number): Promise<CommitOutcome> {
    return this.#answer(() => {
      const session = this.session(sessionId);
      if (session.owner === "seeder" && !isEnded(session.state)) {
        session.owner = "leecher";
        session.ownerEpoch = epoch;
        session.state = "committed";
      }
      return this.#outcome(session);
    });
  }

  owner(sessionId: Uint8Array): Promise<CommitOutcome> {
    return this.#answer(() => this.#outcome(this.session(sessionId)));
  }

  isHeld(): Promise<boolean> {
    return this.#answer(() => this.held);
  }

  describe(): Promise<void> {
    return Promise.resolve();
  }

  setState(sessionId: Uint8Array, change: StateChange): Promise<boolean> {
    return this.#answer(() => {
      const session = this.session(sessionId);
      if (isEnded(session.state)) return false;
      if (change.state === "cancelled" && session.owner === "leecher") return false;
      session.state = change.state;
      session.events.push(change.state);
      return true;
    });
  }

  saveProgress(): Promise<void> {
    return Promise.resolve();
  }

  addEvent(): Promise<void> {
    return Promise.resolve();
  }

  readonly index: IndexStore = {
    putSegment: () => Promise.resolve(),
    appendDelta: () => Promise.resolve(),
    setRoot: (_sessionId, _epoch, root) => {
      this.indexRoots.push(toHex(root));
      return Promise.resolve();
    },
    read: () => Promise.resolve([]),
  };

  #joined(sessionId: Uint8Array): JoinedSession {
    const { owner, ownerEpoch, state } = this.session(sessionId);
    return { sessionId, owner, ownerEpoch, state, held: this.held };
  }

  #outcome({ owner, ownerEpoch, state }: Session): CommitOutcome {
    return { committed: owner === "leecher", owner, ownerEpoch, state };
  }

  #answer<T>(answer: () => T): Promise<T> {
    if (this.unavailable) return Promise.reject(new Error("the database is down"));
    try {
      return Promise.resolve(answer());
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }
}
