/**
 * Bodies of what an operator sees of the relays, and of webhooks.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { DELIVERY_STATES, RELAY_STATES } from "../../db/schema.ts";
import {
  EVENT_TYPES_PER_WEBHOOK_MAX,
  PREVIOUS_SECRET_S_MAX,
  WEBHOOK_URL_CHARS_MAX,
} from "../../webhooks/limits.ts";
import { pageQuerySchema } from "../pages.ts";
import { hexIdSchema, instant } from "./common.ts";

export const relayNodeSchema = z
  .object({
    id: hexIdSchema,
    name: z.string(),
    zone: z.string(),
    url: z.string(),
    version: z.string(),
    state: z.enum([...RELAY_STATES, "lost"]).openapi({
      description: "`lost`: nothing was heard of it for three heartbeats.",
    }),
    wantedState: z.enum(RELAY_STATES),
    isThis: z.boolean().openapi({ description: "Whether it is the one that answers." }),
    load: z
      .object({
        sessions: z.number(),
        bytesPerS: z.number(),
        cpuRatio: z.number().openapi({ description: "Of one core." }),
        memoryBytes: z.number(),
        openFiles: z.number(),
        openFilesMax: z.number(),
      })
      .nullable(),
    startedAt: instant,
    heartbeatAt: instant,
  })
  .openapi("Relay");
export type RelayNodeBody = z.infer<typeof relayNodeSchema>;

export const relayPageSchema = z
  .object({ relays: z.array(relayNodeSchema), nextCursor: z.string().nullable() })
  .openapi("RelayPage");

/** A type's name, or its beginning with `*` at the end. */
const eventTypes = z
  .array(
    z
      .string()
      .max(64)
      .regex(/^(?:\*|[a-z][A-Za-z0-9]*\.\*|[a-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)+)$/),
  )
  .min(1)
  .max(EVENT_TYPES_PER_WEBHOOK_MAX)
  .openapi({ example: ["session.*", "peer.enrolled"] });

const url = z.string().min(1).max(WEBHOOK_URL_CHARS_MAX).openapi({
  example: "https://hooks.example.org/memferry",
});

export const createWebhookSchema = z
  .strictObject({ url, eventTypes, enabled: z.boolean().optional() })
  .openapi("CreateWebhook");

export const patchWebhookSchema = z
  .strictObject({
    url: url.optional(),
    eventTypes: eventTypes.optional(),
    enabled: z.boolean().optional(),
  })
  .openapi("PatchWebhook");

export const rotateWebhookSchema = z
  .strictObject({
    previousForS: z.int().min(0).max(PREVIOUS_SECRET_S_MAX).optional().openapi({
      description: "How long deliveries are signed with the secret of now as well.",
    }),
  })
  .openapi("RotateWebhook");

export const webhookSchema = z
  .object({
    id: hexIdSchema,
    url: z.string(),
    eventTypes: z.array(z.string()),
    enabled: z.boolean(),
    previousSecretUntil: instant.nullable(),
    createdBy: z.string(),
    version: z.number(),
    createdAt: instant,
    updatedAt: instant,
  })
  .openapi("Webhook");
export type WebhookBody = z.infer<typeof webhookSchema>;

export const secretWebhookSchema = z
  .object({
    webhook: webhookSchema,
    secret: z.string().openapi({ description: "Signs deliveries. Shown this once." }),
  })
  .openapi("WebhookWithSecret");

export const webhookPageSchema = z
  .object({ webhooks: z.array(webhookSchema), nextCursor: z.string().nullable() })
  .openapi("WebhookPage");

export const deliverySchema = z
  .object({
    id: hexIdSchema,
    eventId: z.string(),
    type: z.string(),
    state: z.enum(DELIVERY_STATES),
    attempts: z.number(),
    statusCode: z.number().nullable(),
    problem: z.string(),
    nextAttemptAt: instant.nullable(),
    createdAt: instant,
    deliveredAt: instant.nullable(),
  })
  .openapi("WebhookDelivery");
export type DeliveryBody = z.infer<typeof deliverySchema>;

export const deliveryPageSchema = z
  .object({ deliveries: z.array(deliverySchema), nextCursor: z.string().nullable() })
  .openapi("WebhookDeliveryPage");

export const deliveriesQuerySchema = pageQuerySchema.extend({
  state: z.enum(DELIVERY_STATES).optional(),
});
