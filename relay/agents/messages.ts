/**
 * What an agent may say to the relay. All of it is a stranger's word: bounded, and looked at field by field.
 *
 * @module
 */
import { z } from "zod";

import {
  AGENT_MESSAGE_BYTES_MAX,
  AGENT_NAMES_MAX,
  isAgentName,
  type CancelOrder,
  type LeechOrder,
  type SeedOrder,
} from "../protocol/agent.ts";
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, REGION_BYTES_MAX } from "../protocol/limits.ts";
import { ORDER_STATES, PEER_CAPABILITIES, REGION_KINDS, type OrderKind } from "../db/schema.ts";

/** How the host's network treats UDP, by what its agent found. */
export const NAT_CLASSES = [
  "none",
  "endpoint-independent",
  "endpoint-dependent",
  "udp-blocked",
  "unknown",
] as const;

const base64Url = (charsMin: number, charsMax: number) =>
  z.string().regex(new RegExp(`^[A-Za-z0-9_-]{${charsMin},${charsMax}}$`));

const key32 = base64Url(43, 43);
const signature = base64Url(86, 86);

const name = z.string().refine(isAgentName, "must be a name");

/** One line that may be shown: no control characters, whole Unicode. */
const text = (charsMax: number) =>
  z
    .string()
    .max(charsMax)
    // oxlint-disable-next-line no-control-regex -- these are the characters to refuse
    .regex(/^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$/)
    .refine((line) => line.isWellFormed());

const peerIdSchema = z.string().regex(/^[0-9a-f]{64}$/);
const orderIdSchema = z.string().regex(/^[0-9a-f]{32}$/);

export const loginSchema = z.strictObject({
  type: z.literal("login"),
  peerId: peerIdSchema,
  signature,
  enrollment: z
    .strictObject({
      token: key32,
      /** The host's own name, for a code that gives none. */
      name,
      sealingKey: key32,
      sealingKeySignature: signature,
    })
    .optional(),
});
export type LoginMessage = z.infer<typeof loginSchema>;

export const reportSchema = z.strictObject({
  type: z.literal("report"),
  host: text(128),
  /** Absent: what the API was told stays. */
  zone: text(64).optional(),
  version: text(64),
  platform: text(64),
  kernel: text(128),
  capabilities: z.array(z.enum(PEER_CAPABILITIES)).max(PEER_CAPABILITIES.length),
  natClass: z.enum(NAT_CLASSES),
  diskFreeBytes: z.int().min(0).nullable(),
  hooks: z.array(name).max(AGENT_NAMES_MAX),
  directories: z.array(name).max(AGENT_NAMES_MAX),
  exports: z.array(name).max(AGENT_NAMES_MAX),
  regions: z
    .array(
      z.strictObject({
        name,
        kind: z.enum(REGION_KINDS),
        bytes: z.int().min(1).max(REGION_BYTES_MAX),
        chunkBytes: z
          .int()
          .min(CHUNK_BYTES_MIN)
          .max(CHUNK_BYTES_MAX)
          .refine((bytes) => (bytes & (bytes - 1)) === 0),
      }),
    )
    .max(AGENT_NAMES_MAX)
    .refine((regions) => new Set(regions.map((region) => region.name)).size === regions.length),
  /** What is wrong with the host, each one line. */
  problems: z.array(text(256)).max(16),
});
export type ReportMessage = z.infer<typeof reportSchema>;

const sealedSchema = z.strictObject({
  encapsulated: key32,
  ciphertext: base64Url(1, 128),
});

export const orderStateSchema = z.strictObject({
  type: z.literal("orderState"),
  id: orderIdSchema,
  state: z.enum(ORDER_STATES).exclude(["queued"]),
  problem: z
    .strictObject({ code: z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/), message: text(512) })
    .optional(),
  /** The session's secret, sealed to the leecher: once, from the seeder. */
  secret: sealedSchema.extend({ signature }).optional(),
});
export type OrderStateMessage = z.infer<typeof orderStateSchema>;

const agentMessageSchema = z.discriminatedUnion("type", [
  loginSchema,
  reportSchema,
  orderStateSchema,
]);
export type AgentMessage = z.infer<typeof agentMessageSchema>;

/** @returns Undefined for anything that no agent of ours says. */
export function parseAgentMessage(data: string): AgentMessage | undefined {
  if (data.length > AGENT_MESSAGE_BYTES_MAX) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(data);
  } catch {
    return undefined;
  }
  const parsed = agentMessageSchema.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}

/** What the relay says. */
export type RelayMessage =
  | { readonly type: "challenge"; readonly nonce: string; readonly identity: string }
  | { readonly type: "welcome"; readonly peerId: string; readonly name: string }
  | { readonly type: "refused"; readonly code: string; readonly message: string }
  | {
      readonly type: "order";
      readonly id: string;
      readonly kind: OrderKind;
      /** The agent has said that it runs. */
      readonly begun: boolean;
      readonly body: SeedOrder | LeechOrder | CancelOrder;
    }
  | { readonly type: "orderKept"; readonly id: string; readonly state: string }
  | { readonly type: "probe" };
