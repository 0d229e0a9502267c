/**
 * What a leecher is told at its start.
 *
 * @module
 */
import type { ConvergencePolicy } from "./convergence.ts";
import type { Destination } from "./destination.ts";
import type { Journal, LeecherRecord } from "../journal/journal.ts";
import type { OnMigrationEvent } from "./events.ts";
import type { Handshake } from "./handshake.ts";
import type { KeyedHash } from "./manifest.ts";
import type { Mode, OfferMessage } from "./messages.ts";
import type { SessionPort } from "./session-port.ts";

/** When to hand over. */
export type FinalizePolicy =
  | { readonly kind: "auto" }
  | { readonly kind: "manual" }
  /** As soon as this share of the region is ready. */
  | { readonly kind: "ready"; readonly ratio: number };

export interface LeecherOptions {
  readonly session: SessionPort;
  readonly sessionId: Uint8Array;
  /** The ticket's secret. */
  readonly secret: Uint8Array;
  /** BLAKE3 keyed with the offer's key. */
  readonly keyedHash: (hashKey: Uint8Array) => KeyedHash;
  readonly mode: Mode;
  readonly finalize: FinalizePolicy;
  readonly downtimeBudgetMs: number;
  readonly dataStreams: number;
  /** With a record in it the leecher goes on from there. Without a journal nothing survives this process. */
  readonly journal?: Journal<LeecherRecord>;
  /**
   * The workload did not notice that the process before this one ended: it is not started again if it was before.
   */
  readonly workloadStayed?: boolean;
  /** Makes room for what is offered, or finds it again. @throws what is wrong with the destination */
  readonly prepare: (offer: OfferMessage) => Promise<Destination>;
  /** Starts the workload. After a crash it may run again. */
  readonly onResume?: (signal: AbortSignal) => Promise<void>;
  readonly onEvent?: OnMigrationEvent;
  readonly handshake?: Handshake;
}

/** What this peer was started with, and before it what the operator wants now. */
export function policyFor({
  mode,
  downtimeBudgetMs,
  session: { terms },
}: Pick<LeecherOptions, "mode" | "downtimeBudgetMs" | "session">): ConvergencePolicy {
  return {
    mode: terms?.mode === "precopy" ? "precopy" : mode,
    downtimeBudgetMs: terms?.downtimeTargetMs || downtimeBudgetMs,
    roundsMax: terms?.maxRounds || undefined,
  };
}
