/**
 * What both roles of the soak have in common: the way to the relay, and how an attempt ends.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";

import { type FuseMount, loadNative } from "../../native/index.ts";
import { SessionDirectory } from "../../peer/journal/session-directory.ts";
import type { MigrationEvent } from "../../peer/migration/events.ts";
import { dialLink } from "../../peer/net/dial.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { RelayControl, type RelayControlOptions } from "../../peer/net/relay-control.ts";
import { relayOf } from "../../peer/net/relay-pins.ts";
import { sleep } from "../../peer/sleep.ts";
import { decodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";

export interface Task {
  readonly ticket: string;
  readonly link: "websocket" | "webtransport";
  /** The region's file. */
  readonly file: string;
  readonly bytes: number;
  readonly stateDirectory: string;
  /** Where it is shown to programs, if it is. */
  readonly exportDirectory: string | undefined;
  readonly mode: "hybrid" | "precopy" | "postcopy";
  readonly seed: number;
}

export interface Outcome {
  readonly done: boolean;
  readonly committed: boolean;
  /** Of the region as this side may say that it is; empty if it does not own it. */
  readonly digest: string;
  /** What it must be: of the writer's own notes. Only the seeder has them. */
  readonly expected: string;
  readonly error: string;
  readonly writes: number;
  readonly downtimeMs: number;
  readonly refetchedChunks: number;
  /** Told if something is wrong. */
  readonly events: readonly string[];
}

export const CHUNK_BYTES = 64 * 1024;
const JOIN_RETRY_MS = 200;
const EVENTS_MAX = 60;
/** No later attempt to join can cure these. */
const FATAL = new Set(["SESSION_ENDED", "TICKET_EXPIRED", "TICKET_USED", "TICKET_UNKNOWN"]);

export abstract class Attempt {
  protected readonly task: Task;
  protected readonly ticket: Ticket;
  protected readonly events: string[] = [];
  readonly #identity = PeerIdentity.generate();
  readonly #onPhase: (phase: string) => void;

  constructor(task: Task, onPhase: (phase: string) => void) {
    this.task = task;
    this.ticket = decodeTicket(task.ticket);
    this.#onPhase = onPhase;
  }

  abstract run(): Promise<Outcome>;
  abstract cancel(): Promise<void>;

  protected onEvent = (event: MigrationEvent): void => {
    const { event: name, ...rest } = event;
    this.events.push(`${Math.round(performance.now())} ${name} ${JSON.stringify(rest)}`);
    if (this.events.length > EVENTS_MAX) this.events.shift();
    if (event.event === "phase") this.#onPhase(event.phase);
  };

  /** Joins, however often the relay is away meanwhile. */
  protected async join(
    more: Pick<RelayControlOptions, "onOwnership" | "onCommand">,
  ): Promise<RelayControl> {
    for (;;) {
      try {
        return await RelayControl.join({
          ticket: this.ticket,
          identity: this.#identity,
          dial: (signal) => dialLink(this.task.link, { ...relayOf(this.ticket), signal }),
          onConnection: (connected, detail) => {
            this.events.push(`${Math.round(performance.now())} link ${connected} ${detail}`);
          },
          ...more,
        });
      } catch (error) {
        this.events.push(`${Math.round(performance.now())} join: ${String(error)}`);
        if (error instanceof Error && "code" in error && FATAL.has(String(error.code))) throw error;
        await sleep(JOIN_RETRY_MS);
      }
    }
  }

  protected async directory(hashKey?: Uint8Array): Promise<SessionDirectory> {
    return await SessionDirectory.create(this.task.stateDirectory, {
      ticket: this.ticket,
      identity: this.#identity,
      ...(hashKey === undefined ? {} : { hashKey }),
      argv: [],
      cwd: "/",
      createdAtMs: Date.now(),
    });
  }

  protected mount(): FuseMount | undefined {
    const { exportDirectory: directory } = this.task;
    return directory === undefined ? undefined : loadNative().mountFuse({ directory });
  }
}

/** Hexadecimal SHA-256. */
export async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  // A stream without an encoding yields buffers.
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(piece as Buffer);
  }
  return hash.digest("hex");
}

export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return `${"code" in error ? `${String(error.code)}: ` : ""}${error.message}`;
}
