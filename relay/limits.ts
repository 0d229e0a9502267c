/**
 * Every bound that an operator can see in `GET /v1/limits`, in an error's `limitName` and in `relay_throttled_total`.
 *
 * One place for the name, the default, what it protects and where it is set. docs/limits.md has the same table, and a
 * test holds the two together. Bounds of frames, queues and waits that nobody is told by name are in the `limits.ts`
 * of their folder.
 *
 * @module
 */
import { RelayError } from "./errors.ts";

/** Whom a bound counts for. A prefix is an IPv4 /24 or an IPv6 /64. */
export type LimitScope = "prefix" | "key" | "project" | "session" | "node";

export interface LimitSpec {
  readonly scope: LimitScope;
  readonly unit: string;
  /** 0: no bound, for those that may be without one. */
  readonly default: number;
  /** The least that may be set; 0 where "no bound" is a choice. */
  readonly least: number;
  readonly most: number;
  /**
   * `relay`: `--limit NAME=VALUE` and the configuration file. `project`: there, and per project by an operator's
   * `PATCH /v1/projects/{id}`. `session`: in the session's `limits`. `fixed`: nowhere.
   */
  readonly set: "relay" | "project" | "session" | "fixed";
  readonly protects: string;
}

const COUNT_MAX = 1_000_000;
const BYTES_MAX = Number.MAX_SAFE_INTEGER;
const MIB = 1024 * 1024;

function limit(
  scope: LimitScope,
  set: LimitSpec["set"],
  unit: string,
  value: number,
  protects: string,
  range: { readonly least?: number; readonly most?: number } = {},
): LimitSpec {
  const { least = 1, most = unit.startsWith("bytes") ? BYTES_MAX : COUNT_MAX } = range;
  return { scope, set, unit, default: value, least, most, protects };
}

const NONE = { least: 0 };

export const RELAY_LIMITS = {
  acceptsPerPrefix: limit(
    "prefix",
    "relay",
    "connections/s",
    200,
    "The CPU: a TLS handshake is work for the relay alone.",
  ),
  acceptBurstPerPrefix: limit(
    "prefix",
    "relay",
    "connections",
    2_000,
    "The same, for connections at once, as after a restart.",
  ),
  handshakesPerPrefix: limit(
    "prefix",
    "relay",
    "connections",
    256,
    "Memory: connections of which nothing is known yet.",
  ),
  connectionsPerPrefix: limit(
    "prefix",
    "relay",
    "connections",
    5_000,
    "File descriptors: one network does not take them all.",
  ),
  failedLoginsPerPrefix: limit(
    "prefix",
    "relay",
    "requests/s",
    0.5,
    "The log and the database: guessing keys is hopeless anyway.",
    { least: 0.01 },
  ),
  failedLoginBurstPerPrefix: limit("prefix", "relay", "requests", 20, "The same, at once."),
  discoveryTokensPerPrefix: limit(
    "prefix",
    "relay",
    "requests/s",
    0.2,
    "The UDP ports: tokens for who has no API key.",
    { least: 0.01 },
  ),
  discoveryTokenBurstPerPrefix: limit("prefix", "relay", "requests", 20, "The same, at once."),
  requests: limit("key", "relay", "requests/s", 100, "The database: loops gone wild."),
  requestBurst: limit("key", "relay", "requests", 300, "The same, at once."),
  eventStreamsPerKey: limit("key", "relay", "streams", 20, "Memory: every stream has a queue."),
  idempotentRequests: limit(
    "key",
    "relay",
    "requests/day",
    10_000,
    "The database: answers that are kept for an `Idempotency-Key`.",
  ),
  sessions: limit(
    "project",
    "project",
    "sessions",
    10_000,
    "The database: sessions that have not ended.",
  ),
  pendingSessions: limit(
    "project",
    "project",
    "sessions",
    1_000,
    "The database: sessions that nobody has joined.",
  ),
  peers: limit("project", "project", "peers", 1_000, "The database: enrolled hosts."),
  openEnrollments: limit(
    "project",
    "fixed",
    "codes",
    1_000,
    "The database: enrollment codes that wait to be used.",
  ),
  openOrders: limit(
    "project",
    "fixed",
    "orders",
    64,
    "The peer: orders of one enrolled host that are not over.",
  ),
  apiKeys: limit("project", "project", "keys", 100, "The database: keys that are good."),
  webhooks: limit("project", "project", "webhooks", 20, "The network: deliveries per event."),
  relayedBytesPerS: limit(
    "project",
    "project",
    "bytes/s",
    0,
    "The network: what all sessions of a project move through the relay.",
    NONE,
  ),
  relayedBytesPerMonth: limit(
    "project",
    "project",
    "bytes/month",
    0,
    "The bill. New sessions are refused; those that run go on.",
    NONE,
  ),
  relayWeight: limit(
    "project",
    "project",
    "shares",
    1,
    "A project's part where several want more than there is.",
    { least: 0.01, most: 1_000 },
  ),
  sessionBytesPerS: limit(
    "session",
    "session",
    "bytes/s",
    0,
    "The session's own `limits.bytesPerS`.",
    NONE,
  ),
  sessionBufferBytes: limit(
    "session",
    "relay",
    "bytes",
    32 * MIB,
    "Memory: what a session's streams hold for a peer that does not read.",
    { least: MIB },
  ),
  projects: limit("node", "relay", "projects", 10_000, "The database: projects of all its relays."),
  connections: limit("node", "relay", "connections", 10_000, "File descriptors and memory."),
  handshakes: limit(
    "node",
    "relay",
    "connections",
    1_024,
    "Memory: connections of which nothing is known yet.",
  ),
  handshakeMs: limit(
    "node",
    "relay",
    "ms",
    10_000,
    "The same: from accept until a request or a stream has said what it is, bytes trickling in or not.",
    { least: 100, most: 600_000 },
  ),
  webTransportSessions: limit("node", "relay", "sessions", 10_000, "Memory."),
  liveSessions: limit(
    "node",
    "relay",
    "sessions",
    5_000,
    "Memory: sessions with a peer connected to this relay.",
  ),
  openFilesPercent: limit(
    "node",
    "relay",
    "percent",
    80,
    "Running sessions: they keep their descriptors when no new one is let in.",
    { most: 100 },
  ),
  memoryBytes: limit(
    "node",
    "relay",
    "bytes",
    0,
    "The host: above it no new session is let in. 0: three quarters of what there is.",
    NONE,
  ),
  nodeBytesPerS: limit(
    "node",
    "relay",
    "bytes/s",
    0,
    "The network card: what is shared out fairly among projects. 0: they share the CPU.",
    NONE,
  ),
  nodeBufferBytes: limit(
    "node",
    "relay",
    "bytes",
    1_024 * MIB,
    "Memory: what all streams hold together.",
    { least: 16 * MIB },
  ),
  eventStreams: limit("node", "relay", "streams", 1_000, "Memory: every stream has a queue."),
  headerBytes: limit("node", "fixed", "bytes", 16 * 1024, "Memory: the headers of one request."),
  bodyBytes: limit("node", "fixed", "bytes", 64 * 1024, "Memory: the body of one request."),
} as const satisfies Readonly<Record<string, LimitSpec>>;

