/**
 * The tables. `npm run db:generate` writes a migration from what changed here.
 *
 * Identifiers of sessions are 16 random bytes, kept as `uuid` because every driver agrees on its text, and
 * written as 32 hexadecimal digits everywhere else. The chunk index is packed (1,024 hashes to a row); its
 * rows go past Drizzle, by the prepared statements in chunk-index.ts.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { sql } from "drizzle-orm";
import {
  bigint,
  boolean,
  check,
  customType,
  date,
  doublePrecision,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  unique,
  uniqueIndex,
} from "drizzle-orm/pg-core";

import type { Progress } from "../protocol/frame.ts";
import type { Role, SessionState } from "../protocol/ids.ts";
import type {
  ApiScope,
  SessionMode,
  SessionLimits,
  SessionPolicy,
  SessionHold,
  SessionCheck,
  ProjectLimits,
  MigrationPolicy,
  PeerCapability,
  RegionKind,
  OrderKind,
  OrderState,
  DeliveryState,
  EventData,
  SessionTimes,
  PeerDescription,
} from "./schema-values.ts";

export * from "./schema-values.ts";

/** Both drivers take a Buffer; one gives back a Buffer and the other a Uint8Array. */
const bytea = customType<{ data: Uint8Array; driverData: Uint8Array }>({
  dataType: () => "bytea",
  toDriver: (value) => Buffer.from(value.buffer, value.byteOffset, value.byteLength),
  fromDriver: (value) => new Uint8Array(value.buffer, value.byteOffset, value.byteLength),
});

const hexId = customType<{ data: string; driverData: string }>({
  dataType: () => "uuid",
  toDriver: (value) => value,
  fromDriver: (value) => value.replaceAll("-", ""),
});

const instant = (name: string) =>
  timestamp(name, { withTimezone: true, precision: 3, mode: "date" });

export const project = pgTable("project", {
  id: hexId("id").primaryKey(),
  name: text("name").notNull().unique(),
  limits: jsonb("limits").$type<ProjectLimits>().notNull().default({}),
  version: integer("version").notNull().default(1),
  createdAt: instant("created_at").notNull().defaultNow(),
  updatedAt: instant("updated_at").notNull().defaultNow(),
});

export const apiKey = pgTable(
  "api_key",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    /** The part that may be shown, to tell keys apart. */
    prefix: text("prefix").notNull().unique(),
    /** SHA-256 of 32 random bytes; the key itself is stored nowhere. */
    secretHash: bytea("secret_hash").notNull(),
    scopes: jsonb("scopes").$type<ApiScope[]>().notNull(),
    /** Prefix of the key that made it; empty: the relay, at its first start. */
    createdBy: text("created_by").notNull().default(""),
    createdAt: instant("created_at").notNull().defaultNow(),
    expiresAt: instant("expires_at"),
    revokedAt: instant("revoked_at"),
    lastUsedAt: instant("last_used_at"),
  },
  (table) => [index("api_key_project").on(table.projectId)],
);

/** Somebody who gave the console an API key, and got a cookie for it. */
export const signIn = pgTable(
  "sign_in",
  {
    id: hexId("id").primaryKey(),
    keyId: hexId("key_id")
      .notNull()
      .references(() => apiKey.id, { onDelete: "cascade" }),
    /** SHA-256 of the cookie's 32 random bytes. */
    tokenHash: bytea("token_hash").notNull().unique(),
    createdAt: instant("created_at").notNull().defaultNow(),
    expiresAt: instant("expires_at").notNull(),
  },
  (table) => [
    index("sign_in_key").on(table.keyId, table.createdAt),
    index("sign_in_expires").on(table.expiresAt),
  ],
);

