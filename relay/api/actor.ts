/**
 * Who is behind a request, as the audit log names them.
 *
 * @module
 */
import type { Context } from "hono";

import type { Actor } from "../db/audit.ts";
import { remoteAddressOf, type AppEnv } from "./env.ts";

/**
 * For `addAudit`, in a handler behind `authenticate`.
 *
 * @param projectId Whose log it goes into: the API key's own project, unless an operator acts in another one.
 */
export function actorOf(c: Context<AppEnv>, projectId?: string): Actor {
  const principal = c.get("principal");
  const actor: Actor = {
    projectId: projectId ?? principal.projectId,
    actor: `key:${principal.prefix}`,
    remoteAddress: remoteAddressOf(c),
    requestId: c.get("requestId"),
  };
  c.set("actors", [...(c.get("actors") ?? []), actor]);
  return actor;
}
