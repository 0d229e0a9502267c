/**
 * What the caller's thread and the migration's thread tell each other.
 *
 * The caller's may stand still for long: in a loop of its own, or at a chunk that is missing. So the migration waits
 * for it only where it must, and never for ever.
 *
 * @module
 */
import type { MigrationEvent, MigrationProgress, MigrationTotals } from "../migration/events.ts";
import type { FinalizePolicy } from "../migration/leecher-options.ts";
import type { Mode, OfferedRegion } from "../migration/messages.ts";
import type { LinkChoice } from "../net/dial.ts";
import type { PathEvent } from "../net/paths/path-manager.ts";
import type { PathPolicy } from "../net/paths/path-policy.ts";
import type { Thrown } from "./thrown.ts";

export type HookName = "onSuspend" | "onRollback" | "onRelease" | "onResume";

export interface CommonSetup {
  readonly link: LinkChoice;
  readonly path: PathPolicy;
  /** `undefined`: nothing is written down, and nothing can go on after this process. */
  readonly stateDirectory: string | undefined;
  /** The command that goes on with the session in a later process. */
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly hooks: readonly HookName[];
  readonly hookTimeoutMs: number;
}

export interface SeedSetup extends CommonSetup {
  readonly role: "seeder";
  readonly relay: string | undefined;
  readonly key: string | undefined;
  readonly name: string;
  readonly ticketTtlMs: number;
  readonly regions: readonly {
    readonly name: string;
    /** For `shareRegion`. */
    readonly id: number;
    /** A file that others write: it is looked at for their writes. */
    readonly scanned: string | undefined;
    /** One `int32`: how many exports of it the caller's thread has. */
    readonly shownCount: Int32Array;
  }[];
}

export interface LeechSetup extends CommonSetup {
  readonly role: "leecher";
  readonly ticket: string;
  readonly mode: Mode;
  readonly finalize: FinalizePolicy;
  readonly downtimeBudgetMs: number;
  readonly dataStreams: number;
  /** Programs read the regions through us, so that the first read ends the downtime. */
  readonly exported: boolean;
}

export type Setup = SeedSetup | LeechSetup;

/** What is offered, for whoever makes room for it. */
export interface Room {
  readonly regions: readonly (OfferedRegion & {
    /** Where presence is kept; `undefined`: in memory alone. */
    readonly statePath: string | undefined;
  })[];
  readonly chunkBytes: number;
  readonly hashKey: Uint8Array;
}

/** Something that only the caller's thread can do. */
export type Ask =
  | { readonly what: "hook"; readonly hook: HookName }
  /** What exports and the kernel still hold of a region's writes comes to it. */
  | { readonly what: "flush" | "invalidate"; readonly region: string }
  /** The regions live elsewhere: their memory is not to be touched here any more. */
  | { readonly what: "letGo" }
  /** Answered with the regions' ids, in order. */
  | { readonly what: "prepare"; readonly room: Room }
  /** The gates are open: devices may appear, and the workload may run. */
  | { readonly what: "resume" };

export interface Ready {
  readonly sessionId: string;
  /** The leecher's, at a seeder. */
  readonly ticket: string | undefined;
}

export type LibraryEvent =
  | MigrationEvent
  | PathEvent
  | { readonly event: "connection"; readonly connected: boolean; readonly detail: string };

export type FromThread =
  | ({ readonly kind: "ready" } & Ready)
  | { readonly kind: "event"; readonly event: LibraryEvent }
  | { readonly kind: "progress"; readonly progress: MigrationProgress }
  | { readonly kind: "ask"; readonly id: number; readonly ask: Ask }
  /** Nobody waits for this answer any more. */
  | { readonly kind: "enough"; readonly id: number; readonly why: Thrown }
  /** An answer to `cancel`. */
  | { readonly kind: "cancelled"; readonly id: number; readonly agreed: boolean | Thrown }
  | { readonly kind: "over"; readonly outcome: Outcome };

export type Outcome =
  | { readonly ok: true; readonly totals: MigrationTotals; readonly dropped: number }
  | {
      readonly ok: false;
      readonly error: Thrown;
      readonly committed: boolean;
      readonly dropped: number;
    };

export type ToThread =
  | { readonly kind: "answer"; readonly id: number; readonly value: readonly number[] }
  | { readonly kind: "refusal"; readonly id: number; readonly error: Thrown }
  | { readonly kind: "cancel"; readonly id: number; readonly reason: string }
  | { readonly kind: "finalize" }
  /** The caller gives up after the commit. */
  | { readonly kind: "abandon"; readonly reason: string }
  /** So many events and progress messages have been seen. */
  | { readonly kind: "seen"; readonly events: number; readonly progress: number };