/** Sessions that belong together: the memory and the disks of one virtual machine. */
export const migration = pgTable(
  "migration",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    labels: jsonb("labels").$type<Record<string, string>>().notNull().default({}),
    policy: jsonb("policy").$type<MigrationPolicy>().notNull(),
    createdBy: text("created_by").notNull(),
    version: integer("version").notNull().default(1),
    createdAt: instant("created_at").notNull().defaultNow(),
    updatedAt: instant("updated_at").notNull().defaultNow(),
  },
  (table) => [
    index("migration_project_created").on(table.projectId, table.createdAt.desc(), table.id.desc()),
  ],
);

export const session = pgTable(
  "session",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    migrationId: hexId("migration_id").references(() => migration.id, { onDelete: "set null" }),
    name: text("name").notNull(),
    labels: jsonb("labels").$type<Record<string, string>>().notNull().default({}),
    state: text("state").$type<SessionState>().notNull().default("pending"),
    reasonCode: text("reason_code").notNull().default(""),
    reasonMessage: text("reason_message").notNull().default(""),
    mode: text("mode").$type<SessionMode>().notNull().default("live"),
    limits: jsonb("limits").$type<SessionLimits>().notNull().default({}),
    policy: jsonb("policy").$type<SessionPolicy>().notNull().default({}),
    checks: jsonb("checks").$type<SessionCheck[]>(),
    checkedAt: instant("checked_at"),
    hold: text("hold").$type<SessionHold>().notNull().default(""),
    /** When `policy.onDeadline` acts; null if nothing is to be done, or was done. */
    deadlineAt: instant("deadline_at"),
    /** Of the region, sent at least once; never less than it was. */
    percentSent: doublePrecision("percent_sent").notNull().default(0),
    /** Enrolled peers that were ordered to take part; null for one that came with a ticket. */
    seederPeerId: text("seeder_peer_id"),
    leecherPeerId: text("leecher_peer_id"),
    regionName: text("region_name"),
    regionBytes: bigint("region_bytes", { mode: "number" }),
    chunkBytes: integer("chunk_bytes"),
    chunkCount: bigint("chunk_count", { mode: "number" }),
    rootHash: bytea("root_hash"),
    rootEpoch: bigint("root_epoch", { mode: "number" }),
    seeder: jsonb("seeder").$type<PeerDescription>(),
    leecher: jsonb("leecher").$type<PeerDescription>(),
    /** Who may run the workload; changed by one compare-and-set and nothing else. */
    owner: text("owner").$type<Role>().notNull().default("seeder"),
    ownerEpoch: bigint("owner_epoch", { mode: "number" }).notNull().default(0),
    progress: jsonb("progress").$type<Progress>(),
    progressAt: instant("progress_at"),
    times: jsonb("times").$type<SessionTimes>().notNull().default({}),
    /** The last `session_event.seq`, so that events are numbered without gaps. */
    eventSeq: integer("event_seq").notNull().default(0),
    createdBy: text("created_by").notNull(),
    /** Counts changes a client can see, progress apart. */
    version: integer("version").notNull().default(1),
    createdAt: instant("created_at").notNull().defaultNow(),
    updatedAt: instant("updated_at").notNull().defaultNow(),
    endedAt: instant("ended_at"),
  },
  (table) => [
    // Lists are newest first; the id breaks ties.
    index("session_project_created").on(table.projectId, table.createdAt.desc(), table.id.desc()),
    index("session_project_state").on(table.projectId, table.state),
    index("session_migration").on(table.migrationId),
    // What is over is cleared away by its age.
    index("session_ended").on(table.endedAt),
    index("session_deadline").on(table.deadlineAt),
    check("session_owner", sql`${table.owner} in ('seeder', 'leecher')`),
    // Nobody can own a region that was given back: the rule that no code path may get around.
    check(
      "session_cancelled_owner",
      sql`${table.state} <> 'cancelled' or ${table.owner} = 'seeder'`,
    ),
    check("session_done_owner", sql`${table.state} <> 'done' or ${table.owner} = 'leecher'`),
  ],
);

