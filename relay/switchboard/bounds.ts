/**
 * What keeps a session out of the relay, or holds it back.
 *
 * @module
 */
import type { NodeBuffers } from "./buffers.ts";
import type { FairShare } from "./fair-share.ts";
import type { LimitRefusal } from "./refusal.ts";
import { Room, type OnBytes } from "./room.ts";
import type { JoinedSession } from "./session-store.ts";

/** Shares the relay out among its sessions. */
export interface SwitchboardBounds {
  readonly shares: FairShare;
  readonly buffers: NodeBuffers;
  /** Why a session that is not here yet is kept out, if it is. */
  refusal(projectId: string | undefined): LimitRefusal | undefined;
  /** A session begins to be held back, or was kept out. */
  onThrottled(limitName: string): void;
}

/** A room whose bytes count against its project. */
export function openRoom(
  session: JoinedSession,
  options: { readonly onBytes?: OnBytes | undefined; readonly bounds?: SwitchboardBounds },
): Room {
  const { onBytes, bounds } = options;
  const sessionId = session.sessionId.slice();
  if (bounds === undefined || session.bounds === undefined) return new Room(sessionId, { onBytes });
  const { projectId, project, bytesPerS } = session.bounds;
  const flow = bounds.shares.flow({
    projectId,
    project,
    bytesPerS,
    onHeld: (limitName, rate) => {
      bounds.onThrottled(limitName);
      room.broadcast({ kind: "throttled", limitName, bytesPerS: rate, retryInMs: 0 });
    },
  });
  const buffers = bounds.buffers.session(projectId);
  const room = new Room(sessionId, { onBytes, flow, buffers });
  return room;
}
