/**
 * Bodies of the API: one schema checks a request, types its handler and writes its page of openapi.json.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { ROLES, SESSION_STATES } from "../protocol/ids.ts";
import { TICKET_LIFETIME_MS_MAX } from "../db/limits.ts";
import { DEADLINE_POLICIES, SESSION_MODES } from "../db/schema.ts";
import { SESSION_SORTS } from "../db/sessions.ts";
import { pageQuerySchema } from "./pages.ts";
import { hexIdSchema, instant, labelsSchema, line, positive } from "./schemas/common.ts";
import { SESSION_ACTIONS } from "./session-state.ts";

export const sessionIdSchema = hexIdSchema;

export const stateSchema = z.enum(SESSION_STATES).openapi("SessionState");
export const actionSchema = z.enum(SESSION_ACTIONS).openapi("SessionAction");
export type { SessionAction } from "./session-state.ts";

const limitsSchema = z
  .strictObject({
    bytesPerS: positive(Number.MAX_SAFE_INTEGER).optional(),
    downtimeTargetMs: positive(3_600_000).optional(),
    deadlineMs: positive(30 * 24 * 3_600_000).optional(),
    maxRounds: positive(10_000).optional(),
  })
  .openapi("SessionLimits");

const policySchema = z
  .strictObject({
    onDeadline: z.enum(DEADLINE_POLICIES).optional().openapi({
      description: "What is done when `limits.deadlineMs` has passed since the copying began.",
    }),
    allowPostcopy: z.boolean().optional().openapi({
      description:
        "Whether it may hand over before everything is there. Default: not in mode `precopy`.",
    }),
    startPaused: z.boolean().optional().openapi({
      description: "Nothing is sent before `:start`. Counts when the session is made.",
    }),
  })
  .openapi("SessionPolicy");

/** What of a session may be changed; `null` takes away what was there. */
export const patchSessionSchema = z
  .strictObject({
    name: line(128).optional(),
    labels: labelsSchema.optional(),
    limits: limitsSchema.optional(),
    policy: policySchema.optional(),
  })
  .openapi("PatchSession");

export const createSessionSchema = z
  .strictObject({
    policy: policySchema.optional(),
    name: line(128).optional(),
    labels: labelsSchema.optional(),
    mode: z.enum(SESSION_MODES).optional(),
    limits: limitsSchema.optional(),
    ticketTtlMs: z.int().min(1_000).max(TICKET_LIFETIME_MS_MAX).optional().openapi({
      description: "How long the two tickets may wait to be used, in milliseconds.",
    }),
  })
  .openapi("CreateSession");

export const actionBodySchema = z
  .strictObject({
    reason: line(256).optional(),
    expectedVersion: z.int().min(1).optional().openapi({
      description:
        "The `version` that was seen; the action is refused if it is another one by now.",
    }),
  })
  .openapi("SessionActionRequest");

const peerSchema = z
  .object({
    peerId: z.string().nullable().openapi({ description: "Of an enrolled peer." }),
    connected: z.boolean(),
    joinedAt: instant.nullable().openapi({ description: "When its ticket was used." }),
    connectedSince: instant.nullable(),
    host: z.string().nullable(),
    version: z.string().nullable(),
    observedAddr: z.string().nullable(),
    link: z.enum(["webtransport", "websocket", "direct", "memory"]).nullable(),
  })
  .openapi("SessionPeer");

export const progressSchema = z
  .object({
    phase: stateSchema,
    round: z.number(),
    roundsMax: z.number().nullable(),
    percent: z.number().openapi({
      description:
        "Of the way, by phases: never falls. How much of the region is there now is `ready`.",
    }),
    ready: z.number().openapi({
      description:
        "Percent of the region that is present and current at the destination; may fall.",
    }),
    chunksTotal: z.number(),
    chunksSent: z.number(),
    chunksReady: z.number(),
    chunksDirty: z.number(),
    chunksZero: z.number(),
    chunksReused: z.number(),
    bytesTotal: z.number(),
    bytesSent: z.number(),
    bytesWire: z.number(),
    bytesRemaining: z.number(),
    dirtyBytesPerS: z.number(),
    sendBytesPerS: z.number(),
    convergence: z.object({
      verdict: z.enum(["yes", "no", "unknown"]),
      ratio: z.number().nullable().openapi({ description: "Dirty rate over send rate." }),
    }),
    etaMs: z.number().nullable(),
    expectedDowntimeMs: z.number().nullable(),
    faults: z.number(),
    faultP50Ms: z.number().nullable(),
    faultP99Ms: z.number().nullable(),
    stalledMs: z
      .number()
      .openapi({ description: "For how long nothing came, though some is missing." }),
    blockedBy: z.array(z.string()).openapi({
      description:
        "`seederAway`, `leecherAway`, `ticketUnused`, `paused`, `notStarted`, `notConverging`.",
    }),
    at: instant.nullable(),
  })
  .openapi("SessionProgress");

const timingsSchema = z
  .object({
    createdAt: instant,
    joinedAt: instant.nullable(),
    startedAt: instant.nullable(),
    finalizeAt: instant.nullable(),
    suspendedAt: instant.nullable(),
    committedAt: instant.nullable(),
    resumedAt: instant.nullable(),
    doneAt: instant.nullable(),
    endedAt: instant.nullable(),
    totalMs: z.number().nullable(),
    downtimeMs: z.number().nullable().openapi({ description: "Measured, suspend to resume." }),
  })
  .openapi("SessionTimings");