export const ticket = pgTable(
  "ticket",
  {
    sessionId: hexId("session_id")
      .notNull()
      .references(() => session.id, { onDelete: "cascade" }),
    role: text("role").$type<Role>().notNull(),
    /** SHA-256 of the token. */
    tokenHash: bytea("token_hash").notNull(),
    expiresAt: instant("expires_at").notNull(),
    usedAt: instant("used_at"),
    /** The ed25519 key that used it, the only one let in from then on. */
    peerKey: bytea("peer_key"),
  },
  (table) => [
    unique("ticket_session_role").on(table.sessionId, table.role),
    check("ticket_used_by_a_key", sql`(${table.usedAt} is null) = (${table.peerKey} is null)`),
  ],
);

export const sessionEvent = pgTable(
  "session_event",
  {
    sessionId: hexId("session_id")
      .notNull()
      .references(() => session.id, { onDelete: "cascade" }),
    seq: integer("seq").notNull(),
    at: instant("at").notNull().defaultNow(),
    type: text("type").notNull(),
    data: jsonb("data").$type<Record<string, string | number | boolean>>().notNull().default({}),
  },
  (table) => [primaryKey({ columns: [table.sessionId, table.seq] })],
);

/**
 * The head of a session's chunk index. Apart from `session`, so that checkpoints never contend with the
 * row that a commit changes.
 */
export const region = pgTable(
  "region",
  {
    id: bigint("id", { mode: "number" }).primaryKey().generatedAlwaysAsIdentity(),
    sessionId: hexId("session_id")
      .notNull()
      .references(() => session.id, { onDelete: "cascade" }),
    chunkCount: bigint("chunk_count", { mode: "number" }).notNull(),
    /** The generation of segments that readers use. */
    baseGen: bigint("base_gen", { mode: "number" }).notNull().default(0),
    /** The last generation that a compaction claimed. */
    claimedGen: bigint("claimed_gen", { mode: "number" }).notNull().default(0),
    /** Counts segments replaced in place; a compaction that overlapped one starts over. */
    rewriteCount: bigint("rewrite_count", { mode: "number" }).notNull().default(0),
    deltaSeq: bigint("delta_seq", { mode: "number" }).notNull().default(0),
    deltaBytes: bigint("delta_bytes", { mode: "number" }).notNull().default(0),
    /** SHA-256 of the last delta: one that is sent again because its answer was lost is not kept twice. */
    deltaDigest: bytea("delta_digest"),
    /** SHA-256 over the digests of the base's segments in order, when it was swapped in; */
    baseRoot: bytea("base_root"),
    /** and how many they were: more may have come since, fewer cannot be. */
    baseRootSegments: integer("base_root_segments"),
  },
  (table) => [uniqueIndex("region_session").on(table.sessionId)],
);

export const regionSegment = pgTable(
  "region_segment",
  {
    regionId: bigint("region_id", { mode: "number" })
      .notNull()
      .references(() => region.id, { onDelete: "cascade" }),
    gen: bigint("gen", { mode: "number" }).notNull(),
    segment: integer("segment").notNull(),
    /** Epoch of every hash that `epochs` does not say more of. */
    epoch: bigint("epoch", { mode: "number" }).notNull(),
    /** 32 bytes a chunk. */
    hashes: bytea("hashes").notNull(),
    /** 4 bytes a chunk, little-endian, once deltas were folded in; null if all are of `epoch`. */
    epochs: bytea("epochs"),
    /** A byte a chunk, how it came: 0 sent, 1 a chunk of zeros, 2 it was at the leecher. Null if all were sent. */
    marks: bytea("marks"),
    /** SHA-256 of the columns above, `marks` apart, to be checked on every read. Null in rows of earlier versions. */
    digest: bytea("digest"),
  },
  (table) => [primaryKey({ columns: [table.regionId, table.gen, table.segment] })],
);

