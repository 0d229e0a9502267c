/**
 * The sessions of the project as they are now, and since when that is not known.
 *
 * One event stream feeds it. React reads it through `useSyncExternalStore`; what changed within one frame is
 * told once.
 *
 * @module
 */
import { useSyncExternalStore } from "react";

import type { SessionBody } from "../../../relay/app.ts";
import { ENDED } from "../model/session.ts";
import { follow } from "./api.ts";
import { History } from "./history.ts";

export interface Live {
  /** The newest first. */
  readonly sessions: readonly SessionBody[];
  readonly byId: ReadonlyMap<string, SessionBody>;
  /** Nothing was heard since; undefined while what is shown is up to date. */
  readonly staleSince: Date | undefined;
  readonly loaded: boolean;
  /** Why the relay no longer answers this sign-in. */
  readonly refused: string | undefined;
}

const EMPTY: Live = {
  sessions: [],
  byId: new Map(),
  staleSince: undefined,
  loaded: false,
  refused: undefined,
};
/** Ended ones beyond these are found by searching. */
const ENDED_KEPT = 500;

class LiveStore {
  readonly history = new History();
  readonly #listeners = new Set<() => void>();
  readonly #byId = new Map<string, SessionBody>();
  #live = EMPTY;
  #scheduled = false;
  #following: AbortController | undefined;

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = (): Live => this.#live;

  start(): void {
    this.stop();
    const following = new AbortController();
    this.#following = following;
    void follow(
      {
        onSnapshot: (sessions) => {
          // What ended long ago is not in it, and may have been looked up: it does not change any more.
          for (const [id, session] of this.#byId) {
            if (!ENDED.has(session.state)) this.#byId.delete(id);
          }
          for (const session of sessions) this.#take(session);
          this.#change({ loaded: true });
        },
        onSession: (session) => {
          this.#take(session);
          this.#change({});
        },
        onGone: (id) => {
          this.#byId.delete(id);
          this.#change({});
        },
        onStale: (staleSince) => this.#change({ staleSince }),
        onRefused: (refused) => this.#change({ refused }),
      },
      following.signal,
    );
  }

  stop(): void {
    this.#following?.abort();
    this.#following = undefined;
    this.#byId.clear();
    this.#live = EMPTY;
    this.#tell();
  }

  /** One that was asked for by its id. */
  add(session: SessionBody): void {
    this.#take(session);
    this.#change({});
  }

  #take(session: SessionBody): void {
    const known = this.#byId.get(session.id);
    // An answer that overtook the stream.
    if (known !== undefined && known.version > session.version) return;
    this.#byId.set(session.id, session);
    if (!ENDED.has(session.state)) this.history.add(session, Date.now());
  }

  #change(change: Partial<Omit<Live, "sessions" | "byId">>): void {
    this.#live = { ...this.#live, ...change };
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A hidden page draws no frames, and still has to be right when it is looked at.
    const schedule = document.hidden
      ? (work: () => void) => window.setTimeout(work, 250)
      : (work: () => void) => window.requestAnimationFrame(work);
    schedule(() => {
      this.#scheduled = false;
      this.#publish();
    });
  }

  #publish(): void {
    const sessions = [...this.#byId.values()].sort(newestFirst);
    const ended = sessions.filter(({ state }) => ENDED.has(state));
    for (const { id } of ended.slice(ENDED_KEPT)) this.#byId.delete(id);
    this.#live = { ...this.#live, sessions, byId: new Map(this.#byId) };
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}

function newestFirst(a: SessionBody, b: SessionBody): number {
  const [left, right] = [a.timings.createdAt, b.timings.createdAt];
  return left === right ? (a.id < b.id ? 1 : -1) : left < right ? 1 : -1;
}

export const live = new LiveStore();

export function useLive(): Live {
  return useSyncExternalStore(live.subscribe, live.snapshot);
}

export function useSession(id: string): SessionBody | undefined {
  return useLive().byId.get(id);
}
