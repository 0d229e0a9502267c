/**
 * What the relay counts. No label ever holds something a client chose, a session id least of all.
 *
 * @module
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";

import type { Role } from "./protocol/ids.ts";
import { SESSION_STATES, type SessionState } from "./protocol/ids.ts";
import type { LinkKind } from "./protocol/stream.ts";

export interface Metrics {
  readonly contentType: string;
  /** The exposition text. */
  render(): Promise<string>;
  setSessions(byState: Readonly<Record<SessionState, number>>): void;
  addBytes(from: Role, link: LinkKind, count: number): void;
  observeDowntime(downtimeMs: number): void;
  countHandshakeFailure(code: string): void;
  countThrottled(limitName: string): void;
  countDatabaseError(): void;
  countDiscovery(outcome: string): void;
}

/** Milliseconds of downtime that people tell apart: a frame, a retransmission, a connection timeout. */
const DOWNTIME_BUCKETS_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const sessions = new Gauge({
    name: "relay_sessions",
    help: "Sessions in the database by state",
    labelNames: ["state"],
    registers,
  });
  const bytes = new Counter({
    name: "relay_bytes_total",
    help: "Bytes copied between peers, by who sent them and over which link",
    labelNames: ["direction", "link"],
    registers,
  });
  const downtime = new Histogram({
    name: "relay_session_downtime_seconds",
    help: "Suspend to resume, as the peers measured it",
    buckets: DOWNTIME_BUCKETS_S,
    registers,
  });
  const handshakeFailures = new Counter({
    name: "relay_handshake_failures_total",
    help: "Streams of peers that were refused, by protocol error code",
    labelNames: ["reason"],
    registers,
  });
  const throttled = new Counter({
    name: "relay_throttled_total",
    help: "Requests refused because of a limit",
    labelNames: ["limit"],
    registers,
  });
  const databaseErrors = new Counter({
    name: "relay_db_errors_total",
    help: "Failed uses of the database",
    registers,
  });
  const discovery = new Counter({
    name: "relay_discovery_datagrams_total",
    help: "Datagrams at the UDP ports for address discovery, by what became of them",
    labelNames: ["outcome"],
    registers,
  });
  for (const state of SESSION_STATES) sessions.set({ state }, 0);
  return {
    contentType: registry.contentType,
    render: () => registry.metrics(),
    setSessions: (byState) => {
      for (const state of SESSION_STATES) sessions.set({ state }, byState[state]);
    },
    addBytes: (from, link, count) => bytes.inc({ direction: `from_${from}`, link }, count),
    observeDowntime: (downtimeMs) => downtime.observe(downtimeMs / 1000),
    countHandshakeFailure: (reason) => handshakeFailures.inc({ reason }),
    countThrottled: (limit) => throttled.inc({ limit }),
    countDatabaseError: () => databaseErrors.inc(),
    countDiscovery: (outcome) => discovery.inc({ outcome }),
  };
}
