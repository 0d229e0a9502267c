/**
 * A relay that cannot read the peers' signals, and may keep them: old ones come again later, also to another process
 * of the same peer.
 *
 * @module
 */
import type { RelayedSession } from "../../peer/net/paths/path-manager.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import type { Actor } from "./actor.ts";
import type { Clock } from "./clock.ts";
import type { Random } from "./random.ts";

const KEPT_MAX = 64;
const LATER_MEAN_MS = 6_000;

export class OldSignals {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #repeats: number;
  readonly #kept: Record<Role, Uint8Array[]> = { seeder: [], leecher: [] };

  /** @param repeats Old signals for each new one, at most one. */
  constructor(clock: Clock, random: Random, repeats: number) {
    this.#clock = clock;
    this.#random = random;
    this.#repeats = repeats;
  }

  session(role: Role, actor: Actor, session: RelayedSession): RelayedSession {
    const kept = this.#kept[role];
    const again = (listener: (payload: Uint8Array) => void): void => {
      const old = kept[this.#random.below(kept.length)];
      if (old === undefined || !this.#random.chance(this.#repeats)) return;
      this.#clock.after(this.#random.delay(LATER_MEAN_MS), actor, () => listener(old.slice()));
    };
    return {
      get ownership() {
        return session.ownership;
      },
      get passesSignals() {
        return session.passesSignals;
      },
      set onSignal(listener: (payload: Uint8Array) => void) {
        session.onSignal = (payload) => {
          if (kept.length < KEPT_MAX) kept.push(payload.slice());
          listener(payload);
          again(listener);
        };
      },
      pairing: (signal) => session.pairing(signal),
      sendSignal: (payload) => session.sendSignal(payload),
      renewPairing: (number) => session.renewPairing(number),
      commit: (epoch, signal) => session.commit(epoch, signal),
      revoke: (reason, signal) => session.revoke(reason, signal),
      reportPhase: (state, reason) => session.reportPhase(state, reason),
      reportProgress: (progress) => session.reportProgress(progress),
      reportIndex: (frame) => session.reportIndex(frame),
    };
  }
}
