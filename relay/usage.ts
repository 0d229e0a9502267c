/**
 * Adds up what sessions move through this relay, and writes it down every few seconds.
 *
 * @module
 */
import type { DatabaseSessionStore } from "./db/session-store.ts";
import { fromHex } from "./db/hex.ts";
import type { Log } from "./log.ts";
import { toHex } from "./protocol/bytes.ts";
import { messageOf } from "./protocol/errors.ts";
import type { Role } from "./protocol/ids.ts";
import type { Switchboard } from "./switchboard/switchboard.ts";

const USAGE_INTERVAL_MS = 10_000;

interface Moved extends Record<Role, number> {
  /** Both peers were connected so long. */
  pairedMs: number;
  path: string;
}

interface Seen {
  readonly bytesFrom: Readonly<Record<Role, number>>;
  readonly pairedAtMs: number | undefined;
}

/** @returns Stops, with the last of it written. */
export function recordUsage(
  switchboard: Switchboard,
  store: DatabaseSessionStore,
  log: Log,
  clock: () => number = () => performance.now(),
): () => Promise<void> {
  /** What a session's connection had moved when last looked at; a new connection counts from 0 again. */
  const seen = new Map<string, Seen>();
  const unsaved = new Map<string, Moved>();
  const look = (sessionId: Uint8Array): void => {
    const id = toHex(sessionId);
    const live = switchboard.live(sessionId);
    const before = seen.get(id);
    const nowMs = clock();
    const pairedMs = before?.pairedAtMs === undefined ? 0 : nowMs - before.pairedAtMs;
    const more = unsaved.get(id) ?? { seeder: 0, leecher: 0, pairedMs: 0, path: "websocket" };
    more.pairedMs += pairedMs;
    if (live === undefined) {
      seen.delete(id);
    } else {
      const now = { ...live.bytesFrom };
      for (const role of ["seeder", "leecher"] as const) {
        const then = before?.bytesFrom[role] ?? 0;
        more[role] += now[role] < then ? now[role] : now[role] - then;
      }
      more.path = live.seeder?.link ?? live.leecher?.link ?? more.path;
      const paired = live.seeder !== undefined && live.leecher !== undefined;
      seen.set(id, { bytesFrom: now, pairedAtMs: paired ? nowMs : undefined });
    }
    if (more.seeder + more.leecher + more.pairedMs > 0) unsaved.set(id, more);
  };
  const write = async (): Promise<void> => {
    for (const [id, moved] of unsaved) {
      unsaved.delete(id);
      try {
        await store.addUsage(fromHex(id), moved);
      } catch (error) {
        log("warn", "usage not recorded yet", { sessionId: id, reason: messageOf(error) });
        const since = unsaved.get(id);
        unsaved.set(id, {
          seeder: moved.seeder + (since?.seeder ?? 0),
          leecher: moved.leecher + (since?.leecher ?? 0),
          pairedMs: moved.pairedMs + (since?.pairedMs ?? 0),
          path: since?.path ?? moved.path,
        });
        // The others would fare no better.
        return;
      }
    }
  };
  let writing: Promise<void> | undefined;
  /** One at a time: a database that stands still is not asked again and again. */
  const save = (): Promise<void> => {
    writing ??= write().finally(() => {
      writing = undefined;
    });
    return writing;
  };
  const stopListening = switchboard.onChange(look);
  const timer = setInterval(() => void save(), USAGE_INTERVAL_MS);
  return async () => {
    clearInterval(timer);
    stopListening();
    await writing;
    await save();
  };
}
