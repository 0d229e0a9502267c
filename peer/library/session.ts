/**
 * One migration, on either side.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import type { MigrationProgress, MigrationTotals, Phase } from "../migration/events.ts";
import { EventLog, type SessionEvent, type SessionEventOf } from "./event-log.ts";
import { HookRunner } from "./hooks.ts";
import type { Ask, LibraryEvent, Outcome, Ready, Setup } from "./messages.ts";
import { MigrationThread } from "./thread.ts";
import { unpackError } from "./thrown.ts";

/** What a side does of its own. */
export interface Side {
  readonly setup: Setup;
  /** For the other peer and the relay. */
  readonly cancelReason: string;
  readonly signal: AbortSignal | undefined;
  answer(ask: Ask, signal: AbortSignal, hooks: HookRunner): Promise<readonly number[]>;
  /** At once, in the same turn. */
  onEvent?(event: LibraryEvent): void;
  /** The thread is gone; before `done` settles. */
  onEnd(outcome: Outcome): Promise<void>;
}

export class Session {
  /**
   * Settles when the migration is over. It fails with a `MigrationError`, `ProtocolError`, `LinkError` or `ApiError`;
   * `committed` tells where the regions are then.
   */
  readonly done: Promise<MigrationTotals>;
  readonly #side: Side;
  readonly #log = new EventLog();
  readonly #thread: MigrationThread;
  readonly #hooks = new HookRunner();
  #phase: Phase = "joined";
  #fingerprint: string | undefined;
  #progress: MigrationProgress | undefined;
  #committed = false;
  #over = false;
  #ready: Ready = { sessionId: "", ticket: undefined };

  protected constructor(side: Side) {
    this.#side = side;
    this.#thread = new MigrationThread({
      setup: side.setup,
      onEvent: (event) => this.#handle(event),
      onProgress: (progress) => {
        this.#progress = progress;
        this.#log.emit({ event: "progress", ...progress });
      },
      onAsk: (ask, signal) => side.answer(ask, signal, this.#hooks),
    });
    this.done = this.#finish();
    // Whoever does not look at it is not to be ended by it.
    this.done.catch(() => undefined);
  }

  /** Hexadecimal; the same on both sides and in the relay's API. */
  get id(): string {
    return this.#ready.sessionId;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** The same on both sides unless somebody is in between; `undefined` until they have met. */
  get fingerprint(): string | undefined {
    return this.#fingerprint;
  }

  /** Whether the destination owns the regions. */
  get committed(): boolean {
    return this.#committed;
  }

  /** The newest numbers. */
  get progress(): MigrationProgress | undefined {
    return this.#progress;
  }

  /**
   * Calls `listener` for each event of this name from now on.
   *
   * @returns Takes it off again.
   */
  on<Name extends SessionEvent["event"]>(
    name: Name,
    listener: (event: SessionEventOf<Name>) => void,
  ): () => void {
    return this.#log.on(name, listener);
  }

  /** Every event in order, those before the call too; ends with the session. */
  events(): AsyncGenerator<SessionEvent, void, undefined> {
    return this.#log.events();
  }

  /**
   * Ends the migration with the regions at the source, if the relay agrees.
   *
   * @param reason The other side is told.
   * @returns `false`: the destination owns the regions, and the migration goes on.
   */
  async cancel(reason = this.#side.cancelReason): Promise<boolean> {
    return await this.#thread.cancel(reason);
  }

  /**
   * Leaves at once, also after the commit. What the destination has not fetched by then is lost to it, unless both
   * sides keep their regions in files: then `memferry resume` goes on.
   */
  async abandon(reason = "abandoned"): Promise<void> {
    await this.#thread.abandon(reason, this.#committed);
    await this.done.catch(() => undefined);
  }

  /** Before the commit it cancels. After it, it waits for the end: see `abandon`. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#over) await this.cancel().catch(() => false);
    await this.done.catch(() => undefined);
  }

  /** @throws what kept it from joining */
  protected async joined(): Promise<void> {
    const { signal } = this.#side;
    const abort = (): void => {
      // Refused or failed: the session goes on, and says so itself.
      this.cancel().catch(() => undefined);
    };
    signal?.addEventListener("abort", abort, { once: true });
    void this.done.catch(() => undefined).then(() => signal?.removeEventListener("abort", abort));
    if (signal?.aborted === true) abort();
    try {
      this.#ready = await this.#thread.ready;
    } catch (error) {
      await this.done.catch(() => undefined);
      throw error;
    }
  }

  protected get ticketText(): string {
    return this.#ready.ticket ?? "";
  }

  protected askFinalize(): void {
    this.#thread.finalize();
  }

  #handle(event: LibraryEvent): void {
    if (event.event === "phase") this.#phase = event.phase;
    else if (event.event === "channel") this.#fingerprint = event.fingerprint;
    else if (event.event === "committed") this.#committed = true;
    this.#side.onEvent?.(event);
    this.#log.emit(event);
  }

  async #finish(): Promise<MigrationTotals> {
    const outcome = await this.#thread.ended;
    this.#over = true;
    if (!outcome.ok && outcome.committed) this.#committed = true;
    if (!outcome.ok && this.#phase !== "cancelled") this.#phase = "failed";
    try {
      await this.#side.onEnd(
        this.#committed && !outcome.ok ? { ...outcome, committed: true } : outcome,
      );
    } finally {
      if (outcome.dropped > 0) this.#log.emit({ event: "dropped", count: outcome.dropped });
      this.#log.close();
    }
    if (outcome.ok) return outcome.totals;
    throw unpackError(outcome.error);
  }
}

/** @throws MigrationError `CANCELLED` */
export function requireNotAborted(signal: AbortSignal | undefined, call: string): void {
  if (signal?.aborted !== true) return;
  throw new MigrationError("CANCELLED", `${call} was cancelled before it began`, {
    cause: signal.reason,
  });
}