export const regionDelta = pgTable(
  "region_delta",
  {
    regionId: bigint("region_id", { mode: "number" })
      .notNull()
      .references(() => region.id, { onDelete: "cascade" }),
    seq: bigint("seq", { mode: "number" }).notNull(),
    /** The lowest and highest chunk in it, so that a read of a range can pass it over. */
    firstChunk: bigint("first_chunk", { mode: "number" }).notNull(),
    lastChunk: bigint("last_chunk", { mode: "number" }).notNull(),
    /** `index u32, epoch u32, hash`, as on the wire. */
    entries: bytea("entries").notNull(),
    /** SHA-256 of `entries`. Null in rows of earlier versions. */
    digest: bytea("digest"),
  },
  (table) => [primaryKey({ columns: [table.regionId, table.seq] })],
);

export const usage = pgTable("usage", {
  sessionId: hexId("session_id")
    .primaryKey()
    .references(() => session.id, { onDelete: "cascade" }),
  projectId: hexId("project_id").notNull(),
  bytesFromSeeder: bigint("bytes_from_seeder", { mode: "number" }).notNull().default(0),
  bytesFromLeecher: bigint("bytes_from_leecher", { mode: "number" }).notNull().default(0),
  updatedAt: instant("updated_at").notNull().defaultNow(),
});

/** What a project used, by UTC day and by how its bytes went. */
export const usageDay = pgTable(
  "usage_day",
  {
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    day: date("day", { mode: "string" }).notNull(),
    /** The kind of link: `websocket`, `webtransport`; `direct` as the peers report it. */
    path: text("path").notNull(),
    bytes: bigint("bytes", { mode: "number" }).notNull().default(0),
    sessionSeconds: bigint("session_seconds", { mode: "number" }).notNull().default(0),
  },
  (table) => [primaryKey({ columns: [table.projectId, table.day, table.path] })],
);

/** A host that was enrolled, known by its ed25519 key. */
export const peer = pgTable(
  "peer",
  {
    /** The public key, 64 hexadecimal digits. */
    id: text("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    labels: jsonb("labels").$type<Record<string, string>>().notNull().default({}),
    /** X25519, for what other peers seal to this one; signed by the peer's own key. */
    sealingKey: bytea("sealing_key").notNull(),
    sealingKeySignature: bytea("sealing_key_signature").notNull(),
    host: text("host").notNull().default(""),
    zone: text("zone").notNull().default(""),
    peerVersion: text("peer_version").notNull().default(""),
    platform: text("platform").notNull().default(""),
    kernel: text("kernel").notNull().default(""),
    capabilities: jsonb("capabilities").$type<PeerCapability[]>().notNull().default([]),
    natClass: text("nat_class").notNull().default("unknown"),
    diskFreeBytes: bigint("disk_free_bytes", { mode: "number" }),
    /** Names of hooks that its own configuration allows. */
    hooks: jsonb("hooks").$type<string[]>().notNull().default([]),
    /** Names of places for what is received, and of ways to show it. */
    directories: jsonb("directories").$type<string[]>().notNull().default([]),
    exports: jsonb("exports").$type<string[]>().notNull().default([]),
    /** What the agent finds wrong with its host. */
    problems: jsonb("problems").$type<string[]>().notNull().default([]),
    /** Its connection of now, at whichever relay: another one's has no say any more. */
    connectionId: hexId("connection_id"),
    /** Connected at the moment, as its relay last said. */
    online: boolean("online").notNull().default(false),
    lastSeenAt: instant("last_seen_at"),
    version: integer("version").notNull().default(1),
    createdAt: instant("created_at").notNull().defaultNow(),
    updatedAt: instant("updated_at").notNull().defaultNow(),
  },
  (table) => [
    unique("peer_project_name").on(table.projectId, table.name),
    check("peer_key", sql`${table.id} ~ '^[0-9a-f]{64}$'`),
  ],
);

/** A one-use code that makes a host a peer of the project. */
export const enrollment = pgTable(
  "enrollment",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    /** The name that the peer gets; empty: its host's. */
    name: text("name").notNull(),
    labels: jsonb("labels").$type<Record<string, string>>().notNull().default({}),
    /** SHA-256 of 32 random bytes. */
    codeHash: bytea("code_hash").notNull().unique(),
    createdBy: text("created_by").notNull(),
    createdAt: instant("created_at").notNull().defaultNow(),
    expiresAt: instant("expires_at").notNull(),
    usedAt: instant("used_at"),
    peerId: text("peer_id").references(() => peer.id, { onDelete: "set null" }),
  },
  (table) => [index("enrollment_project").on(table.projectId, table.createdAt.desc())],
);

