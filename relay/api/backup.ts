/**
 * A copy of the embedded database while the relay runs, for operators.
 *
 * @module
 */
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";

import { addAudit } from "../db/audit.ts";
import type { Database } from "../db/database.ts";
import { RelayError } from "../errors.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import type { AppEnv } from "./env.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import { denied, problem, security } from "./route-parts.ts";

const getBackup = createRoute({
  method: "get",
  path: "/backup",
  operationId: "getBackup",
  summary: "Download a consistent copy of the embedded database",
  description:
    "A compressed tar of what belongs into the folder `database` of an empty data directory. The relay answers nobody " +
    "else while it is made.",
  security,
  middleware: [requireScope("operator")] as const,
  responses: {
    200: {
      description: "The copy.",
      content: { "application/gzip": { schema: z.string().openapi({ format: "binary" }) } },
    },
    ...denied,
    409: problem("The relay is on PostgreSQL, which has tools of its own for this."),
  },
});

export function backupRoutes({ database }: { readonly database: Database }): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  app.openapi(getBackup, async (c) => {
    const { backup } = database;
    if (backup === undefined) {
      throw new RelayError("STATE_CONFLICT", "this relay is on PostgreSQL: use pg_dump");
    }
    await database.run((orm) =>
      addAudit(orm, actorOf(c), { action: "relay.backup", targetKind: "relay", targetId: "" }),
    );
    const copy = await backup();
    return c.body(copy.stream(), 200, {
      "content-type": "application/gzip",
      "content-length": String(copy.size),
      "content-disposition": 'attachment; filename="memferry-database.tar.gz"',
    });
  });
  return app;
}
