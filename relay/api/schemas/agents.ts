/**
 * Bodies of enrollments, peers, offered regions, orders, and of migrations between peers.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { NAT_CLASSES } from "../../agents/messages.ts";
import {
  ORDER_KINDS,
  ORDER_STATES,
  PEER_CAPABILITIES,
  REGION_KINDS,
} from "../../db/schema-values.ts";
import { isAgentName, ORDERED_MODES } from "../../protocol/agent.ts";
import { pageQuerySchema } from "../pages.ts";
import { hexIdSchema, instant, labelsSchema, line } from "./common.ts";

const DAY_MS = 24 * 3_600_000;

const name = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/)
  .refine(isAgentName)
  .openapi({ example: "db-1" });

export const peerIdSchema = z
  .string()
  .regex(/^[0-9a-f]{64}$/)
  .openapi({ description: "The peer's ed25519 public key.", example: "3f".repeat(32) });

export const peerIdParameter = z.object({
  id: z.string().openapi({ param: { name: "id", in: "path" }, example: "3f".repeat(32) }),
});

export const createEnrollmentSchema = z
  .strictObject({
    name: name
      .optional()
      .openapi({ description: "What the peer is called; its host's name if absent." }),
    labels: labelsSchema.optional(),
    ttlMs: z
      .int()
      .min(1_000)
      .max(7 * DAY_MS)
      .default(3_600_000)
      .openapi({
        description: "How long the code may be used, in milliseconds.",
      }),
  })
  .openapi("CreateEnrollment");

export const enrollmentSchema = z
  .object({
    id: hexIdSchema,
    name: z.string(),
    labels: z.record(z.string(), z.string()),
    state: z.enum(["open", "used", "expired"]),
    peerId: z.string().nullable(),
    createdBy: z.string(),
    createdAt: instant,
    expiresAt: instant,
    usedAt: instant.nullable(),
  })
  .openapi("Enrollment");

export const createdEnrollmentSchema = z
  .object({
    enrollment: enrollmentSchema,
    code: z
      .string()
      .openapi({ description: "For one `memferry agent --enroll`. Shown this once." }),
  })
  .openapi("CreatedEnrollment");

export const enrollmentPageSchema = z
  .object({ enrollments: z.array(enrollmentSchema), nextCursor: z.string().nullable() })
  .openapi("EnrollmentPage");

export const peerSchema = z
  .object({
    id: peerIdSchema,
    name: z.string(),
    labels: z.record(z.string(), z.string()),
    state: z.enum(["online", "offline"]),
    host: z.string(),
    zone: z.string(),
    version: z.string().openapi({ description: "Of memferry." }),
    platform: z.string(),
    kernel: z.string(),
    capabilities: z.array(z.enum(PEER_CAPABILITIES)),
    natClass: z.enum(NAT_CLASSES),
    diskFreeBytes: z.number().nullable(),
    hooks: z.array(z.string()),
    directories: z.array(z.string()),
    exports: z.array(z.string()),
    problems: z.array(z.string()),
    lastSeenAt: instant.nullable(),
    revision: z.number().openapi({ description: "Counts changes by the API; it is the ETag." }),
    createdAt: instant,
    updatedAt: instant,
  })
  .openapi("Peer");
export type PeerBody = z.infer<typeof peerSchema>;

export const peerPageSchema = z
  .object({ peers: z.array(peerSchema), nextCursor: z.string().nullable() })
  .openapi("PeerPage");

export const patchPeerSchema = z
  .strictObject({
    name: name.optional(),
    labels: labelsSchema.optional(),
    zone: line(64).optional(),
  })
  .openapi("PatchPeer");

export const probedSchema = z
  .object({ asked: z.boolean().openapi({ description: "Whether the peer is connected here." }) })
  .openapi("ProbedPeer");

export const offeredRegionSchema = z
  .object({
    peerId: peerIdSchema,
    peerName: z.string(),
    name: z.string(),
    kind: z.enum(REGION_KINDS),
    bytes: z.number(),
    chunkBytes: z.number(),
    updatedAt: instant,
  })
  .openapi("OfferedRegion");

export const regionPageSchema = z
  .object({ regions: z.array(offeredRegionSchema), nextCursor: z.string().nullable() })
  .openapi("OfferedRegionPage");

export const regionsQuerySchema = pageQuerySchema.extend({ peerId: z.string().max(64).optional() });

export const orderSchema = z
  .object({
    id: hexIdSchema,
    peerId: peerIdSchema,
    sessionId: hexIdSchema.nullable(),
    kind: z.enum(ORDER_KINDS),
    state: z.enum(ORDER_STATES),
    problem: z
      .object({ code: z.string(), message: z.string() })
      .nullable()
      .openapi({ description: "Why it failed, by the agent or by the relay; docs/errors.md." }),
    createdAt: instant,
    updatedAt: instant,
    expiresAt: instant.openapi({ description: "Not begun by then, it fails." }),
    endedAt: instant.nullable(),
  })
  .openapi("Order");
export type OrderBody = z.infer<typeof orderSchema>;

export const orderPageSchema = z
  .object({ orders: z.array(orderSchema), nextCursor: z.string().nullable() })
  .openapi("OrderPage");

export const ordersQuerySchema = pageQuerySchema.extend({
  peerId: z.string().max(64).optional(),
  sessionId: z.string().max(32).optional(),
  state: z.enum(ORDER_STATES).optional(),
});

const source = z.union([
  z
    .string()
    .regex(/^[^/]{1,64}\/[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/)
    .openapi({ example: "host-a/db", description: "PEER/REGION, the peer by name or id." }),
  z.strictObject({ peerId: peerIdSchema, region: name }),
]);

export const orderedMigrationSchema = z
  .strictObject({
    from: z.union([source, z.array(source).min(1).max(16)]),
    to: z
      .string()
      .min(1)
      .max(64)
      .openapi({ description: "The peer that receives, by name or id." }),
    name: line(128).optional(),
    labels: labelsSchema.optional(),
    consistency: z.enum(["all", "each"]).default("each"),
    orderTtlMs: z.int().min(1_000).max(DAY_MS).default(600_000).openapi({
      description: "How long the orders wait for a peer that is not connected, in milliseconds.",
    }),
    options: z
      .strictObject({
        mode: z.enum(ORDERED_MODES).default("live"),
        finalize: z
          .string()
          .regex(/^(auto|manual|\d{1,3}%?)$/)
          .default("auto"),
        downtimeBudgetMs: z.int().min(1).max(3_600_000).optional(),
        directory: name.optional().openapi({ description: "Of those that the peer names." }),
        export: name.optional().openapi({ description: "Of those that the peer names." }),
        hooks: z
          .strictObject({
            suspend: name.optional(),
            rollback: name.optional(),
            release: name.optional(),
            resume: name.optional(),
          })
          .default({}),
      })
      .default({ mode: "live", finalize: "auto", hooks: {} }),
  })
  .openapi("OrderMigration");

export const orderedMigrationBodySchema = z
  .object({
    id: hexIdSchema,
    sessionIds: z.array(hexIdSchema),
    orders: z.array(orderSchema),
  })
  .openapi("OrderedMigration");