export const sessionSchema = z
  .object({
    id: sessionIdSchema,
    name: z.string(),
    labels: z.record(z.string(), z.string()),
    state: stateSchema,
    reason: z.object({ code: z.string(), message: z.string() }).nullable(),
    migrationId: hexIdSchema.nullable(),
    mode: z.enum(SESSION_MODES),
    region: z
      .object({
        name: z.string(),
        bytes: z.number(),
        chunkBytes: z.number(),
        chunkCount: z.number(),
        rootHash: z.string().nullable(),
      })
      .nullable()
      .openapi({ description: "Null until the seeder has described it." }),
    seeder: peerSchema,
    leecher: peerSchema,
    path: z
      .object({
        kind: z.enum(["direct", "relayWebTransport", "relayWs", "memory"]),
        rttMs: z.number().nullable(),
      })
      .nullable()
      .openapi({ description: "Null while the two are not both connected." }),
    relay: z
      .object({ node: z.string(), zone: z.string(), url: z.string() })
      .nullable()
      .openapi({ description: "The one that peers are connected to; null if none is." }),
    fingerprint: z.string().nullable().openapi({
      description:
        "As both peers show it, by the word of the destination; null where it is not known.",
    }),
    relayedBytes: z.object({ fromSeeder: z.number(), fromLeecher: z.number() }),
    limits: limitsSchema,
    policy: policySchema,
    progress: progressSchema.nullable(),
    timings: timingsSchema,
    authority: z
      .object({ holder: z.enum(ROLES), epoch: z.number() })
      .openapi({ description: "Which side may run the workload." }),
    allowedActions: z.array(actionSchema),
    createdBy: z.string().openapi({ description: "Prefix of the API key." }),
    version: z.number(),
    updatedAt: instant,
  })
  .openapi("Session");

/** A session as every answer, list and event of the API shows it. */
export type SessionBody = z.infer<typeof sessionSchema>;

export const ticketSchema = z
  .object({
    token: z.string().openapi({ description: "32 bytes, base64url. Shown this once." }),
    expiresAt: instant,
  })
  .openapi("SessionTicket");

export const relaySchema = z
  .object({ url: z.string(), certificateHashes: z.array(z.string()), identity: z.string() })
  .openapi("RelayAddress");

export const createdSchema = z
  .object({
    session: sessionSchema,
    tickets: z.object({ seeder: ticketSchema, leecher: ticketSchema }),
    relay: relaySchema,
  })
  .openapi("CreatedSession");

export const sessionPageSchema = z
  .object({ sessions: z.array(sessionSchema), nextCursor: z.string().nullable() })
  .openapi("SessionPage");

export const eventSchema = z
  .object({
    seq: z.number(),
    at: instant,
    type: z.string(),
    data: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  })
  .openapi("SessionEvent");

export const eventPageSchema = z
  .object({ events: z.array(eventSchema), nextCursor: z.string().nullable() })
  .openapi("SessionEventPage");

export const listQuerySchema = pageQuerySchema.extend({
  state: z
    .string()
    .transform((text) => text.split(","))
    .pipe(z.array(stateSchema))
    .optional()
    .openapi({ type: "string", description: "One or more states, separated by commas." }),
  label: z
    .union([z.string(), z.array(z.string()).max(8)])
    .transform((texts) => [texts].flat())
    .pipe(z.array(z.string().regex(/^[^:=]{1,63}[:=].{0,128}$/, "must be NAME:VALUE")))
    .optional()
    .openapi({ type: "string", description: "`NAME:VALUE`; may be given several times." }),
  peer: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional()
    .openapi({ description: "An enrolled peer's id, on either side." }),
  since: z.iso.datetime().optional().openapi({ description: "Made then or later." }),
  migration: hexIdSchema.optional(),
  text: line(128).min(1).optional().openapi({
    description: "Part of a name, a label's value or a host's name; or the id's beginning.",
  }),
  sort: z.enum(SESSION_SORTS).default("-createdAt"),
});

export const eventsQuerySchema = pageQuerySchema;

export const checkSchema = z
  .object({
    name: z.string(),
    severity: z.enum(["ok", "info", "warning", "error"]),
    message: z.string(),
    fix: z.string().openapi({ description: "What to do about it; empty if there is nothing." }),
  })
  .openapi("SessionCheck");

export const checksSchema = z
  .object({ checks: z.array(checkSchema), checkedAt: instant.nullable() })
  .openapi("SessionChecks");

export const progressAnswerSchema = z
  .object({
    id: sessionIdSchema,
    state: stateSchema,
    version: z.number(),
    progress: progressSchema.nullable(),
  })
  .openapi("SessionProgressAnswer");

export const versionSchema = z
  .object({ version: z.string(), protocol: z.string(), runtime: z.string() })
  .openapi("Version");

export const discoverySchema = z
  .object({
    token: z.string().openapi({ description: "16 bytes in base64url, good for ten minutes." }),
    ports: z.array(z.int()).length(2),
  })
  .openapi("Discovery");

export const problemSchema = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.number(),
    code: z.string(),
    detail: z.string(),
    requestId: z.string(),
    currentState: stateSchema.optional(),
    allowedActions: z.array(actionSchema).optional(),
    issues: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
    alternateUrls: z.array(z.string()).optional(),
    limitName: z.string().optional(),
  })
  .openapi("Problem");
