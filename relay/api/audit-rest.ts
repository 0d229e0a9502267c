/**
 * Changes that their own code has not written into the audit log.
 *
 * What matters writes its row in the transaction of the change, with before and after (`addAudit`). This is the net
 * below: a request that changed something and left no row gets one that says what was asked for, by whom and of what,
 * so that no route can be forgotten.
 *
 * @module
 */
import { createMiddleware } from "hono/factory";

import { addAudit, isAudited } from "../db/audit.ts";
import type { Database } from "../db/database.ts";
import type { Log } from "../log.ts";
import { messageOf } from "../protocol/errors.ts";
import { actorOf } from "./actor.ts";
import type { AppEnv } from "./env.ts";

const VERBS: Readonly<Record<string, string>> = {
  POST: "create",
  PUT: "replace",
  PATCH: "update",
  DELETE: "delete",
};

export interface AuditRestOptions {
  readonly database: Database;
  readonly log: Log;
}

/** Behind `authenticate` and `idempotency`: an answer that is given again changes nothing. */
export function auditRest({ database, log }: AuditRestOptions) {
  return createMiddleware<AppEnv>(async (c, next) => {
    await next();
    const verb = VERBS[c.req.method];
    const { status } = c.res;
    if (verb === undefined || status < 200 || status >= 300 || c.get("unchanged") === true) return;
    if ((c.get("actors") ?? []).some(isAudited)) return;
    const made = c.res.headers.get("location");
    const target = targetOf(verb === "create" && made !== null ? made : c.req.path);
    try {
      await database.run((orm) =>
        addAudit(orm, actorOf(c), {
          action: `${target.kind}.${target.action ?? verb}`,
          targetKind: target.kind,
          targetId: target.id,
        }),
      );
    } catch (error) {
      // It is done, and the caller is to hear of it; the log keeps what the table could not.
      log("error", "a change is not in the audit log", {
        requestId: c.get("requestId"),
        method: c.req.method,
        path: c.req.path,
        reason: messageOf(error),
      });
    }
  });
}

/** @param path Such as `/v1/sessions/6f1c…:finalize`. */
function targetOf(path: string): { kind: string; id: string; action: string | undefined } {
  const [, , plural = "", last = "", ...deeper] = path.split("/");
  const kind = plural
    .replace(/s$/, "")
    .replaceAll(/-(\w)/g, (_all, letter: string) => letter.toUpperCase());
  const [id = "", action] = last.split(":");
  return { kind, id, action: action ?? (deeper.length > 0 ? deeper.join(".") : undefined) };
}
