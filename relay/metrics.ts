/**
 * What the relay counts. No label ever holds something a client chose, a session id least of all.
 *
 * @module
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

import type { Role } from "./protocol/ids.ts";
import { SESSION_STATES, type SessionState } from "./protocol/ids.ts";
import type { LinkKind } from "./protocol/stream.ts";

export interface Metrics {
  readonly contentType: string;
  /** The exposition text. */
  render(): Promise<string>;
  /**
   * @param byState Of all sessions in the database.
   * @param live Of those, the ones that both peers are here for, by how they are.
   */
  setSessions(
    byState: Readonly<Record<SessionState, number>>,
    live: readonly { readonly state: SessionState; readonly path: string }[],
  ): void;
  setQueueBytes(bytes: number): void;
  addBytes(from: Role, link: LinkKind, count: number): void;
  observeDowntime(downtimeMs: number): void;
  countHandshakeFailure(code: string): void;
  countThrottled(limitName: string): void;
  countDatabaseError(): void;
  countDiscovery(outcome: string): void;
  /** Seconds from both peers' joining to the end. */
  observeMigration(seconds: number): void;
  observePairWait(seconds: number): void;
  countAcceptFailure(what: string): void;
  countPathChange(from: string, to: string): void;
  countWebhook(state: string): void;
}

/** Milliseconds of downtime that people tell apart: a frame, a retransmission, a connection timeout. */
const DOWNTIME_BUCKETS_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const sessions = new Gauge({
    name: "relay_sessions",
    help: "Sessions in the database by state, and by how both peers are here; `none` where they are not",
    labelNames: ["state", "path"],
    registers,
  });
  const bytes = new Counter({
    name: "relay_bytes_total",
    help: "Bytes copied between peers, by who sent them and over which link",
    labelNames: ["direction", "path"],
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
  const migrations = new Histogram({
    name: "relay_migration_seconds",
    help: "From both peers' joining to done",
    buckets: [1, 3, 10, 30, 60, 180, 600, 1_800, 3_600, 10_800, 43_200],
    registers,
  });
  const pairWait = new Histogram({
    name: "relay_pair_wait_seconds",
    help: "How long the first peer of a session waited for the other",
    buckets: [0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600],
    registers,
  });
  const acceptFailures = new Counter({
    name: "relay_accept_failures_total",
    help: "Connections and requests that failed before anybody was served, by kind",
    labelNames: ["class"],
    registers,
  });
  const pathChanges = new Counter({
    name: "relay_path_upgrades_total",
    help: "Sessions whose peers came back by another link than before",
    labelNames: ["from", "to"],
    registers,
  });
  const queueBytes = new Gauge({
    name: "relay_queue_bytes",
    help: "Bytes held for peers that are slow to read",
    registers,
  });
  const webhooks = new Counter({
    name: "relay_webhook_attempts_total",
    help: "Attempts to deliver to webhooks, by what the delivery was after it",
    labelNames: ["state"],
    registers,
  });
  // The event loop's lag, memory, CPU and descriptors of the process.
  collectDefaultMetrics({ register: registry });
  for (const state of SESSION_STATES) sessions.set({ state, path: "none" }, 0);
  return {
    contentType: registry.contentType,
    render: () => registry.metrics(),
    setSessions: (byState, live) => {
      sessions.reset();
      const here: Partial<Record<SessionState, number>> = {};
      for (const { state, path } of live) {
        sessions.inc({ state, path });
        here[state] = (here[state] ?? 0) + 1;
      }
      // Between the two looks one may have moved on.
      for (const state of SESSION_STATES) {
        sessions.set({ state, path: "none" }, Math.max(0, byState[state] - (here[state] ?? 0)));
      }
    },
    setQueueBytes: (count) => queueBytes.set(count),
    addBytes: (from, path, count) => bytes.inc({ direction: `from_${from}`, path }, count),
    observeMigration: (seconds) => migrations.observe(seconds),
    observePairWait: (seconds) => pairWait.observe(seconds),
    countAcceptFailure: (what) => acceptFailures.inc({ class: what }),
    countPathChange: (from, to) => pathChanges.inc({ from, to }),
    countWebhook: (state) => webhooks.inc({ state }),
    observeDowntime: (downtimeMs) => downtime.observe(downtimeMs / 1000),
    countHandshakeFailure: (reason) => handshakeFailures.inc({ reason }),
    countThrottled: (limit) => throttled.inc({ limit }),
    countDatabaseError: () => databaseErrors.inc(),
    countDiscovery: (outcome) => discovery.inc({ outcome }),
  };
}
