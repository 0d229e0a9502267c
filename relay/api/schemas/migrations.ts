/**
 * Migrations as requests and answers have them.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { MIGRATION_ACTIONS, MIGRATION_STATES } from "../migration-state.ts";
import { createdSchema, createSessionSchema, relaySchema, stateSchema } from "../schemas.ts";
import { orderedMigrationBodySchema, orderedMigrationSchema } from "./agents.ts";
import { hexIdSchema, instant, labelsSchema, line } from "./common.ts";

const SESSIONS_MAX = 16;

export const groupedSessionsSchema = z
  .strictObject({
    name: line(128).optional(),
    labels: labelsSchema.optional(),
    consistency: z.enum(["all", "each"]).default("all").openapi({
      description: "`all`: `:finalize` is refused unless every session can hand over.",
    }),
    sessions: z.array(createSessionSchema).max(SESSIONS_MAX).default([]).openapi({
      description: "Made with it, each with two tickets.",
    }),
    sessionIds: z.array(hexIdSchema).max(SESSIONS_MAX).default([]).openapi({
      description: "Sessions that are there and in no other migration.",
    }),
  })
  .refine(({ sessions, sessionIds }) => sessions.length + sessionIds.length > 0, {
    message: "name at least one session in sessions or sessionIds",
    path: ["sessions"],
  })
  .openapi("GroupSessions");

export const newMigrationSchema = z.union([orderedMigrationSchema, groupedSessionsSchema]);

export const groupedBodySchema = z
  .object({
    id: hexIdSchema,
    sessionIds: z.array(hexIdSchema),
    /** Of those that were made with it, in the order of the request. */
    sessions: z.array(createdSchema.pick({ session: true, tickets: true })),
    relay: relaySchema,
  })
  .openapi("GroupedSessions");

export const newMigrationBodySchema = z.union([orderedMigrationBodySchema, groupedBodySchema]);

export const migrationSchema = z
  .object({
    id: hexIdSchema,
    name: z.string(),
    labels: z.record(z.string(), z.string()),
    state: z.enum(MIGRATION_STATES).openapi({
      description:
        "Of the session that is least far; `failed` or `paused` if one is; at the end `done`, `cancelled`, or `partial`.",
    }),
    policy: z.object({ consistency: z.enum(["all", "each"]) }),
    sessionIds: z.array(hexIdSchema),
    progress: z.object({
      percent: z.number(),
      bytesTotal: z.number(),
      bytesSent: z.number(),
      bytesWire: z.number(),
      bytesRemaining: z.number(),
      sendBytesPerS: z.number(),
      dirtyBytesPerS: z.number(),
    }),
    downtimeMs: z.number().nullable().openapi({
      description: "The longest of its sessions; null until all have one.",
    }),
    allowedActions: z.array(z.enum(MIGRATION_ACTIONS)),
    createdBy: z.string().openapi({ description: "Prefix of the API key." }),
    createdAt: instant,
    version: z.number(),
  })
  .openapi("Migration");

export type MigrationBody = z.infer<typeof migrationSchema>;

export const migrationPageSchema = z
  .object({ migrations: z.array(migrationSchema), nextCursor: z.string().nullable() })
  .openapi("MigrationPage");

export const migrationActionBodySchema = z
  .strictObject({ reason: line(256).optional() })
  .openapi("MigrationActionRequest");

export const migrationOutcomeSchema = z
  .object({
    migration: migrationSchema,
    outcomes: z.array(
      z.object({
        sessionId: hexIdSchema,
        state: stateSchema,
        done: z.boolean().openapi({ description: "Whether it was passed on." }),
        detail: z.string().openapi({ description: "Why not; else empty." }),
      }),
    ),
  })
  .openapi("MigrationOutcome");
