/**
 * The leecher's view of pre-copy rounds: how many, how dirty, and what to do after each.
 *
 * @module
 */
import {
  expectedDowntimeMs,
  judgeConvergence,
  roundsMax,
  type ConvergencePolicy,
  type ConvergenceVerdict,
} from "./convergence.ts";
import type { OnMigrationEvent } from "./events.ts";
import type { FinalizePolicy } from "./leecher-options.ts";
import type { RoundMessage } from "./messages.ts";

export interface RoundsOptions {
  /** Asked after each round: an operator may change it. */
  readonly policy: () => ConvergencePolicy;
  readonly finalize: FinalizePolicy;
  readonly onEvent: OnMigrationEvent | undefined;
}

export class Rounds {
  readonly #options: RoundsOptions;
  #count = 0;
  #dirtyBytesPerS = 0;
  #previousRemainingBytes: number | undefined;
  #expectedDowntimeMs = 0;

  constructor(options: RoundsOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#count;
  }

  /** How many there are to be at most, as it stands. */
  get most(): number {
    return roundsMax(this.#options.policy());
  }

  get dirtyBytesPerS(): number {
    return this.#dirtyBytesPerS;
  }

  /** 0 while nobody can tell. */
  get expectedDowntimeMs(): number {
    return Number.isFinite(this.#expectedDowntimeMs) ? this.#expectedDowntimeMs : 0;
  }

  /** Takes a round's end in. @returns Whether to hand over now. */
  ended(
    message: RoundMessage,
    path: { readonly chunkBytes: number; readonly sendBytesPerS: number; readonly rttMs: number },
  ): boolean {
    const { finalize, onEvent } = this.#options;
    const policy = this.#options.policy();
    const { sendBytesPerS, rttMs } = path;
    const remainingBytes = message.dirtyChunks * path.chunkBytes;
    const previousRemainingBytes = this.#previousRemainingBytes;
    const { round, dirtyBytesPerS } = message;
    const measurement = { round, remainingBytes, previousRemainingBytes, sendBytesPerS, rttMs };
    this.#count = round;
    this.#dirtyBytesPerS = dirtyBytesPerS;
    this.#previousRemainingBytes = remainingBytes;
    this.#expectedDowntimeMs = expectedDowntimeMs(measurement, policy.mode);
    const verdict: ConvergenceVerdict =
      finalize.kind === "auto" ? judgeConvergence(measurement, policy) : "continue";
    onEvent?.({ event: "round", round, dirtyBytes: remainingBytes, dirtyBytesPerS, verdict });
    if (verdict === "force") {
      onEvent?.({
        event: "warning",
        code: "NOT_CONVERGING",
        message: `${round} rounds and still ${remainingBytes} dirty bytes: handing over with a longer downtime`,
      });
    }
    return verdict !== "continue";
  }
}
