/**
 * Whether this relay lets another session in: its descriptors, its memory, its number of sessions, and whether the
 * project has bytes left this month. Sessions that are here go on whatever it says.
 *
 * @module
 */
import { limitError, type LimitMet, type RelayLimits } from "./limits.ts";
import { messageOf } from "./protocol/errors.ts";
import type { RelayError } from "./errors.ts";
import { readResources, type Resources } from "./runtime/resources.ts";
import { LimitRefusal } from "./switchboard/refusal.ts";

/** Counting descriptors takes some milliseconds when there are many. */
const LOOK_MS = 1_000;
/** When somebody who was not let in is to ask again. */
const RETRY_S = 10;
/** Of the memory there is, unless configured. */
const MEMORY_PART = 0.75;

const NO_RESOURCES: Resources = {
  openFiles: 0,
  openFilesMax: 0,
  memoryBytes: 0,
  memoryBytesMax: 0,
};

export interface NodeBoundsOptions {
  readonly limits: RelayLimits;
  readonly liveSessions: () => number;
  readonly onProblem: (reason: string) => void;
  /** Default: this process's. */
  readonly resources?: () => Resources;
  /** Milliseconds, monotone. */
  readonly clock?: () => number;
}

export class NodeBounds {
  readonly #options: NodeBoundsOptions;
  readonly #clock: () => number;
  #resources = NO_RESOURCES;
  #lookedAtMs = -Infinity;
  /** Projects that have moved what they may this month. */
  #spent = new Map<string, number>();

  constructor(options: NodeBoundsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => performance.now());
  }

  get resources(): Resources {
    const nowMs = this.#clock();
    if (nowMs - this.#lookedAtMs < LOOK_MS) return this.#resources;
    this.#lookedAtMs = nowMs;
    try {
      this.#resources = (this.#options.resources ?? readResources)();
    } catch (error) {
      this.#options.onProblem(messageOf(error));
    }
    return this.#resources;
  }

  /** Bytes that the process may have; 0: no bound. */
  get memoryBytesMax(): number {
    const { memoryBytes } = this.#options.limits;
    return memoryBytes > 0 ? memoryBytes : Math.floor(this.resources.memoryBytesMax * MEMORY_PART);
  }

  get openFilesPercent(): number {
    const { openFiles, openFilesMax } = this.resources;
    return openFilesMax === 0 ? 0 : Math.ceil((openFiles / openFilesMax) * 100);
  }

  /** @param spent Projects past their month's bytes, and how many they may move. */
  setSpent(spent: ReadonlyMap<string, number>): void {
    this.#spent = new Map(spent);
  }

  /** The bound that keeps a new session out, if one does. */
  met(projectId: string | undefined): LimitMet | undefined {
    const { limits, liveSessions } = this.#options;
    const met = (limitName: LimitMet["limitName"], limit: number): LimitMet => ({
      limitName,
      limit,
      retryAfterS: RETRY_S,
    });
    if (liveSessions() >= limits.liveSessions) return met("liveSessions", limits.liveSessions);
    if (this.openFilesPercent >= limits.openFilesPercent) {
      return met("openFilesPercent", limits.openFilesPercent);
    }
    const memory = this.memoryBytesMax;
    if (memory > 0 && this.resources.memoryBytes >= memory) return met("memoryBytes", memory);
    const bytes = projectId === undefined ? undefined : this.#spent.get(projectId);
    if (bytes === undefined) return undefined;
    return {
      limitName: "relayedBytesPerMonth",
      limit: bytes,
      retryAfterS: secondsLeftInMonth(new Date()),
    };
  }

  /** For the API. */
  error(projectId: string): RelayError | undefined {
    const met = this.met(projectId);
    return met === undefined ? undefined : limitError("LIMIT_EXCEEDED", met, sentence(met));
  }

  /** For peers. */
  refusal(projectId: string | undefined): LimitRefusal | undefined {
    const met = this.met(projectId);
    if (met === undefined) return undefined;
    // A frame has 32 bits for it, and nobody needs to wait that long to ask.
    const retryInMs = Math.min(met.retryAfterS, 3_600) * 1_000;
    return new LimitRefusal(met.limitName, retryInMs, sentence(met));
  }
}

function sentence({ limitName }: LimitMet): string {
  return limitName === "relayedBytesPerMonth"
    ? "this project has moved its bytes of this month through the relay: running sessions go on, new ones wait"
    : `the relay is full (${limitName}): running sessions go on, new ones wait`;
}

/** The month of UTC, as it is counted. */
export function secondsLeftInMonth(now: Date): number {
  const next = Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1);
  return Math.max(1, Math.ceil((next - now.getTime()) / 1_000));
}
