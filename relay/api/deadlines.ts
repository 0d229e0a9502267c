/**
 * Does what `policy.onDeadline` says once `limits.deadlineMs` has passed since the copying began.
 *
 * @module
 */
import type { Actor } from "../db/audit.ts";
import type { Database } from "../db/database.ts";
import { fromHex } from "../db/hex.ts";
import type { DatabaseSessionStore } from "../db/session-store.ts";
import { endDeadline, sessionsPastDeadline, type SessionRow } from "../db/sessions.ts";
import { RelayError } from "../errors.ts";
import { messageOf } from "../protocol/errors.ts";
import { isEnded } from "../protocol/ids.ts";
import type { Log } from "../log.ts";
import { TICKET_LIFETIME_MS } from "../db/limits.ts";
import type { SessionService } from "./session-service.ts";

const PER_ROUND = 100;

export interface DeadlinesOptions {
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly service: SessionService;
  readonly log: Log;
}

/** One look. A session that does not allow now what it should is looked at again later. */
export async function meetDeadlines(options: DeadlinesOptions): Promise<void> {
  const { database, log } = options;
  for (const { id, projectId } of await sessionsPastDeadline(database, PER_ROUND)) {
    try {
      const row = await options.service.find(projectId, id);
      if (await meet(row, options)) await endDeadline(database, id);
    } catch (error) {
      log("warn", "a session's deadline was not met", {
        sessionId: id,
        reason: messageOf(error),
      });
    }
  }
}

/** @returns Whether there is nothing more to do about it. */
async function meet(row: SessionRow, { store, service }: DeadlinesOptions): Promise<boolean> {
  const action = row.policy.onDeadline;
  if (isEnded(row.state) || row.owner === "leecher") return true;
  if (action === undefined) {
    await store.addEvent(fromHex(row.id), "deadlinePassed", { action: "none" });
    return true;
  }
  try {
    await service.act(row, action, {
      reason: "the session's deadline has passed",
      by: relayItself(row.projectId),
      ticketLifetimeMs: TICKET_LIFETIME_MS,
    });
    await store.addEvent(fromHex(row.id), "deadlinePassed", { action });
    return true;
  } catch (error) {
    // A peer is away, or it is paused.
    if (error instanceof RelayError && error.code === "STATE_CONFLICT") return false;
    throw error;
  }
}

function relayItself(projectId: string): Actor {
  return { projectId, actor: "relay", remoteAddress: "", requestId: "" };
}
