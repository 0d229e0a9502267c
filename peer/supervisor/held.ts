/**
 * What a supervised peer leaves with its supervisor, and finds again when it is started anew.
 *
 * A mount and a store live as long as somebody holds their descriptors. The supervisor takes copies, so when the peer
 * is killed the kernel keeps every program that waits for an answer waiting, locks stay locked, and memory that has
 * no file is not lost.
 *
 * @module
 */
import { once } from "node:events";
import type { FuseMount, NativeRegion } from "../../native/index.ts";

/** Descriptors by what they are of; numbers of the process that says so. */
export interface Holdings {
  /** By region name. */
  readonly stores: Readonly<Record<string, number>>;
  /** By mount point, each with all its channels. */
  readonly mounts: Readonly<Record<string, readonly number[]>>;
}

/** Worker to supervisor. */
export type WorkerMessage =
  | { readonly kind: "hold"; readonly session: string; readonly holdings: Holdings }
  /** The session that a successor is to go on with. */
  | { readonly kind: "session"; readonly session: string };

/** Supervisor to worker: everything is held. */
export interface SupervisorMessage {
  readonly kind: "held";
  /** Why it could not be; empty if it is. */
  readonly problem: string;
}

const NOTHING: Holdings = { stores: {}, mounts: {} };

/** This process's side of its supervision. */
export class Supervision {
  readonly holdings: Holdings;
  readonly #supervised: boolean;

  /** @param inherited JSON of `Holdings`, from the environment; `undefined` if nobody supervises this process. */
  constructor(inherited: string | undefined) {
    this.#supervised = inherited !== undefined && process.send !== undefined;
    // Written by our own supervisor for this process.
    this.holdings = this.#supervised ? (JSON.parse(inherited ?? "") as Holdings) : NOTHING;
  }

  /** Whose process id stands for this peer: it outlives the others. */
  get lockPid(): number {
    return this.#supervised ? process.ppid : process.pid;
  }

  /** Whether the workload never lost its mounts. */
  get tookOver(): boolean {
    return Object.keys(this.holdings.mounts).length > 0;
  }

  /** Leaves what is open here with the supervisor. @returns Why it could not; empty if it could */
  async hold(
    session: string,
    regions: readonly { readonly name: string; readonly region: NativeRegion }[],
    mounts: Iterable<FuseMount>,
  ): Promise<string> {
    if (!this.#supervised) return "";
    const holdings: Holdings = {
      stores: Object.fromEntries(regions.map(({ name, region }) => [name, region.descriptor])),
      mounts: Object.fromEntries([...mounts].map((mount) => [mount.directory, mount.channels()])),
    };
    const answered = once(process, "message");
    this.#send({ kind: "hold", session, holdings });
    const [answer] = (await answered) as [SupervisorMessage];
    return answer.problem;
  }

  /** Names the session that a successor goes on with. */
  session(session: string): void {
    if (this.#supervised) this.#send({ kind: "session", session });
  }

  /** Lets the process end although the supervisor listens. */
  release(): void {
    if (this.#supervised && process.connected) process.disconnect();
  }

  #send(message: WorkerMessage): void {
    // A supervisor that is gone cannot hold anything; the peer goes on without.
    if (process.connected) process.send?.(message);
  }
}
