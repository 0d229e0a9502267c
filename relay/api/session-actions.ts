/**
 * What may be done to a session: one route for each of its actions, each answered at once with the session as it is.
 *
 * @module
 */
import { OpenAPIHono, z } from "@hono/zod-openapi";

import { toBase64Url } from "../protocol/bytes.ts";
import { ROLES } from "../protocol/ids.ts";
import { TICKET_LIFETIME_MS } from "../db/limits.ts";
import type { NewTicket } from "../db/sessions.ts";
import { RelayError } from "../errors.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import { etagOf } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import {
  denied,
  idParameter,
  notFound,
  problem,
  refusedBody,
  security,
  versionConflict,
} from "./route-parts.ts";
import {
  actionBodySchema,
  checksSchema,
  relaySchema,
  sessionSchema,
  ticketSchema,
} from "./schemas.ts";
import { requestBody } from "./request-body.ts";
import type { SessionService } from "./session-service.ts";
import { SESSION_ACTIONS, type SessionAction } from "./session-state.ts";
import type { RelayAddress } from "./sessions.ts";

export interface SessionActionRoutesOptions {
  readonly service: SessionService;
  readonly address: () => RelayAddress;
}

const SUMMARIES: Readonly<Record<SessionAction, string>> = {
  start: "End the wait of `policy.startPaused`",
  finalize: "Switch over now: suspend the workload, send the rest, resume at the destination",
  postcopy: "Switch over now without what is missing, and fetch it afterwards",
  pause:
    "Send nothing but what a workload waits for; writes are tracked on, and nothing is handed over",
  resume: "Go on after `:pause`",
  cancel: "Stop the migration; the workload stays where it runs. Refused once it has moved",
  recover: "After a post-copy that broke or failed: let the two begin afresh with each other",
  rotateTickets: "Make new tickets in place of those that nobody has used yet",
  check: "Look whether it can be expected to go well, and keep what was found",
};

export const rotatedSchema = z
  .object({
    session: sessionSchema,
    tickets: z.object({ seeder: ticketSchema.optional(), leecher: ticketSchema.optional() }),
    relay: relaySchema,
  })
  .openapi("RotatedTickets");

const ANSWERS: Partial<Record<SessionAction, z.ZodType>> = {
  rotateTickets: rotatedSchema,
  check: checksSchema,
};

export function sessionActionRoutes(options: SessionActionRoutesOptions): OpenAPIHono<AppEnv> {
  const { service, address } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });

  // The document's `{id}:finalize` is one part of a path, which the router cannot take apart: one route
  // takes all, and each is described by hand.
  for (const action of SESSION_ACTIONS) {
    app.openAPIRegistry.registerPath({
      method: "post",
      path: `/sessions/{id}:${action}`,
      operationId: `${action}Session`,
      summary: SUMMARIES[action],
      security,
      request: {
        params: idParameter,
        body: { content: { "application/json": { schema: actionBodySchema } } },
      },
      responses: {
        202: {
          description: "Passed on; the session as it is now, or what came of it.",
          content: { "application/json": { schema: ANSWERS[action] ?? sessionSchema } },
        },
        ...refusedBody,
        409: problem("The session's state does not allow it: see `allowedActions`."),
        ...versionConflict,
        ...denied,
        ...notFound,
      },
    });
  }

  app.post("/sessions/:target{[^/:]+:[^/:]+}", requireScope("sessions:control"), async (c) => {
    const [id = "", name = ""] = c.req.param("target").split(":");
    const found = await service.find(c.get("principal").projectId, id);
    const action = SESSION_ACTIONS.find((one) => one === name);
    if (action === undefined) {
      throw new RelayError(
        "NOT_FOUND",
        `there is no such action: ${SESSION_ACTIONS.join(", ")} are`,
      );
    }
    const { reason = "", expectedVersion } = await requestBody(c, actionBodySchema);
    const { row, tickets } = await service.act(found, action, {
      reason,
      expectedVersion,
      by: actorOf(c),
      ticketLifetimeMs: TICKET_LIFETIME_MS,
    });
    c.header("etag", etagOf(row.version));
    if (action === "check") {
      const checkedAt = row.checkedAt?.toISOString() ?? null;
      return c.json({ checks: row.checks ?? [], checkedAt }, 202);
    }
    if (tickets === undefined) return c.json(service.body(row), 202);
    const { url, certificateHashes, identity } = address();
    return c.json(
      {
        session: service.body(row),
        tickets: Object.fromEntries(
          ROLES.flatMap((role) => {
            const made = tickets[role];
            return made === undefined ? [] : [[role, ticketBody(made)]];
          }),
        ),
        relay: { url, certificateHashes: [...certificateHashes], identity },
      },
      202,
    );
  });

  return app;
}

export function ticketBody({ token, expiresAt }: NewTicket): z.infer<typeof ticketSchema> {
  return { token: toBase64Url(token), expiresAt: expiresAt.toISOString() };
}
