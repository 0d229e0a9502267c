/**
 * Projects: made, listed, shown, changed, deleted.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";

import type { Database } from "../db/database.ts";
import { openProjects, type ProjectRow } from "../db/projects.ts";
import { RelayError } from "../errors.ts";
import type { RelayLimits } from "../limits.ts";
import { actorOf } from "./actor.ts";
import { allows, mustHaveScope, requireScope } from "./auth.ts";
import { etagOf, requireMatch, versionConflict as changedSince } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import { pageOf, pageQuerySchema, textCursor, textPositionOf } from "./pages.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import {
  denied,
  idParameter,
  ifMatchHeader,
  json,
  notFound,
  problem,
  refusedBody,
  refusedQuery,
  security,
  versionConflict,
} from "./route-parts.ts";
import { hexIdSchema } from "./schemas/common.ts";
import {
  changeProjectSchema,
  createProjectSchema,
  projectPageSchema,
  projectSchema,
  type ProjectBody,
} from "./schemas/identity.ts";

const nameTaken = { 409: problem("Another project has this name.") };

const createProject = createRoute({
  method: "post",
  path: "/projects",
  operationId: "createProject",
  summary: "Make a project",
  description: "For an operator. `POST /v1/keys` with its id makes its first key.",
  security,
  middleware: [requireScope("operator")] as const,
  request: {
    body: { required: true, content: { "application/json": { schema: createProjectSchema } } },
  },
  responses: { 201: json("Made.", projectSchema), ...refusedBody, ...denied, ...nameTaken },
});

const listProjects = createRoute({
  method: "get",
  path: "/projects",
  operationId: "listProjects",
  summary: "List projects by name",
  description: "For an operator.",
  security,
  middleware: [requireScope("operator")] as const,
  request: { query: pageQuerySchema },
  responses: { 200: json("A page.", projectPageSchema), ...refusedQuery, ...denied },
});

const getProject = createRoute({
  method: "get",
  path: "/projects/{id}",
  operationId: "getProject",
  summary: "Show a project",
  description: "One's own with the scope `admin`, any with `operator`.",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter },
  responses: { 200: json("The project.", projectSchema), ...denied, ...notFound },
});

const changeProject = createRoute({
  method: "patch",
  path: "/projects/{id}",
  operationId: "changeProject",
  summary: "Change a project's name or limits",
  description: "For an operator.",
  security,
  middleware: [requireScope("admin")] as const,
  request: {
    params: idParameter,
    headers: ifMatchHeader,
    body: { required: true, content: { "application/json": { schema: changeProjectSchema } } },
  },
  responses: {
    200: json("As it is now.", projectSchema),
    ...refusedBody,
    ...denied,
    ...notFound,
    ...nameTaken,
    ...versionConflict,
  },
});

const deleteProject = createRoute({
  method: "delete",
  path: "/projects/{id}",
  operationId: "deleteProject",
  summary: "Delete a project with its keys, peers, sessions and their history",
  description: "For an operator, and not with a key of that project itself.",
  security,
  middleware: [requireScope("admin")] as const,
  request: { params: idParameter, headers: ifMatchHeader },
  responses: {
    204: { description: "Deleted." },
    409: problem("Some of its sessions have not ended, or the key that asks is its own."),
    ...denied,
    ...notFound,
    ...versionConflict,
  },
});

export interface ProjectRoutesOptions {
  readonly database: Database;
  readonly limits: RelayLimits;
}

export function projectRoutes({ database, limits }: ProjectRoutesOptions): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const projects = openProjects(database, limits);

  /** To whoever may not see it, another's project is none. */
  async function find(c: Context<AppEnv>): Promise<ProjectRow> {
    const { projectId, scopes } = c.get("principal");
    const parsed = hexIdSchema.safeParse(c.req.param("id"));
    const visible = parsed.success && (parsed.data === projectId || allows(scopes, "operator"));
    const row = visible ? await projects.get(parsed.data) : undefined;
    if (row === undefined) throw noSuchProject();
    return row;
  }

  app.openapi(createProject, async (c) => {
    const { name, limits: own = {} } = c.req.valid("json");
    const row = await projects.create({ name, limits: own }, actorOf(c));
    c.header("location", `/v1/projects/${row.id}`);
    c.header("etag", etagOf(row.version));
    return c.json(projectBody(row), 201);
  });

  app.openapi(listProjects, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const afterName = cursor === undefined ? undefined : textPositionOf(cursor);
    const rows = await projects.list({ afterName, limit: limit + 1 });
    const { page, nextCursor } = pageOf(rows, limit, ({ name }) => textCursor(name));
    return c.json({ projects: page.map(projectBody), nextCursor }, 200);
  });

  app.openapi(getProject, async (c) => {
    const row = await find(c);
    c.header("etag", etagOf(row.version));
    return c.json(projectBody(row), 200);
  });

  app.openapi(changeProject, async (c) => {
    const before = await find(c);
    mustHaveScope(c, "operator");
    requireMatch(c, before.version);
    const change = c.req.valid("json");
    const row = await projects.change(before.id, before.version, change, actorOf(c, before.id));
    if (row === undefined) {
      const current = await projects.get(before.id);
      if (current === undefined) throw noSuchProject();
      throw changedSince(current.version);
    }
    c.header("etag", etagOf(row.version));
    return c.json(projectBody(row), 200);
  });

  app.openapi(deleteProject, async (c) => {
    const row = await find(c);
    mustHaveScope(c, "operator");
    requireMatch(c, row.version);
    if (row.id === c.get("principal").projectId) {
      throw new RelayError(
        "PROJECT_IN_USE",
        "the API key that asks is of this project: use an operator's of another one",
      );
    }
    await projects.remove(row.id, actorOf(c));
    return c.body(null, 204);
  });

  return app;
}

function noSuchProject(): RelayError {
  return new RelayError("NOT_FOUND", "there is no such project");
}

function projectBody(row: ProjectRow): ProjectBody {
  const { id, name, limits, version, createdAt, updatedAt } = row;
  return {
    id,
    name,
    limits,
    version,
    createdAt: createdAt.toISOString(),
    updatedAt: updatedAt.toISOString(),
  };
}
