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
} from "../../relay/protocol/frame.ts";
import type { Role, SessionState } from "../../relay/protocol/ids.ts";
import type { ChannelNetwork } from "./channel.ts";

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
  reportIndex(frame: IndexSegmentFrame | IndexDeltaFrame | IndexRootFrame): Promise<boolean>;
}

/** Whether the next channel can be opened at once, since a better network is there, and nothing went wrong. */
export function hasMoved(network: ChannelNetwork): boolean {
  return network.superseded?.() ?? false;
}
