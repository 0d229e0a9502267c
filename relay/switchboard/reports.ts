/**
 * What a leecher reports while it works, and what is told to a peer that comes to a session that is held.
 *
 * @module
 */
import type { Progress, ProgressMore } from "../protocol/frame.ts";
import { messageOf, type ProtocolError } from "../protocol/errors.ts";
import { writeFrame } from "../protocol/message-stream.ts";
import { FEATURES } from "../protocol/version.ts";
import type { SessionRecords } from "./record-lane.ts";
import type { Member, Room } from "./room.ts";
import type { JoinedSession, SessionStore } from "./session-store.ts";

/** Progress reaches the database at most this often; the API shows what is in memory. */
export const PROGRESS_SAVE_INTERVAL_MS = 5_000;

/** Writes an event of the session down. */
export type Note = (
  type: string,
  data: Readonly<Record<string, string | number | boolean>>,
) => void;

export function progressed(room: Room, progress: Progress, note: Note): void {
  const before = room.progress;
  room.progress = progress;
  if (progress.bytesSent !== before?.bytesSent) room.movedAtMs = Date.now();
  if (before === undefined || progress.round <= before.round) return;
  const { round, dirtyBytesPerS, sendBytesPerS, bytesRemaining } = progress;
  note("roundEnded", { round, dirtyBytesPerS, sendBytesPerS, bytesRemaining });
}

export function learned(room: Room, more: ProgressMore, note: Note): void {
  const before = room.more?.path;
  room.more = more;
  if (more.path === undefined || more.path === before) return;
  note("pathChanged", { path: more.path, ...(before === undefined ? {} : { before }) });
}

/** Written down when its turn comes, as it is by then. */
export async function saveProgress(
  {
    room,
    records,
    fail,
  }: {
    readonly room: Room;
    readonly records: SessionRecords;
    readonly fail: (error: ProtocolError) => void;
  },
  store: SessionStore,
): Promise<void> {
  if (room.progress === undefined || records.progressQueued) return;
  records.progressQueued = true;
  const taken = await records.phases.put({
    what: "progress",
    weight: 1,
    write: async () => {
      records.progressQueued = false;
      const { progress } = room;
      if (progress !== undefined) await store.saveProgress(room.sessionId, progress);
    },
    onRefused: fail,
  });
  if (!taken) records.progressQueued = false;
}

async function tellHold(member: Member, held: boolean): Promise<void> {
  if ((member.features & FEATURES.commands) === 0) return;
  const command = held ? "pause" : "resume";
  await writeFrame(member.stream, { kind: "command", command, reason: "" });
}

/** What people want of the session, to a peer that comes to it. One that was held is to know that it is no more. */
export async function tellWishes(
  member: Member,
  { held = false, terms }: Pick<JoinedSession, "held" | "terms">,
  { isBack }: { readonly isBack: boolean },
): Promise<void> {
  if ((member.features & FEATURES.commands) === 0) return;
  if (held || isBack) await tellHold(member, held);
  if (terms !== undefined) await writeFrame(member.stream, { kind: "terms", terms });
}

/** Somebody may have changed it while this peer was on its way in. @param told What it was told then. */
export async function tellNewHold(
  member: Member,
  sessionId: Uint8Array,
  told: boolean,
  {
    store,
    log,
  }: {
    readonly store: SessionStore;
    readonly log: (level: "debug", message: string, fields: Record<string, unknown>) => void;
  },
): Promise<void> {
  try {
    const held = (await store.isHeld?.(sessionId)) ?? told;
    if (held !== told) await tellHold(member, held);
  } catch (error) {
    log("debug", "a peer could not be told whether it is held", { reason: messageOf(error) });
  }
}
