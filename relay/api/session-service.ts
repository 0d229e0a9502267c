/**
 * Sessions as the API's routes, migrations and the relay's own clock deal with them: found, shown, acted on.
 *
 * @module
 */
import type { Actor } from "../db/audit.ts";
import type { Database } from "../db/database.ts";
import { fromHex } from "../db/hex.ts";
import type { DatabaseSessionStore } from "../db/session-store.ts";
import {
  projectSessions,
  type NewTicket,
  type ProjectSessions,
  type SessionRow,
} from "../db/sessions.ts";
import { RelayError } from "../errors.ts";
import type { Command } from "../protocol/frame.ts";
import type { Role } from "../protocol/ids.ts";
import type { LiveSession, Switchboard } from "../switchboard/switchboard.ts";
import type { Changes } from "./changes.ts";
import { versionConflict } from "./conditional.ts";
import type { SessionBody } from "./schemas.ts";
import { factsOf, sessionBody, stateOf, type RelayPlace } from "./session-body.ts";
import { checksOf } from "./session-checks.ts";
import { allowedActions, type SessionAction } from "./session-state.ts";
import { hexIdSchema } from "./schemas/common.ts";

/** What the API asks of the switchboard. */
export type LiveSessions = Pick<
  Switchboard,
  | "announce"
  | "command"
  | "live"
  | "livePaths"
  | "liveSessionCount"
  | "onChange"
  | "queuedBytes"
  | "renewPairing"
  | "setBytesPerS"
  | "setTerms"
>;

export interface SessionServiceOptions {
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly switchboard: LiveSessions;
  readonly changes: Changes;
  /** Asked each time. */
  readonly place: () => RelayPlace;
}

export interface ActionRequest {
  readonly reason: string;
  readonly expectedVersion?: number | undefined;
  readonly by: Actor;
  /** For new tickets. */
  readonly ticketLifetimeMs: number;
}

export interface ActionResult {
  readonly row: SessionRow;
  readonly tickets?: Readonly<Partial<Record<Role, NewTicket>>>;
}

export class SessionService {
  readonly #options: SessionServiceOptions;

  constructor(options: SessionServiceOptions) {
    this.#options = options;
  }

  of(projectId: string): ProjectSessions {
    return projectSessions(this.#options.database, projectId);
  }

  live(id: string): LiveSession | undefined {
    return this.#options.switchboard.live(fromHex(id));
  }

  body(row: SessionRow): SessionBody {
    return sessionBody(row, this.live(row.id), this.#options.place());
  }

  /** @throws RelayError `NOT_FOUND`, also for what is no id */
  async find(projectId: string, id: string): Promise<SessionRow> {
    const row = hexIdSchema.safeParse(id).success ? await this.of(projectId).get(id) : undefined;
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such session");
    return row;
  }

  /** What may be done to it now. */
  allowed(row: SessionRow): SessionAction[] {
    return allowedActions(factsOf(row, this.live(row.id)));
  }

  /** @throws RelayError `STATE_CONFLICT`, `VERSION_CONFLICT`, `NOT_FOUND` */
  async act(row: SessionRow, action: SessionAction, request: ActionRequest): Promise<ActionResult> {
    const { expectedVersion } = request;
    if (expectedVersion !== undefined && expectedVersion !== row.version) {
      throw versionConflict(row.version);
    }
    // A cancel that is repeated is answered as it was.
    if (action !== "cancel" && !this.allowed(row).includes(action)) {
      throw this.conflict(row, `a session that is ${this.#state(row)} does not allow ${action}`);
    }
    const tickets = await this.#do(row, action, request);
    this.#options.changes.publish(row.id);
    const now = await this.find(row.projectId, row.id);
    return { row: now, ...(tickets === undefined ? {} : { tickets }) };
  }

  async #do(
    row: SessionRow,
    action: SessionAction,
    { reason, ticketLifetimeMs }: ActionRequest,
  ): Promise<ActionResult["tickets"]> {
    const { store, switchboard } = this.#options;
    const sessionId = fromHex(row.id);
    const sessions = this.of(row.projectId);
    switch (action) {
      case "finalize":
      case "postcopy":
        this.#requireCommands(row, action, "leecher");
        if (!switchboard.command(sessionId, action, reason)) {
          throw this.conflict(row, "the leecher is not connected: it is the one that hands over");
        }
        await store.addEvent(sessionId, `${action}Requested`, byApi(reason));
        return;
      case "start":
      case "resume": {
        const from = action === "start" ? "start" : "pause";
        await this.#hold(row, { from, to: "", reason }, "resume");
        return;
      }
      case "pause":
        this.#requireCommands(row, action, "seeder");
        await this.#hold(row, { from: "", to: "pause", reason }, "pause");
        return;
      case "cancel":
        return await this.#cancel(row, reason);
      case "recover":
        if (row.state === "failed") {
          if (!(await sessions.reopen(row.id, reason)))
            throw this.conflict(row, "it is not failed");
        } else {
          await store.addEvent(sessionId, "recoverRequested", byApi(reason));
        }
        // Peers that are not here come back by themselves.
        switchboard.renewPairing(sessionId);
        return;
      case "rotateTickets":
        return await sessions.rotateTickets(row.id, ticketLifetimeMs);
      case "check":
        await sessions.setChecks(row.id, checksOf(row, this.live(row.id)));
        return;
    }
  }

  async #hold(
    row: SessionRow,
    change: Parameters<ProjectSessions["setHold"]>[1],
    command: Command,
  ): Promise<void> {
    if (!(await this.of(row.projectId).setHold(row.id, change))) {
      throw this.conflict(row, "somebody else was faster");
    }
    // Who is not connected is told when it comes.
    this.#options.switchboard.command(fromHex(row.id), command, change.reason);
  }

  async #cancel(row: SessionRow, reason: string): Promise<undefined> {
    const { store, switchboard } = this.#options;
    const sessionId = fromHex(row.id);
    // The database decides, since a commit may be on its way at this moment.
    const change = { by: "api", state: "cancelled", reason } as const;
    if (!(await store.setState(sessionId, change))) {
      const current = (await this.of(row.projectId).get(row.id)) ?? row;
      throw this.conflict(
        current,
        current.owner === "leecher"
          ? "the workload has moved already: it runs at the destination"
          : `the session is over: ${current.state}`,
      );
    }
    switchboard.command(sessionId, "cancel", reason);
    await switchboard.announce(sessionId, reason);
    return undefined;
  }

  /** An older peer does not know the newer commands, and would take them for damage. */
  #requireCommands(row: SessionRow, action: SessionAction, role: Role): void {
    const peer = this.live(row.id)?.[role];
    if (action === "finalize" || peer === undefined || peer.takesCommands !== false) return;
    throw this.conflict(row, `the ${role} runs a version that does not know ${action}: update it`);
  }

  #state(row: SessionRow): string {
    return stateOf(row, this.live(row.id));
  }

  conflict(row: SessionRow, detail: string): RelayError {
    return new RelayError("STATE_CONFLICT", detail, {
      details: { currentState: this.#state(row), allowedActions: this.allowed(row) },
    });
  }
}

function byApi(reason: string): Readonly<Record<string, string>> {
  return { by: "api", ...(reason === "" ? {} : { reason }) };
}
