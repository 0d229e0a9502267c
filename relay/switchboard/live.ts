/**
 * What the switchboard shows of a session while peers are connected, and what it borrows for them.
 *
 * @module
 */
import type { Progress, ProgressMore } from "../protocol/frame.ts";
import type { Role } from "../protocol/ids.ts";
import type { LivePeer } from "./room.ts";

export interface PeerDiscovery {
  readonly ports: readonly [number, number];
  /** A token for one connection of a peer. */
  hold(): { readonly token: Uint8Array; release(): void };
}

/** What is known of a session only while somebody is connected. */
export interface LiveSession {
  readonly seeder: LivePeer | undefined;
  readonly leecher: LivePeer | undefined;
  readonly progress: Progress | undefined;
  readonly more?: ProgressMore | undefined;
  /** For how long nothing has moved. */
  readonly stillMs?: number;
  readonly bytesFrom: Readonly<Record<Role, number>>;
}
