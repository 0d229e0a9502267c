/**
 * The relay's database as its nodes see it: one truth behind a connection that is slow, refuses, freezes, or
 * loses the answer to what it did.
 *
 * The rules are those of `relay/db/session-store.ts`, without SQL.
 *
 * @module
 */
import { toHex } from "../../relay/protocol/bytes.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import { isEnded, type Role, type SessionState } from "../../relay/protocol/ids.ts";
import type {
  CommitOutcome,
  JoinedSession,
  SessionStore,
  StateChange,
} from "../../relay/switchboard/session-store.ts";
import type { Actor } from "./actor.ts";
import type { Clock } from "./clock.ts";
import type { Random } from "./random.ts";

/** After this a node gives an answer up; the question may still be carried out. */
const PATIENCE_MS = 5_000;

export interface Truth {
  owner: Role;
  ownerEpoch: number;
  state: SessionState;
}

export interface DatabaseTrouble {
  /** Share of the questions that are refused, not carried out. */
  refused: number;
  /** Share that is carried out, but whose answer is lost. */
  unanswered: number;
  /** Share that takes long. */
  late: number;
  meanMs: number;
}

export class Database {
  readonly truth: Truth = { owner: "seeder", ownerEpoch: 0, state: "pending" };
  readonly trouble: DatabaseTrouble = { refused: 0, unanswered: 0, late: 0, meanMs: 1 };
  /** Somebody has asked through the API to send nothing for now. */
  held = false;
  /** Nothing is carried out while set. */
  frozen = false;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #onChange: (change: "commit" | "state", what: string) => void;
  readonly #tokens: Record<Role, string>;
  readonly #keys: Partial<Record<Role, string>> = {};
  #thaw: (() => void)[] = [];

  constructor(options: {
    readonly clock: Clock;
    readonly random: Random;
    readonly tokens: Record<Role, Uint8Array>;
    readonly onChange: (change: "commit" | "state", what: string) => void;
  }) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#onChange = options.onChange;
    this.#tokens = { seeder: toHex(options.tokens.seeder), leecher: toHex(options.tokens.leecher) };
  }

  unfreeze(): void {
    this.frozen = false;
    for (const wake of this.#thaw.splice(0)) wake();
  }

  /** What one node sees. */
  connect(node: Actor): SessionStore {
    const ask = <T>(question: () => T): Promise<T> => this.#ask(node, question);
    const nothing = (): Promise<void> => ask(() => undefined);
    return {
      useTicket: (join) => ask(() => this.#useTicket(join)),
      rejoin: ({ sessionId, role, peerKey }) =>
        ask(() => {
          if (this.#keys[role] !== toHex(peerKey)) {
            throw new ProtocolError("PEER_UNKNOWN", "this peer has not joined the session");
          }
          return this.#joined(sessionId);
        }),
      commit: (_sessionId, epoch) => ask(() => this.#commit(epoch)),
      owner: () => ask(() => this.#outcome()),
      isHeld: () => ask(() => this.held),
      describe: nothing,
      setState: (_sessionId, change) => ask(() => this.#setState(change)),
      saveProgress: nothing,
      addEvent: nothing,
      index: {
        putSegment: nothing,
        appendDelta: nothing,
        setRoot: nothing,
        read: () => ask(() => []),
      },
    };
  }

  #ask<T>(node: Actor, question: () => T): Promise<T> {
    const [random, clock] = [this.#random, this.#clock];
    const { refused, unanswered, late, meanMs } = this.trouble;
    return new Promise((resolve, reject) => {
      if (!node.alive) return;
      const unavailable = (): void => reject(new Error("the database does not answer"));
      if (random.chance(refused)) {
        clock.after(random.delay(meanMs), node, unavailable);
        return;
      }
      clock.after(PATIENCE_MS, node, unavailable);
      const carryOut = (): void => {
        if (this.frozen) {
          this.#thaw.push(() => clock.after(random.delay(20), undefined, carryOut));
          return;
        }
        let answer: () => void;
        try {
          const found = question();
          answer = () => resolve(found);
        } catch (error) {
          answer = () => reject(error instanceof Error ? error : new Error(String(error)));
        }
        clock.after(random.delay(meanMs), node, random.chance(unanswered) ? unavailable : answer);
      };
      // It is carried out even if the node that asked is dead by then.
      const slow = random.chance(late) ? random.between(500, 9_000) : 0;
      clock.after(random.delay(meanMs) + slow, undefined, carryOut);
    });
  }

  #useTicket(join: Parameters<SessionStore["useTicket"]>[0]): JoinedSession {
    if (this.#tokens[join.role] !== toHex(join.token)) {
      throw new ProtocolError("TICKET_UNKNOWN", "no such ticket");
    }
    if (isEnded(this.truth.state)) throw new ProtocolError("SESSION_ENDED", "the session is over");
    const bound = (this.#keys[join.role] ??= toHex(join.peerKey));
    if (bound !== toHex(join.peerKey)) throw new ProtocolError("TICKET_USED", "used by another");
    return this.#joined(join.sessionId);
  }

  #commit(epoch: number): CommitOutcome {
    const { truth } = this;
    if (truth.owner === "seeder" && truth.ownerEpoch < epoch && !isEnded(truth.state)) {
      truth.owner = "leecher";
      truth.ownerEpoch = epoch;
      truth.state = "committed";
      this.#onChange("commit", `commit of epoch ${epoch}`);
    }
    return {
      ...this.#outcome(),
      committed: truth.owner === "leecher" && truth.ownerEpoch === epoch,
    };
  }

  #setState(change: StateChange): boolean {
    const verdict = judge(this.truth, this.#keys, change);
    if (verdict === "refuse") return false;
    if (verdict === "change") {
      this.truth.state = change.state;
      this.#onChange("state", `state ${change.state} by ${change.by}`);
    }
    return true;
  }

  #joined(sessionId: Uint8Array): JoinedSession {
    return { sessionId, ...this.truth, held: this.held };
  }

  #outcome(): CommitOutcome {
    return { ...this.truth, committed: this.truth.owner === "leecher" };
  }
}

function judge(
  { state, owner }: Truth,
  keys: Partial<Record<Role, string>>,
  change: StateChange,
): "refuse" | "note" | "change" {
  if (isEnded(state)) return "refuse";
  switch (change.state) {
    case "pending":
      return "refuse";
    case "joined": {
      const bothJoined = keys.seeder !== undefined && keys.leecher !== undefined;
      return state === "pending" && bothJoined ? "change" : "note";
    }
    case "tracking":
    case "precopy":
    case "finalizing":
    case "suspended":
    case "cancelled":
      return owner === "seeder" ? "change" : "refuse";
    case "committed":
    case "postcopy":
    case "done":
      return owner === "leecher" ? "change" : "refuse";
    case "failed":
      return owner === "leecher" && change.by === "seeder" ? "note" : "change";
    case "paused":
      return "change";
  }
}
