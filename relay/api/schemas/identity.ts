/**
 * Bodies about projects, API keys, sign-ins and the audit log.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { API_SCOPES, type ProjectLimits } from "../../db/schema.ts";
import { RELAY_LIMITS } from "../../limits.ts";
import { hexIdSchema, instant, line } from "./common.ts";
import { pageQuerySchema } from "../pages.ts";

const scopesSchema = z
  .array(z.enum(API_SCOPES).openapi("ApiScope"))
  .min(1)
  .max(API_SCOPES.length)
  .refine((scopes) => new Set(scopes).size === scopes.length, "names a scope twice");

export const createKeySchema = z
  .strictObject({
    name: line(128).optional(),
    scopes: scopesSchema.openapi({
      description:
        "At most one's own: `admin` is good for all but `operator`, `operator` for everything.",
    }),
    expiresAt: z.iso
      .datetime({ offset: true })
      .optional()
      .openapi({ example: "2030-01-31T12:00:00Z", description: "Within ten years." }),
    projectId: hexIdSchema.optional().openapi({
      description: "Another project than one's own; for an operator.",
    }),
  })
  .openapi("CreateApiKey", { example: { name: "ci", scopes: ["sessions:read"] } });

export const keySchema = z
  .object({
    id: hexIdSchema,
    projectId: hexIdSchema,
    name: z.string(),
    prefix: z.string().openapi({ description: "The part of the key that tells it apart." }),
    scopes: z.array(z.enum(API_SCOPES)),
    state: z.enum(["active", "expired", "revoked"]),
    createdBy: z
      .string()
      .openapi({ description: "Prefix of the key that made it; empty: the relay itself." }),
    createdAt: instant,
    expiresAt: instant.nullable(),
    revokedAt: instant.nullable(),
    lastUsedAt: instant.nullable().openapi({ description: "To the minute." }),
  })
  .openapi("ApiKey");
export type KeyBody = z.infer<typeof keySchema>;

export const createdKeySchema = z
  .object({
    key: keySchema,
    secret: z.string().openapi({ description: "The API key itself. Shown this once." }),
  })
  .openapi("CreatedApiKey");

export const keyPageSchema = z
  .object({ keys: z.array(keySchema), nextCursor: z.string().nullable() })
  .openapi("ApiKeyPage");

const ofProject = hexIdSchema.optional().openapi({
  description: "Another project than one's own; for an operator.",
});

export const listKeysQuerySchema = pageQuerySchema.extend({ projectId: ofProject });

export const revokeKeyQuerySchema = z.object({
  force: z.enum(["true", "false"]).optional().openapi({
    description: "`true`: also the last key that can make others.",
  }),
});

const amount = (max: number) => z.int().min(0).max(max);
/** Of each kind of limit: what may be asked for. */
const limitFields = {
  sessions: amount(1_000_000),
  pendingSessions: amount(1_000_000),
  peers: amount(1_000_000),
  apiKeys: amount(10_000),
  webhooks: amount(1_000),
  relayedBytesPerS: amount(Number.MAX_SAFE_INTEGER),
  relayedBytesPerMonth: amount(Number.MAX_SAFE_INTEGER),
  relayWeight: z.number().min(RELAY_LIMITS.relayWeight.least).max(RELAY_LIMITS.relayWeight.most),
} as const satisfies Readonly<Record<keyof ProjectLimits, unknown>>;

const projectLimitsSchema = z
  .strictObject(limitFields)
  .partial()
  .openapi("ProjectLimits", { description: "What is not named has the relay's default." });

const projectLimitsChangeSchema = z
  .strictObject({
    sessions: limitFields.sessions.nullable(),
    pendingSessions: limitFields.pendingSessions.nullable(),
    peers: limitFields.peers.nullable(),
    apiKeys: limitFields.apiKeys.nullable(),
    webhooks: limitFields.webhooks.nullable(),
    relayedBytesPerS: limitFields.relayedBytesPerS.nullable(),
    relayedBytesPerMonth: limitFields.relayedBytesPerMonth.nullable(),
    relayWeight: limitFields.relayWeight.nullable(),
  })
  .partial()
  .openapi("ProjectLimitsChange", {
    description: "What is not named stays; null is the relay's default again.",
  });

const projectName = line(128).min(1);

export const createProjectSchema = z
  .strictObject({ name: projectName, limits: projectLimitsSchema.optional() })
  .openapi("CreateProject");

export const changeProjectSchema = z
  .strictObject({ name: projectName.optional(), limits: projectLimitsChangeSchema.optional() })
  .openapi("ChangeProject");

export const projectSchema = z
  .object({
    id: hexIdSchema,
    name: z.string(),
    limits: projectLimitsSchema,
    version: z.number(),
    createdAt: instant,
    updatedAt: instant,
  })
  .openapi("Project");
export type ProjectBody = z.infer<typeof projectSchema>;

export const projectPageSchema = z
  .object({ projects: z.array(projectSchema), nextCursor: z.string().nullable() })
  .openapi("ProjectPage");

export const signInSchema = z
  .strictObject({ key: z.string().min(1).max(200) })
  .openapi("SignInRequest");

export const whoamiSchema = z
  .object({
    project: z.object({ id: hexIdSchema, name: z.string() }),
    key: z.object({
      id: hexIdSchema,
      prefix: z.string(),
      scopes: z.array(z.enum(API_SCOPES)),
    }),
    signIn: z
      .object({ expiresAt: instant, csrfToken: z.string() })
      .nullable()
      .openapi({ description: "If a cookie was sent. `csrfToken` goes into `x-csrf-token`." }),
  })
  .openapi("Whoami");

const changed = z.record(z.string(), z.unknown()).nullable();

export const auditEntrySchema = z
  .object({
    id: z.number(),
    at: instant,
    actor: z.string().openapi({ description: "`key:PREFIX`, `peer:ID` or `relay`." }),
    remoteAddress: z.string(),
    requestId: z.string(),
    action: z.string(),
    target: z.object({ kind: z.string(), id: z.string() }),
    before: changed,
    after: changed,
  })
  .openapi("AuditEntry");

export const auditPageSchema = z
  .object({ entries: z.array(auditEntrySchema), nextCursor: z.string().nullable() })
  .openapi("AuditPage");

export const auditQuerySchema = pageQuerySchema.extend({
  projectId: ofProject,
  action: z.string().max(64).optional().openapi({ description: "Such as `key.revoke`." }),
});
