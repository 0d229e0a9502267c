/**
 * What the relay may say to an agent. All of it is a stranger's word: bounded, and looked at field by field.
 *
 * @module
 */
import { z } from "zod";
import { isAgentName, ORDERED_MODES } from "../../relay/protocol/agent.ts";
import { REGION_BYTES_MAX } from "../../relay/protocol/limits.ts";

const base64Url = (charsMin: number, charsMax: number) =>
  z.string().regex(new RegExp(`^[A-Za-z0-9_-]{${charsMin},${charsMax}}$`));
const id = z.string().regex(/^[0-9a-f]{32}$/);
const name = z.string().refine(isAgentName);
const key = base64Url(43, 43);
const signature = base64Url(86, 86);
const sealed = z.object({ encapsulated: key, ciphertext: base64Url(1, 128) });
const peer = z.object({
  id: z.string().regex(/^[0-9a-f]{64}$/),
  sealingKey: key,
  sealingKeySignature: signature,
});

export const seedOrderSchema = z.object({
  sessionId: id,
  token: sealed,
  region: name,
  to: peer,
  hooks: z.object({
    suspend: name.optional(),
    rollback: name.optional(),
    release: name.optional(),
  }),
});

export const leechOrderSchema = z.object({
  sessionId: id,
  token: sealed,
  from: peer,
  secret: sealed.extend({ signature }),
  region: name,
  bytes: z.int().min(1).max(REGION_BYTES_MAX),
  directory: name.optional(),
  export: name.optional(),
  mode: z.enum(ORDERED_MODES),
  finalize: z.string().regex(/^(auto|manual|\d{1,3}%?)$/),
  downtimeBudgetMs: z.int().min(1).max(3_600_000).optional(),
  hooks: z.object({ resume: name.optional() }),
});

export const cancelOrderSchema = z.object({ orderId: id });

const relayMessageSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("challenge"), nonce: key, identity: key }),
  z.object({ type: z.literal("welcome"), peerId: z.string().max(64), name: z.string().max(64) }),
  z.object({
    type: z.literal("refused"),
    code: z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/),
    message: z.string().max(512),
  }),
  z.object({
    type: z.literal("order"),
    id,
    kind: z.string().max(32),
    begun: z.boolean(),
    body: z.record(z.string(), z.unknown()),
  }),
  z.object({ type: z.literal("orderKept"), id, state: z.string().max(32) }),
  z.object({ type: z.literal("probe") }),
]);
export type RelayMessage = z.infer<typeof relayMessageSchema>;
export type ReceivedOrder = Extract<RelayMessage, { type: "order" }>;

/** @returns Undefined for anything that no relay of ours says. */
export function parseRelayMessage(data: string): RelayMessage | undefined {
  let json: unknown;
  try {
    json = JSON.parse(data);
  } catch {
    return undefined;
  }
  const parsed = relayMessageSchema.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}
