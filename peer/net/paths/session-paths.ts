/**
 * The paths of a peer's session, as the command and the library open them.
 *
 * @module
 */
import type { Ticket } from "../../../relay/protocol/ticket.ts";
import type { MigrationProgress } from "../../migration/events.ts";
import type { RelayControl } from "../relay-control.ts";
import type { SocketAddress } from "./datagram.ts";
import { PathManager, type PathEvent, type PathManagerOptions } from "./path-manager.ts";
import type { PathPolicy } from "./path-policy.ts";
import { UdpDialer } from "./udp-dialer.ts";

export interface PathOptions {
  readonly policy: PathPolicy;
  /** Local UDP port of direct paths. Default: a free one. */
  readonly port?: number | undefined;
  /** Where the operator lets this host be reached. */
  readonly configured?: readonly SocketAddress[] | undefined;
  /** Whether this network's router is asked to let the port in. */
  readonly portMapping?: boolean | undefined;
}

export function openPaths(
  session: RelayControl,
  { role, sessionId, secret, relayUrl }: Ticket,
  options: PathOptions & {
    readonly measure: NonNullable<PathManagerOptions["measure"]>;
    readonly onEvent: (event: PathEvent) => void;
  },
): PathManager {
  const { policy, port, configured, portMapping, measure, onEvent } = options;
  const dialer = new UdpDialer({
    relayUrl,
    discovery: () => session.discovery,
    port,
    configured,
    portMapping,
  });
  return new PathManager({ role, session, sessionId, secret, policy, dialer, measure, onEvent });
}

/** What a migration's progress says of the path. */
export function measured(progress: MigrationProgress | undefined): {
  readonly bytesPerS: number;
  readonly bytes: number;
} {
  return { bytesPerS: progress?.bytesPerS ?? 0, bytes: progress?.bytesSent ?? 0 };
}
