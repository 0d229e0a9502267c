/**
 * A migration's thread, as the caller's side sees it.
 *
 * @module
 */
import { Worker } from "node:worker_threads";
import { MigrationError } from "../errors.ts";
import type { MigrationProgress } from "../migration/events.ts";
import { LEAVE_PATIENCE_MS } from "./limits.ts";
import type { Ask, FromThread, LibraryEvent, Outcome, Ready, Setup, ToThread } from "./messages.ts";
import { packError, unpackError } from "./thrown.ts";

export interface ThreadOptions {
  readonly setup: Setup;
  readonly onEvent: (event: LibraryEvent) => void;
  readonly onProgress: (progress: MigrationProgress) => void;
  /** Does what is asked; `signal` aborts when nobody waits for it any more. */
  readonly onAsk: (ask: Ask, signal: AbortSignal) => Promise<readonly number[]>;
}

/** In the source tree this module is TypeScript, and in the package it is not. */
const WORKER_URL = new URL(
  import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js",
  import.meta.url,
);

export class MigrationThread {
  readonly ready: Promise<Ready>;
  /** Resolves once the thread is gone. */
  readonly ended: Promise<Outcome>;
  readonly #options: ThreadOptions;
  readonly #worker: Worker;
  readonly #asks = new Map<number, AbortController>();
  readonly #cancels = new Map<number, (agreed: boolean | Error) => void>();
  #nextId = 1;
  #end: (outcome: Outcome) => void = () => undefined;
  #becomeReady: (ready: Ready) => void = () => undefined;
  #outcome: Outcome | undefined;

  constructor(options: ThreadOptions) {
    this.#options = options;
    const worker = new Worker(WORKER_URL, {
      workerData: options.setup,
      name: `memferry ${options.setup.role}`,
    });
    this.#worker = worker;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.ready = new Promise((resolve, reject) => {
      this.#becomeReady = resolve;
      void this.ended.then((outcome) => {
        if (!outcome.ok) reject(unpackError(outcome.error));
      });
    });
    // Told by `ended` all the same.
    this.ready.catch(() => undefined);
    worker.on("message", (message: FromThread) => this.#handle(message));
    worker.on("error", (error: unknown) => this.#fail(error));
    worker.on("messageerror", (error: unknown) => this.#fail(error));
    worker.on("exit", (code) => this.#fail(new Error(`it ended with status ${code}`)));
  }

  /** @returns Whether the migration is over here; `false`: the other side owns the regions. */
  cancel(reason: string): Promise<boolean> {
    if (this.#outcome !== undefined) return Promise.resolve(!this.#outcome.ok);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#cancels.set(id, (agreed) => {
        if (agreed instanceof Error) reject(agreed);
        else resolve(agreed);
      });
      this.#post({ kind: "cancel", id, reason });
    });
  }

  finalize(): void {
    this.#post({ kind: "finalize" });
  }

  /** Ends the thread, in order if it can be, whatever becomes of the migration. */
  async abandon(reason: string, committed: boolean): Promise<void> {
    if (this.#outcome === undefined) this.#post({ kind: "abandon", reason });
    let timer;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LEAVE_PATIENCE_MS);
    });
    await Promise.race([this.ended, late]);
    clearTimeout(timer);
    this.#settle({
      ok: false,
      error: packError(new MigrationError("CANCELLED", reason)),
      committed,
      dropped: 0,
    });
    await this.ended;
  }

  #handle(message: FromThread): void {
    switch (message.kind) {
      case "ready":
        this.#becomeReady({ sessionId: message.sessionId, ticket: message.ticket });
        return;
      case "event":
        this.#post({ kind: "seen", events: 1, progress: 0 });
        this.#options.onEvent(message.event);
        return;
      case "progress":
        this.#post({ kind: "seen", events: 0, progress: 1 });
        this.#options.onProgress(message.progress);
        return;
      case "ask":
        void this.#answer(message.id, message.ask);
        return;
      case "enough":
        this.#asks.get(message.id)?.abort(unpackError(message.why));
        return;
      case "cancelled": {
        const { agreed } = message;
        this.#cancels.get(message.id)?.(typeof agreed === "boolean" ? agreed : unpackError(agreed));
        this.#cancels.delete(message.id);
        return;
      }
      case "over":
        this.#settle(message.outcome);
        return;
    }
  }

  async #answer(id: number, ask: Ask): Promise<void> {
    const asked = new AbortController();
    this.#asks.set(id, asked);
    try {
      const value = await this.#options.onAsk(ask, asked.signal);
      this.#post({ kind: "answer", id, value });
    } catch (error) {
      this.#post({ kind: "refusal", id, error: packError(error) });
    } finally {
      this.#asks.delete(id);
    }
  }

  #fail(error: unknown): void {
    if (this.#outcome !== undefined) return;
    const cause = error instanceof Error ? error : new Error(String(error));
    const message = `the thread of the migration failed: ${cause.message}`;
    const failure = new MigrationError("THREAD_FAILED", message, { cause });
    this.#settle({ ok: false, error: packError(failure), committed: false, dropped: 0 });
  }

  /** The first outcome counts. Nothing runs any more when `ended` resolves. */
  #settle(outcome: Outcome): void {
    if (this.#outcome !== undefined) return;
    this.#outcome = outcome;
    void this.#worker.terminate().then(() => {
      for (const asked of this.#asks.values()) asked.abort(new Error("the migration is over"));
      for (const answer of this.#cancels.values()) answer(!outcome.ok);
      this.#cancels.clear();
      this.#end(outcome);
    });
  }

  #post(message: ToThread): void {
    // To a thread that is gone this does nothing.
    this.#worker.postMessage(message);
  }
}