/** What a peer offers, by the names of its own configuration. */
export const offeredRegion = pgTable(
  "offered_region",
  {
    peerId: text("peer_id")
      .notNull()
      .references(() => peer.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    kind: text("kind").$type<RegionKind>().notNull(),
    bytes: bigint("bytes", { mode: "number" }).notNull(),
    chunkBytes: integer("chunk_bytes").notNull(),
    /** The session that it moves in now. */
    sessionId: hexId("session_id").references(() => session.id, { onDelete: "set null" }),
    updatedAt: instant("updated_at").notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.peerId, table.name] })],
);

/** What a peer was told to do. Secrets in `body` are sealed by one peer to another. */
export const peerOrder = pgTable(
  "peer_order",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    peerId: text("peer_id")
      .notNull()
      .references(() => peer.id, { onDelete: "cascade" }),
    sessionId: hexId("session_id").references(() => session.id, { onDelete: "cascade" }),
    kind: text("kind").$type<OrderKind>().notNull(),
    body: jsonb("body").$type<Record<string, unknown>>().notNull(),
    state: text("state").$type<OrderState>().notNull().default("queued"),
    problemCode: text("problem_code").notNull().default(""),
    problemMessage: text("problem_message").notNull().default(""),
    createdAt: instant("created_at").notNull().defaultNow(),
    updatedAt: instant("updated_at").notNull().defaultNow(),
    /** Who has not begun by then does not begin any more. */
    expiresAt: instant("expires_at").notNull(),
    endedAt: instant("ended_at"),
  },
  (table) => [
    index("peer_order_project").on(table.projectId, table.createdAt.desc(), table.id.desc()),
    index("peer_order_open").on(table.peerId, table.state, table.createdAt),
    index("peer_order_session").on(table.sessionId),
  ],
);