export type LimitName = keyof typeof RELAY_LIMITS;
/** Each bound's value; 0 where there is none. */
export type RelayLimits = Readonly<Record<LimitName, number>>;

export const LIMIT_NAMES = Object.keys(RELAY_LIMITS) as readonly LimitName[];

/** The defaults with what was configured over them. */
export function relayLimits(configured: Partial<RelayLimits> = {}): RelayLimits {
  const defaults = LIMIT_NAMES.map((name) => [name, RELAY_LIMITS[name].default] as const);
  // One entry for each name, from the list of them.
  return { ...(Object.fromEntries(defaults) as Record<LimitName, number>), ...configured };
}

/**
 * One setting as a person wrote it.
 *
 * @returns The problem, with the cure, if it is none.
 */
export function readLimit(
  name: string,
  value: unknown,
): { readonly name: LimitName; readonly value: number } | string {
  const known = LIMIT_NAMES.find((one) => one === name);
  if (known === undefined) return `"${name}" is no limit: docs/limits.md lists them`;
  const { set, least, most } = RELAY_LIMITS[known];
  if (set === "fixed" || set === "session") return `"${name}" is not set here: see docs/limits.md`;
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  if (typeof number !== "number" || !(number >= least && number <= most)) {
    return `"${name}" is ${JSON.stringify(value)}: it is a number from ${least} to ${most}`;
  }
  return { name: known, value: number };
}

export interface LimitMet {
  readonly limitName: LimitName;
  readonly limit: number;
  readonly retryAfterS: number;
}

/** What a client is told when a bound is met; the metric is counted where the answer is made. */
export function limitError(
  code: "LIMIT_EXCEEDED" | "RATE_LIMITED",
  met: LimitMet,
  message: string,
): RelayError {
  const { limitName, limit: bound, retryAfterS } = met;
  const details = { limitName, limit: bound, retryAfterS: Math.max(1, Math.ceil(retryAfterS)) };
  return new RelayError(code, message, { details });
}
