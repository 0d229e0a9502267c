/**
 * How a relay that goes down parts from its peers.
 *
 * @module
 */
import { atMost } from "./at-most.ts";
import { GO_AWAY_PEERS_PER_S, GO_AWAY_RECONNECT_MS, GO_AWAY_TRY_FOR_MS } from "./limits.ts";
import type { Room } from "./room.ts";

export interface FarewellOptions {
  /** How long the peers may take to leave. */
  readonly deadlineMs: number;
  /** In `[0, 1)`. */
  readonly random: () => number;
}

/**
 * Tells all peers to leave and come back, spread over time so that the next relay is not stormed; what is under way
 * goes on meanwhile. Resolves when they have left, or at the deadline.
 */
export async function sayFarewell(
  rooms: readonly Room[],
  { deadlineMs, random }: FarewellOptions,
): Promise<void> {
  // Peers add jitter of their own, half of what they are told at most: all are gone before the deadline.
  const spreadMs = Math.min(
    (2 * rooms.length * 1000) / GO_AWAY_PEERS_PER_S,
    Math.max(0, deadlineMs / 2 - GO_AWAY_RECONNECT_MS),
  );
  const reconnectInMs = (): number => Math.round(GO_AWAY_RECONNECT_MS + random() * spreadMs);
  const left = rooms.map((room) => room.goAway(reconnectInMs, GO_AWAY_TRY_FOR_MS));
  await atMost(deadlineMs, Promise.all(left));
}
