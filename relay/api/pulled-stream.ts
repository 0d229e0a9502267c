/**
 * Server-sent events that are made when the reader takes them: nothing waits for a slow one, and one that reads nothing
 * is dropped.
 *
 * @module
 */

export interface PulledStreamOptions {
  /** The next text; empty if there is none yet, `undefined` at the end. Called again until there is some. */
  readonly next: () => Promise<string | undefined>;
  /** Whether the reader may still read. */
  readonly stillAllowed: () => Promise<boolean>;
  /** Called once. */
  readonly onEnd: () => void;
  readonly signal: AbortSignal;
}

/** Readers are told at least this often that they are connected. */
export const HEARTBEAT_MS = 10_000;
export const HEARTBEAT = ": still here\n\n";
/** A key that was revoked sees this much more at most. */
const RECHECK_MS = 5_000;
/** A reader that takes nothing for this long is dropped. */
const STALL_MS = 60_000;

export const EVENT_STREAM_HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  // For proxies that would rather collect it first.
  "x-accel-buffering": "no",
} as const;

/** @param id What a reader sends as `Last-Event-ID` when it comes back; without it the one before stays. */
export function eventText(event: string, data: unknown, id?: number): string {
  const first = id === undefined ? "" : `id: ${id}\n`;
  return `${first}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** Something that may have changed, for whoever pulls. */
export class Bell {
  #wake = (): void => {};
  #rung = false;

  ring = (): void => {
    this.#rung = true;
    this.#wake();
  };

  /** True if it was rung since the last time, or is within `ms`. */
  async rung(ms: number): Promise<boolean> {
    if (!this.#rung) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, ms);
      this.#wake = resolve;
      await promise;
      clearTimeout(timer);
      this.#wake = () => {};
    }
    const was = this.#rung;
    this.#rung = false;
    return was;
  }
}

export function pulledStream(options: PulledStreamOptions): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let takenAtMs = performance.now();
  let over = false;
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;

  const finish = (): void => {
    if (over) return;
    over = true;
    clearInterval(recheck);
    options.signal.removeEventListener("abort", finish);
    options.onEnd();
  };
  const recheck = setInterval(() => {
    const stalled = performance.now() - takenAtMs > STALL_MS;
    options
      .stillAllowed()
      // A database that is down says nothing about the key: the stream stays until it does.
      .catch(() => true)
      .then((allowed) => {
        if (over || (allowed && !stalled)) return;
        finish();
        if (stalled) controller?.error(new Error("the reader of an event stream stalled"));
        else controller?.close();
      })
      .catch(() => {
        // Closed in the same moment by its reader.
      });
  }, RECHECK_MS);
  options.signal.addEventListener("abort", finish);
  if (options.signal.aborted) finish();

  return new ReadableStream<Uint8Array>(
    {
      start(given) {
        controller = given;
      },
      async pull(given) {
        takenAtMs = performance.now();
        try {
          for (;;) {
            const text = over ? undefined : await options.next();
            takenAtMs = performance.now();
            if (over && text !== undefined) return given.close();
            if (text === undefined) {
              finish();
              return given.close();
            }
            if (text === "") continue;
            given.enqueue(encoder.encode(text));
            return;
          }
        } catch (error) {
          if (over) return;
          finish();
          // The reader reconnects, and gets a status that says what is wrong.
          given.error(error);
        }
      },
      cancel: finish,
    },
    { highWaterMark: 1 },
  );
}
