/**
 * Who acts: a process on a host. What a dead process still awaits is never answered.
 *
 * @module
 */
import { AsyncLocalStorage } from "node:async_hooks";

export class Host {
  readonly name: string;
  up = true;
  /** Nothing was started on it since it came up. */
  booted = true;
  /** What this host's wall clock is ahead of the truth. */
  wallAheadMs = 0;
  /** The processes that run on it. */
  readonly actors = new Set<Actor>();

  constructor(name: string) {
    this.name = name;
  }

  /** Takes all its processes with it. */
  crash(): void {
    this.up = false;
    this.booted = true;
    for (const actor of this.actors) actor.kill(true);
  }
}

export class Actor {
  readonly name: string;
  readonly host: Host;
  #alive = true;
  readonly #mourners = new Set<(hard: boolean) => void>();

  constructor(name: string, host: Host) {
    this.name = name;
    this.host = host;
    host.actors.add(this);
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** @returns Stops it. */
  onDeath(mourn: (hard: boolean) => void): () => void {
    this.#mourners.add(mourn);
    return () => this.#mourners.delete(mourn);
  }

  /** @param hard With its host, which has no time to tell anybody. */
  kill(hard: boolean): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.host.actors.delete(this);
    for (const mourn of this.#mourners) mourn(hard);
  }

  /** Runs `work` as this process: timers that it sets, however late, are this process's. */
  run<T>(work: () => T): T {
    return running.run(this, work);
  }
}

const running = new AsyncLocalStorage<Actor>();

/** Whose code runs now; `undefined`: the simulation itself. */
export function currentActor(): Actor | undefined {
  return running.getStore();
}
