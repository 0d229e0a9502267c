/**
 * Placeholder until the real one is merged.
 *
 * @module
 */
import type { NatKind } from "./candidate.ts";
import type { DatagramSocket } from "./datagram.ts";

export function discover(
  _socket: DatagramSocket,
  _ask: { relays: readonly string[]; token: Uint8Array; ports: readonly [number, number] },
  _signal: AbortSignal,
): Promise<{ mappings: { address: string; port: number }[]; nat: NatKind }> {
  return Promise.resolve({ mappings: [], nat: "none" });
}