/** What happened in a project, in order: event streams resume from it and webhooks are fed by it. */
export const projectEvent = pgTable(
  "project_event",
  {
    id: bigint("id", { mode: "number" }).primaryKey().generatedAlwaysAsIdentity(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    at: instant("at").notNull().defaultNow(),
    /** Such as `session.committed`, `peer.enrolled`. */
    type: text("type").notNull(),
    subjectKind: text("subject_kind").notNull(),
    subjectId: text("subject_id").notNull(),
    data: jsonb("data").$type<EventData>().notNull().default({}),
  },
  (table) => [
    index("project_event_project").on(table.projectId, table.id),
    index("project_event_at").on(table.at),
  ],
);

/** Who did what. Rows are added and, past their time, removed; never changed. */
export const audit = pgTable(
  "audit",
  {
    id: bigint("id", { mode: "number" }).primaryKey().generatedAlwaysAsIdentity(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    at: instant("at").notNull().defaultNow(),
    /** `key:PREFIX`, `peer:ID`, `relay`. */
    actor: text("actor").notNull(),
    remoteAddress: text("remote_address").notNull().default(""),
    requestId: text("request_id").notNull().default(""),
    /** Such as `key.revoke`. */
    action: text("action").notNull(),
    targetKind: text("target_kind").notNull(),
    targetId: text("target_id").notNull(),
    /** What was there before and after, secrets left out. */
    before: jsonb("before").$type<Record<string, unknown>>(),
    after: jsonb("after").$type<Record<string, unknown>>(),
  },
  (table) => [
    index("audit_project").on(table.projectId, table.id.desc()),
    index("audit_at").on(table.at),
  ],
);

/** The answer to a request that may be sent again. */
export const idempotentRequest = pgTable(
  "idempotent_request",
  {
    keyId: hexId("key_id")
      .notNull()
      .references(() => apiKey.id, { onDelete: "cascade" }),
    /** The `Idempotency-Key` header. */
    token: text("token").notNull(),
    /** SHA-256 of method, path and body. */
    requestHash: bytea("request_hash").notNull(),
    /** Null while the first request is under way. */
    status: integer("status"),
    /** Headers and body, encrypted under a key that only the API key's holder can derive: it may hold tickets. */
    sealedAnswer: bytea("sealed_answer"),
    createdAt: instant("created_at").notNull().defaultNow(),
  },
  (table) => [
    primaryKey({ columns: [table.keyId, table.token] }),
    index("idempotent_request_created").on(table.createdAt),
  ],
);

export const webhook = pgTable(
  "webhook",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    url: text("url").notNull(),
    /** Event types; `*` at the end stands for the rest. */
    eventTypes: jsonb("event_types").$type<string[]>().notNull(),
    enabled: boolean("enabled").notNull().default(true),
    /** Signs deliveries; encrypted under the relay's own key. */
    sealedSecret: bytea("sealed_secret").notNull(),
    /** The one before the last rotation, until it is over. */
    previousSealedSecret: bytea("previous_sealed_secret"),
    previousUntil: instant("previous_until"),
    /** The last `project_event.id` that was made a delivery. */
    cursor: bigint("cursor", { mode: "number" }).notNull(),
    version: integer("version").notNull().default(1),
    createdBy: text("created_by").notNull(),
    createdAt: instant("created_at").notNull().defaultNow(),
    updatedAt: instant("updated_at").notNull().defaultNow(),
  },
  (table) => [index("webhook_project").on(table.projectId)],
);

export const webhookDelivery = pgTable(
  "webhook_delivery",
  {
    id: hexId("id").primaryKey(),
    webhookId: hexId("webhook_id")
      .notNull()
      .references(() => webhook.id, { onDelete: "cascade" }),
    eventId: bigint("event_id", { mode: "number" }).notNull(),
    type: text("type").notNull(),
    payload: text("payload").notNull(),
    state: text("state").$type<DeliveryState>().notNull().default("pending"),
    attempts: integer("attempts").notNull().default(0),
    nextAttemptAt: instant("next_attempt_at").notNull().defaultNow(),
    statusCode: integer("status_code"),
    problem: text("problem").notNull().default(""),
    createdAt: instant("created_at").notNull().defaultNow(),
    deliveredAt: instant("delivered_at"),
  },
  (table) => [
    unique("webhook_delivery_event").on(table.webhookId, table.eventId),
    index("webhook_delivery_due").on(table.state, table.nextAttemptAt),
  ],
);

export const RELAY_STATES = ["active", "draining"] as const;
export type RelayState = (typeof RELAY_STATES)[number];

/** What a relay says of itself with each heartbeat. */
export interface RelayLoad {
  readonly sessions: number;
  readonly bytesPerS: number;
  readonly cpuRatio: number;
  readonly memoryBytes: number;
  readonly openFiles: number;
  readonly openFilesMax: number;
}

export const relayInstance = pgTable("relay_instance", {
  id: hexId("id").primaryKey(),
  url: text("url").notNull(),
  version: text("version").notNull(),
  name: text("name").notNull().default(""),
  zone: text("zone").notNull().default(""),
  state: text("state").$type<RelayState>().notNull().default("active"),
  /** What an operator wants it to be. */
  wantedState: text("wanted_state").$type<RelayState>().notNull().default("active"),
  load: jsonb("load").$type<RelayLoad>(),
  startedAt: instant("started_at").notNull().defaultNow(),
  heartbeatAt: instant("heartbeat_at").notNull().defaultNow(),
});
