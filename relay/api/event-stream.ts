/**
 * Sessions of a project as server-sent events.
 *
 * A stream begins with `snapshot` (the newest sessions) and goes on with `session`, one for each that
 * changed, with all that the API knows of it. What waits to be sent is a set of ids, so a reader that is slow
 * skips states and not sessions, and one that reads nothing costs that set until it is dropped.
 *
 * @module
 */
import type { SessionBody } from "./schemas.ts";

export interface EventStreamOptions {
  readonly snapshot: () => Promise<readonly SessionBody[]>;
  /** Those of the ids that the reader may see. */
  readonly sessions: (ids: readonly string[]) => Promise<readonly SessionBody[]>;
  readonly subscribe: (listener: (sessionId: string) => void) => () => void;
  /** Whether the reader may still read. */
  readonly stillAllowed: () => Promise<boolean>;
  readonly onEnd: () => void;
  readonly signal: AbortSignal;
}

/** A session's changes are put together for this long. */
const COALESCE_MS = 250;
const HEARTBEAT_MS = 10_000;
/** A key that was revoked sees this much more at most. */
const RECHECK_MS = 5_000;
/** A reader that takes nothing for this long is dropped. */
const STALL_MS = 60_000;
/** More changed sessions than this are a new snapshot. */
const CHANGED_MAX = 2_000;
const SESSIONS_PER_EVENT_BATCH = 100;

export function eventStream(options: EventStreamOptions): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const changed = new Set<string>();
  let snapshotDue = true;
  let eventId = 0;
  let takenAtMs = performance.now();
  let wake = (): void => {};
  let over = false;

  const message = (event: string, data: unknown): string =>
    `id: ${++eventId}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

  const unsubscribe = options.subscribe((sessionId) => {
    if (changed.size < CHANGED_MAX) {
      changed.add(sessionId);
    } else {
      changed.clear();
      snapshotDue = true;
    }
    wake();
  });

  const finish = (): void => {
    if (over) return;
    over = true;
    unsubscribe();
    clearInterval(recheck);
    options.signal.removeEventListener("abort", finish);
    wake();
    options.onEnd();
  };

  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
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

  /** True after a change, false after a while without one. */
  const nextChange = async (): Promise<boolean> => {
    if (snapshotDue || changed.size > 0) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), HEARTBEAT_MS);
    wake = () => resolve(true);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      wake = () => {};
    }
  };

  const next = async (): Promise<string> => {
    if (snapshotDue) {
      snapshotDue = false;
      changed.clear();
      return `retry: 1000\n${message("snapshot", { sessions: await options.snapshot() })}`;
    }
    if (!(await nextChange())) return ": still here\n\n";
    if (over || snapshotDue) return "";
    await new Promise((resolve) => setTimeout(resolve, COALESCE_MS));
    const ids = [...changed].slice(0, SESSIONS_PER_EVENT_BATCH);
    for (const id of ids) changed.delete(id);
    const bodies = await options.sessions(ids);
    return bodies.map((body) => message("session", body)).join("");
  };

  return new ReadableStream<Uint8Array>(
    {
      start(given) {
        controller = given;
      },
      async pull(given) {
        takenAtMs = performance.now();
        try {
          for (;;) {
            const text = over ? "" : await next();
            takenAtMs = performance.now();
            if (text !== "" && !over) {
              given.enqueue(encoder.encode(text));
              return;
            }
            if (over) {
              given.close();
              return;
            }
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
