/**
 * What columns hold: the names that a column may have, and the shapes of JSON.
 *
 * @module
 */

/** `admin` is good for everything in its project, `operator` for the relay itself and every project. */
export const API_SCOPES = [
  "sessions:read",
  "sessions:write",
  "sessions:control",
  "peers:read",
  "peers:write",
  "admin",
  "operator",
] as const;
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

export const DEADLINE_POLICIES = ["cancel", "finalize", "postcopy"] as const;

/** What happens without anybody asking. */
export interface SessionPolicy {
  /** When `limits.deadlineMs` has passed since the start. */
  readonly onDeadline?: (typeof DEADLINE_POLICIES)[number] | undefined;
  readonly allowPostcopy?: boolean | undefined;
  /** Waits for `:start` once both peers are there. */
  readonly startPaused?: boolean | undefined;
}

export const HOLDS = ["", "start", "pause"] as const;
/** Why chunks are not sent although they could be: `start` waits for `:start`, `pause` for `:resume`. */
export type SessionHold = (typeof HOLDS)[number];

/** A precondition that was looked at. */
export interface SessionCheck {
  readonly name: string;
  readonly severity: "ok" | "info" | "warning" | "error";
  readonly message: string;
  readonly fix: string;
}

/** A project's own bounds; what is not named has the relay's default. */
export interface ProjectLimits {
  readonly sessions?: number | undefined;
  readonly pendingSessions?: number | undefined;
  readonly peers?: number | undefined;
  readonly apiKeys?: number | undefined;
  readonly webhooks?: number | undefined;
  readonly relayedBytesPerS?: number | undefined;
  readonly relayedBytesPerMonth?: number | undefined;
  readonly relayWeight?: number | undefined;
}

export interface MigrationPolicy {
  /** `all`: no session of the group switches over before all can. */
  readonly consistency: "all" | "each";
}

export const PEER_CAPABILITIES = ["fuse", "nbd", "nbdKernel", "loop", "uffd", "direct"] as const;
export type PeerCapability = (typeof PEER_CAPABILITIES)[number];

export const REGION_KINDS = ["memory", "disk", "file"] as const;
export type RegionKind = (typeof REGION_KINDS)[number];

export const ORDER_KINDS = ["seed", "leech", "mount", "finalize", "cancel"] as const;
/** What an agent is told to do. */
export type OrderKind = (typeof ORDER_KINDS)[number];

export const ORDER_STATES = ["queued", "running", "done", "failed", "cancelled"] as const;
export type OrderState = (typeof ORDER_STATES)[number];

export const DELIVERY_STATES = ["pending", "delivered", "failed"] as const;
export type DeliveryState = (typeof DELIVERY_STATES)[number];

export type EventData = Record<string, string | number | boolean>;

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
