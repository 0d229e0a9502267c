/**
 * Bounds and how much of them is used; and what the project moved.
 *
 * @module
 */
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";

import type { Database } from "../db/database.ts";
import { projectBounds, projectUse, usageByDay } from "../db/project-limits.ts";
import { RelayError } from "../errors.ts";
import { LIMIT_NAMES, RELAY_LIMITS, type LimitName, type RelayLimits } from "../limits.ts";
import type { NodeBounds } from "../node-bounds.ts";
import type { Admission } from "../transport/admission.ts";
import { requireScope } from "./auth.ts";
import { remoteAddressOf, type AppEnv } from "./env.ts";
import { problemSchema } from "./schemas.ts";
import type { StreamCount } from "./stream-count.ts";

export interface LimitRoutesOptions {
  readonly database: Database;
  readonly limits: RelayLimits;
  readonly streams: StreamCount;
  readonly node?: NodeBounds | undefined;
  readonly admission?: Admission | undefined;
  readonly switchboard: { readonly liveSessionCount: number };
}

const USAGE_DAYS_MAX = 366;
const DAY_MS = 24 * 60 * 60 * 1_000;

const limitSchema = z
  .object({
    name: z.string().openapi({ description: "As in `limitName` of an error." }),
    scope: z.enum(["prefix", "key", "project", "session", "node"]),
    unit: z.string(),
    bound: z.number().nullable().openapi({ description: "Null: there is none." }),
    used: z.number().nullable().openapi({
      description: "Null where nothing is counted, or where it is for the operator alone to see.",
    }),
  })
  .openapi("Limit");

export const limitsSchema = z.object({ limits: z.array(limitSchema) }).openapi("Limits");

const dayPattern = z.iso.date();
const usageQuerySchema = z.object({
  from: dayPattern.optional().openapi({ description: "In UTC; 30 days ago unless said." }),
  to: dayPattern.optional().openapi({ description: "In UTC, included; today unless said." }),
});

export const usageSchema = z
  .object({
    from: dayPattern,
    to: dayPattern,
    days: z.array(
      z.object({
        day: dayPattern,
        path: z.string(),
        bytes: z.number(),
        sessionSeconds: z.number(),
      }),
    ),
  })
  .openapi("Usage");

const problem = (description: string) => ({
  description,
  content: { "application/problem+json": { schema: problemSchema } },
});
const denied = {
  401: problem("No API key, or one that is not good."),
  403: problem("The API key lacks the scope."),
  429: problem("A limit was met; `limitName` says which and `Retry-After` when to ask again."),
  503: problem("The database does not answer, or the relay is going down."),
};
const security = [{ apiKey: [] }];

const listLimits = createRoute({
  method: "get",
  path: "/limits",
  operationId: "listLimits",
  summary: "List every bound and how much of it is used",
  security,
  middleware: [requireScope("sessions:read")] as const,
  responses: {
    200: { description: "Bounds.", content: { "application/json": { schema: limitsSchema } } },
    ...denied,
  },
});

const getUsage = createRoute({
  method: "get",
  path: "/usage",
  operationId: "getUsage",
  summary: "Show what the project moved through the relay, by day and kind of link",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { query: usageQuerySchema },
  responses: {
    200: { description: "Usage.", content: { "application/json": { schema: usageSchema } } },
    422: problem("A field is not what it should be; `issues` says which."),
    ...denied,
  },
});

export function limitRoutes(options: LimitRoutesOptions): OpenAPIHono<AppEnv> {
  const { database, limits, streams, node, admission } = options;
  const app = new OpenAPIHono<AppEnv>({
    defaultHook: (result) => {
      if (result.success) return;
      const issues = result.error.issues.map(({ path, message }) => ({
        path: path.join("."),
        message,
      }));
      throw new RelayError("REQUEST_INVALID", "the query is not what it should be", {
        details: { issues },
      });
    },
  });

  app.openapi(listLimits, async (c) => {
    const { projectId, keyId } = c.get("principal");
    const { own, use } = await projectUse(database, projectId);
    const bounds: Readonly<Record<string, number>> = { ...limits, ...projectBounds(own, limits) };
    const mine = admission?.usedBy(remoteAddressOf(c));
    const used: Partial<Record<LimitName, number | undefined>> = {
      ...use,
      connectionsPerPrefix: mine?.connections,
      handshakesPerPrefix: mine?.handshakes,
      eventStreamsPerKey: streams.ofKey(keyId),
      ...(isOperator(c) ? ofNode() : {}),
    };
    const memory = node?.memoryBytesMax ?? limits.memoryBytes;
    return c.json(
      {
        limits: LIMIT_NAMES.map((name) => {
          const { scope, unit } = RELAY_LIMITS[name];
          const bound = name === "memoryBytes" ? memory : (bounds[name] ?? 0);
          return { name, scope, unit, bound: bound > 0 ? bound : null, used: used[name] ?? null };
        }),
      },
      200,
    );
  });

  app.openapi(getUsage, async (c) => {
    const query = c.req.valid("query");
    const today = new Date();
    const to = query.to ?? isoDay(today);
    const from = query.from ?? isoDay(new Date(Date.parse(to) - 30 * DAY_MS));
    const days = (Date.parse(to) - Date.parse(from)) / DAY_MS;
    if (!(days >= 0 && days <= USAGE_DAYS_MAX)) {
      const message = `must be at most ${USAGE_DAYS_MAX} days before \`to\`, and not after it`;
      throw new RelayError("REQUEST_INVALID", `from: ${message}`, {
        details: { issues: [{ path: "from", message }] },
      });
    }
    const used = await usageByDay(database, c.get("principal").projectId, { from, to });
    return c.json({ from, to, days: [...used] }, 200);
  });

  function ofNode(): Partial<Record<LimitName, number | undefined>> {
    return {
      connections: admission?.connections,
      handshakes: admission?.handshakes,
      liveSessions: options.switchboard.liveSessionCount,
      openFilesPercent: node?.openFilesPercent,
      memoryBytes: node?.resources.memoryBytes,
      eventStreams: streams.total,
    };
  }

  return app;
}

/** Figures of the whole relay tell about other projects. */
function isOperator(c: Context<AppEnv>): boolean {
  return c.get("principal").scopes.includes("operator");
}

function isoDay(date: Date): string {
  return date.toISOString().slice(0, 10);
}
