/**
 * What a migration needs of its session: the other peer, and the relay's word on who owns the region.
 *
 * `PathManager` is the real one, or `RelayControl` by itself.
 *
 * @module
 */
import type {
  IndexDeltaFrame,
  IndexRootFrame,
  IndexSegmentFrame,
  Progress,
  ProgressMore,
  SessionTerms,
} from "../../relay/protocol/frame.ts";
import type { Role, SessionState } from "../../relay/protocol/ids.ts";
import type { ChannelNetwork } from "./channel.ts";
import type { Hold } from "./hold.ts";
import { REVOKE_COURTESY_MS } from "./limits.ts";

export interface Ownership {
  readonly owner: Role;
  readonly epoch: number;
  readonly state: SessionState;
  /** Why the session has just been ended; else empty. */
  readonly reason: string;
}

export interface SessionPort {
  pairing(signal?: AbortSignal): Promise<ChannelNetwork>;
  commit(epoch: number, signal?: AbortSignal): Promise<Ownership>;
  revoke(reason: string, signal?: AbortSignal): Promise<Ownership>;
  readonly ownership: Ownership;
  reportPhase(state: SessionState, reason?: string): void;
  reportProgress(progress: Progress): void;
  /** What of it the session knows itself is not asked for. */
  reportMore?(more: Omit<ProgressMore, "path">): void;
  /** Whether somebody has asked to send nothing for now; without it nobody can. */
  readonly hold?: Hold | undefined;
  /** What the operator wants, which goes before what this peer was started with; asked each time. */
  readonly terms?: SessionTerms | undefined;
  reportIndex(frame: IndexSegmentFrame | IndexDeltaFrame | IndexRootFrame): Promise<boolean>;
}

/** Whether the next channel can be opened at once, since a better network is there, and nothing went wrong. */
export function hasMoved(network: ChannelNetwork): boolean {
  return network.superseded?.() ?? false;
}

/**
 * After an error the relay is told, so that the source goes on if nothing is committed.
 *
 * @param mayOwn A commit may have been asked for: only the relay knows what became of it, so it is asked until it
 *   answers. Else the source sees that this peer is gone, and its deadline asks the relay.
 * @returns Whether the leecher owns the region.
 */
export async function giveBack(
  session: SessionPort,
  reason: string,
  mayOwn: boolean,
): Promise<boolean> {
  if (mayOwn) return (await session.revoke(reason)).owner === "leecher";
  const courtesy = AbortSignal.timeout(REVOKE_COURTESY_MS);
  await session.revoke(reason, courtesy).catch(() => undefined);
  return false;
}
