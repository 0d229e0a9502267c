/**
 * The caller, as the migration's thread sees it.
 *
 * @module
 */
import type { MessagePort } from "node:worker_threads";
import { MigrationError } from "../errors.ts";
import type { Hook } from "../migration/hooks.ts";
import type { MigrationProgress } from "../migration/events.ts";
import { ASK_DEADLINE_MS, EVENTS_UNDER_WAY_MAX } from "./limits.ts";
import type { Ask, CommonSetup, FromThread, HookName, LibraryEvent, ToThread } from "./messages.ts";
import { packError, unpackError } from "./thrown.ts";

const PROGRESS_INTERVAL_MS = 200;

interface Pending {
  resolve(value: readonly number[]): void;
  reject(error: unknown): void;
}

export class Caller {
  readonly #port: MessagePort;
  readonly #setup: CommonSetup;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #eventsUnderWay = 0;
  #progressUnderWay = 0;
  #dropped = 0;

  constructor(port: MessagePort, setup: CommonSetup) {
    this.#port = port;
    this.#setup = setup;
  }

  /** Events that the caller was too slow for. */
  get dropped(): number {
    return this.#dropped;
  }

  post(message: FromThread): void {
    this.#port.postMessage(message);
  }

  /** @returns Whether the message was an answer to this side. */
  take(message: ToThread): boolean {
    switch (message.kind) {
      case "answer":
        this.#settle(message.id)?.resolve(message.value);
        return true;
      case "refusal":
        this.#settle(message.id)?.reject(unpackError(message.error));
        return true;
      case "seen":
        this.#eventsUnderWay -= message.events;
        this.#progressUnderWay -= message.progress;
        return true;
      default:
        return false;
    }
  }

  event(event: LibraryEvent): void {
    if (this.#eventsUnderWay >= EVENTS_UNDER_WAY_MAX) {
      this.#dropped++;
      return;
    }
    this.#eventsUnderWay++;
    this.post({ kind: "event", event });
  }

  /** Tells the numbers until it is stopped; of a caller that does not look, no more than once. */
  showProgress(progress: () => MigrationProgress): () => void {
    const timer = setInterval(() => {
      if (this.#progressUnderWay > 0) return;
      this.#progressUnderWay++;
      this.post({ kind: "progress", progress: progress() });
    }, PROGRESS_INTERVAL_MS);
    return () => clearInterval(timer);
  }

  /** @throws what the caller's thread threw, or `signal`'s reason */
  ask(
    ask: Ask,
    signal: AbortSignal = AbortSignal.timeout(ASK_DEADLINE_MS),
  ): Promise<readonly number[]> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const give = (): void => {
        this.#pending.delete(id);
        const error = tooSlow(ask, signal.reason);
        this.post({ kind: "enough", id, why: packError(error) });
        reject(error);
      };
      const done = (): void => signal.removeEventListener("abort", give);
      this.#pending.set(id, {
        resolve: (value) => {
          done();
          resolve(value);
        },
        reject: (error) => {
          done();
          // Rethrown to whoever asked: it was an error there, or was made one there.
          reject(error instanceof Error ? error : new Error(String(error)));
        },
      });
      signal.addEventListener("abort", give, { once: true });
      this.post({ kind: "ask", id, ask });
      if (signal.aborted) give();
    });
  }

  /** A hook as the seeder or the leecher wants it; `undefined` if the caller has none. */
  hook(name: HookName): Hook | undefined {
    if (!this.#setup.hooks.includes(name)) return undefined;
    return async (signal) => {
      const late = AbortSignal.timeout(this.#setup.hookTimeoutMs);
      await this.ask({ what: "hook", hook: name }, AbortSignal.any([signal, late]));
    };
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }
}

function tooSlow(ask: Ask, reason: unknown): MigrationError {
  const late = reason instanceof Error && reason.name === "TimeoutError";
  if (ask.what !== "hook") {
    return new MigrationError(
      "HOOK_FAILED",
      `the thread that called memferry did not answer (${ask.what}) within ${ASK_DEADLINE_MS / 1000} s: do not keep it busy, and touch no memory of a region that is suspended`,
      { cause: reason },
    );
  }
  if (!late)
    return new MigrationError("CANCELLED", `${ask.hook} was not waited for`, { cause: reason });
  const code = ask.hook === "onSuspend" ? "SUSPEND_TIMEOUT" : "HOOK_FAILED";
  return new MigrationError(code, `${ask.hook} took too long: see hookTimeoutMs`, {
    cause: reason,
  });
}
