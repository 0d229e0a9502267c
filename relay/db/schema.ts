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
  check,
  customType,
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

export const API_SCOPES = ["sessions:read", "sessions:write", "sessions:control", "admin"] as const;
export type ApiScope = (typeof API_SCOPES)[number];

export const SESSION_MODES = ["live", "precopy"] as const;
/** `live` may finish by post-copy; `precopy` hands over only what is whole. */
export type SessionMode = (typeof SESSION_MODES)[number];

export interface SessionLimits {
  readonly bytesPerS?: number | undefined;
  readonly downtimeTargetMs?: number | undefined;
  readonly deadlineMs?: number | undefined;
  readonly maxRounds?: number | undefined;
}

/** Milestones of a session, each the first time it was met. ISO 8601. */
export interface SessionTimes {
  readonly joinedAt?: string;
  readonly startedAt?: string;
  readonly finalizeAt?: string;
  readonly suspendedAt?: string;
  readonly committedAt?: string;
  readonly resumedAt?: string;
  readonly doneAt?: string;
}

/** What a peer said of itself. */
export interface PeerDescription {
  readonly host: string;
  readonly version: string;
}

export const project = pgTable("project", {
  id: hexId("id").primaryKey(),
  name: text("name").notNull().unique(),
  createdAt: instant("created_at").notNull().defaultNow(),
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
    createdAt: instant("created_at").notNull().defaultNow(),
    expiresAt: instant("expires_at"),
    revokedAt: instant("revoked_at"),
    lastUsedAt: instant("last_used_at"),
  },
  (table) => [index("api_key_project").on(table.projectId)],
);

export const session = pgTable(
  "session",
  {
    id: hexId("id").primaryKey(),
    projectId: hexId("project_id")
      .notNull()
      .references(() => project.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    labels: jsonb("labels").$type<Record<string, string>>().notNull().default({}),
    state: text("state").$type<SessionState>().notNull().default("pending"),
    reasonCode: text("reason_code").notNull().default(""),
    reasonMessage: text("reason_message").notNull().default(""),
    mode: text("mode").$type<SessionMode>().notNull().default("live"),
    limits: jsonb("limits").$type<SessionLimits>().notNull().default({}),
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

export const relayInstance = pgTable("relay_instance", {
  id: hexId("id").primaryKey(),
  url: text("url").notNull(),
  version: text("version").notNull(),
  startedAt: instant("started_at").notNull().defaultNow(),
  heartbeatAt: instant("heartbeat_at").notNull().defaultNow(),
});
