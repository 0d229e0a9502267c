/**
 * What a leecher is told at its start.
 *
 * @module
 */
import type { Destination } from "./destination.ts";
import type { OnMigrationEvent } from "./events.ts";
import type { LeecherSnapshot } from "./leecher-snapshot.ts";
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
  /** Goes on after the commit from what an earlier leecher of this session kept. */
  readonly resumeFrom?: LeecherSnapshot;
  /** Makes room for what is offered. @throws what is wrong with the destination */
  readonly prepare: (offer: OfferMessage) => Promise<Destination>;
  /** Starts the workload. */
  readonly onResume?: (signal: AbortSignal) => Promise<void>;
  readonly onEvent?: OnMigrationEvent;
}
