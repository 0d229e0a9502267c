/**
 * What happened in a session, for any number of listeners, none of which can hold it up.
 *
 * @module
 */
import type { MigrationProgress } from "../migration/events.ts";
import { EVENTS_QUEUED_MAX } from "./limits.ts";
import type { LibraryEvent } from "./messages.ts";

export type SessionEvent =
  | LibraryEvent
  | ({ readonly event: "progress" } & MigrationProgress)
  /** A listener was too slow: so many events before this one are lost to it. */
  | { readonly event: "dropped"; readonly count: number };

/** `round` → the event whose `event` is `round`. */
export type SessionEventOf<Name extends SessionEvent["event"]> = Extract<
  SessionEvent,
  { readonly event: Name }
>;

type Listener = (event: SessionEvent) => void;

export class EventLog {
  readonly #past: SessionEvent[] = [];
  readonly #listeners = new Map<SessionEvent["event"], Set<Listener>>();
  readonly #queues = new Set<EventQueue>();
  #closed = false;

  emit(event: SessionEvent): void {
    if (event.event !== "progress") {
      this.#past.push(event);
      if (this.#past.length > EVENTS_QUEUED_MAX) this.#past.shift();
    }
    for (const queue of this.#queues) queue.push(event);
    for (const listener of this.#listeners.get(event.event) ?? []) {
      try {
        listener(event);
      } catch (error) {
        // The caller's own mistake: told as of any event handler, and no business of the migration.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  /** @returns Takes the listener off again. */
  on<Name extends SessionEvent["event"]>(
    name: Name,
    listener: (event: SessionEventOf<Name>) => void,
  ): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    // It is only ever called with events of this name.
    const general = listener as Listener;
    listeners.add(general);
    return () => void listeners.delete(general);
  }

  /** From the beginning of the session to its end. */
  async *events(): AsyncGenerator<SessionEvent, void, undefined> {
    const queue = new EventQueue(this.#past);
    if (this.#closed) queue.close();
    else this.#queues.add(queue);
    try {
      yield* queue.take();
    } finally {
      this.#queues.delete(queue);
    }
  }

  close(): void {
    this.#closed = true;
    for (const queue of this.#queues) queue.close();
  }
}

class EventQueue {
  readonly #events: SessionEvent[];
  #dropped = 0;
  #closed = false;
  #wake: () => void = () => undefined;

  constructor(past: readonly SessionEvent[]) {
    this.#events = [...past];
  }

  push(event: SessionEvent): void {
    // Of numbers only the newest count.
    if (event.event === "progress" && this.#events.at(-1)?.event === "progress") this.#events.pop();
    this.#events.push(event);
    if (this.#events.length > EVENTS_QUEUED_MAX) {
      this.#events.shift();
      this.#dropped++;
    }
    this.#wake();
  }

  close(): void {
    this.#closed = true;
    this.#wake();
  }

  async *take(): AsyncGenerator<SessionEvent, void, undefined> {
    for (;;) {
      if (this.#dropped > 0) {
        const count = this.#dropped;
        this.#dropped = 0;
        yield { event: "dropped", count };
      }
      const event = this.#events.shift();
      if (event !== undefined) yield event;
      else if (this.#closed) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
