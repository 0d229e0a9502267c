/**
 * Enrollments, peers and what they offer.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";

import type { LiveAgents } from "../agents/hub.ts";
import { NAT_CLASSES } from "../agents/messages.ts";
import type { Database } from "../db/database.ts";
import { projectEnrollments, type EnrollmentRow } from "../db/enrollments.ts";
import { fromHex } from "../db/hex.ts";
import {
  projectPeers,
  type OfferedRegionRow,
  type PeerRow,
  type ProjectPeers,
} from "../db/peers.ts";
import { RelayError } from "../errors.ts";
import { encodeEnrollmentCode, isAgentName } from "../protocol/agent.ts";
import { actorOf } from "./actor.ts";
import { requireScope } from "./auth.ts";
import { etagOf, requireMatch } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import {
  pageOf,
  pageQuerySchema,
  positionCursor,
  positionOf,
  textCursor,
  textPositionOf,
} from "./pages.ts";
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
import {
  createdEnrollmentSchema,
  createEnrollmentSchema,
  enrollmentPageSchema,
  enrollmentSchema,
  patchPeerSchema,
  peerIdParameter,
  peerIdSchema,
  peerPageSchema,
  peerSchema,
  probedSchema,
  regionPageSchema,
  regionsQuerySchema,
  type PeerBody,
} from "./schemas/agents.ts";
import { hexIdSchema } from "./schemas/common.ts";
import type { RelayAddress } from "./sessions.ts";

export interface PeerRoutesOptions {
  readonly database: Database;
  readonly agents: LiveAgents;
  readonly address: () => RelayAddress;
}

const createEnrollment = createRoute({
  method: "post",
  path: "/enrollments",
  operationId: "createEnrollment",
  summary: "Make a one-use code with which a host becomes a peer",
  security,
  middleware: [requireScope("peers:write")] as const,
  request: {
    body: { required: true, content: { "application/json": { schema: createEnrollmentSchema } } },
  },
  responses: {
    201: json("Made. The code is in this answer and nowhere else.", createdEnrollmentSchema),
    ...refusedBody,
    ...denied,
  },
});

const listEnrollments = createRoute({
  method: "get",
  path: "/enrollments",
  operationId: "listEnrollments",
  summary: "List enrollments, the newest first",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { query: pageQuerySchema },
  responses: { 200: json("A page.", enrollmentPageSchema), ...refusedQuery, ...denied },
});

const getEnrollment = createRoute({
  method: "get",
  path: "/enrollments/{id}",
  operationId: "getEnrollment",
  summary: "Show an enrollment, but not its code",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { params: idParameter },
  responses: { 200: json("The enrollment.", enrollmentSchema), ...denied, ...notFound },
});

const deleteEnrollment = createRoute({
  method: "delete",
  path: "/enrollments/{id}",
  operationId: "deleteEnrollment",
  summary: "Delete an enrollment: its code is good for nothing any more",
  security,
  middleware: [requireScope("peers:write")] as const,
  request: { params: idParameter },
  responses: { 204: { description: "It is gone." }, ...denied, ...notFound },
});

const listPeers = createRoute({
  method: "get",
  path: "/peers",
  operationId: "listPeers",
  summary: "List enrolled hosts, the newest first",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { query: pageQuerySchema },
  responses: { 200: json("A page.", peerPageSchema), ...refusedQuery, ...denied },
});

const getPeer = createRoute({
  method: "get",
  path: "/peers/{id}",
  operationId: "getPeer",
  summary: "Show a peer",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { params: peerIdParameter },
  responses: { 200: json("The peer.", peerSchema), ...denied, ...notFound },
});

const patchPeer = createRoute({
  method: "patch",
  path: "/peers/{id}",
  operationId: "patchPeer",
  summary: "Change a peer's name, labels or zone",
  security,
  middleware: [requireScope("peers:write")] as const,
  request: {
    params: peerIdParameter,
    headers: ifMatchHeader,
    body: { required: true, content: { "application/json": { schema: patchPeerSchema } } },
  },
  responses: {
    200: json("As it is now.", peerSchema),
    ...refusedBody,
    ...denied,
    ...notFound,
    ...versionConflict,
    409: problem("Another peer of the project has this name."),
  },
});

const deletePeer = createRoute({
  method: "delete",
  path: "/peers/{id}",
  operationId: "deletePeer",
  summary: "Revoke a peer: its connection ends at once, and its orders are gone",
  security,
  middleware: [requireScope("peers:write")] as const,
  request: { params: peerIdParameter, headers: ifMatchHeader },
  responses: { 204: { description: "Revoked." }, ...denied, ...notFound, ...versionConflict },
});

const probePeer = createRoute({
  method: "post",
  path: "/peers/{id}:probe",
  operationId: "probePeer",
  summary: "Ask a peer to look at itself again",
  security,
  middleware: [requireScope("peers:write")] as const,
  request: { params: peerIdParameter },
  responses: {
    202: json("Its report comes soon.", probedSchema),
    ...denied,
    ...notFound,
    ...refusedBody,
  },
});

const listRegions = createRoute({
  method: "get",
  path: "/regions",
  operationId: "listRegions",
  summary: "List what peers offer, by peer and name",
  security,
  middleware: [requireScope("peers:read")] as const,
  request: { query: regionsQuerySchema },
  responses: { 200: json("A page.", regionPageSchema), ...refusedQuery, ...denied },
});

export function peerRoutes({ database, agents, address }: PeerRoutesOptions): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const projectOf = (c: Context<AppEnv>): string => c.get("principal").projectId;

  async function find(peers: ProjectPeers, id: string): Promise<PeerRow> {
    const row = peerIdSchema.safeParse(id).success ? await peers.get(id) : undefined;
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such peer");
    return row;
  }

  app.openapi(createEnrollment, async (c) => {
    const { name = "", labels = {}, ttlMs } = c.req.valid("json");
    const { row, token } = await projectEnrollments(database, projectOf(c)).create(actorOf(c), {
      name,
      labels,
      ttlMs,
      createdBy: c.get("principal").prefix,
    });
    const { certificateHashes, identity } = address();
    const code = encodeEnrollmentCode({
      token,
      relayIdentity: fromHex(identity),
      certificateHashes: certificateHashes.map(fromHex),
    });
    c.header("location", `/v1/enrollments/${row.id}`);
    return c.json({ enrollment: enrollmentBody(row), code }, 201);
  });

  app.openapi(listEnrollments, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const enrollments = projectEnrollments(database, projectOf(c));
    const rows = await enrollments.list({ after, limit: limit + 1 });
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    return c.json({ enrollments: page.map(enrollmentBody), nextCursor }, 200);
  });

  app.openapi(getEnrollment, async (c) => {
    const { id } = c.req.valid("param");
    const known = hexIdSchema.safeParse(id).success;
    const row = known ? await projectEnrollments(database, projectOf(c)).get(id) : undefined;
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such enrollment");
    return c.json(enrollmentBody(row), 200);
  });

  app.openapi(deleteEnrollment, async (c) => {
    const { id } = c.req.valid("param");
    const enrollments = projectEnrollments(database, projectOf(c));
    if (!hexIdSchema.safeParse(id).success || !(await enrollments.remove(actorOf(c), id))) {
      throw new RelayError("NOT_FOUND", "there is no such enrollment");
    }
    return c.body(null, 204);
  });

  app.openapi(listPeers, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const rows = await projectPeers(database, projectOf(c)).list({ after, limit: limit + 1 });
    const { page, nextCursor } = pageOf(rows, limit, positionCursor);
    return c.json({ peers: page.map(peerBody), nextCursor }, 200);
  });

  app.openapi(getPeer, async (c) => {
    const row = await find(projectPeers(database, projectOf(c)), c.req.param("id"));
    c.header("etag", etagOf(row.version));
    return c.json(peerBody(row), 200);
  });

  app.openapi(patchPeer, async (c) => {
    const peers = projectPeers(database, projectOf(c));
    const { id } = await find(peers, c.req.param("id"));
    const row = await peers.change(actorOf(c), id, c.req.valid("json"), ({ version }) =>
      requireMatch(c, version),
    );
    c.header("etag", etagOf(row.version));
    return c.json(peerBody(row), 200);
  });

  app.openapi(deletePeer, async (c) => {
    const peers = projectPeers(database, projectOf(c));
    const { id } = await find(peers, c.req.param("id"));
    await peers.revoke(actorOf(c), id, ({ version }) => requireMatch(c, version));
    agents.disconnect(id, "PEER_REVOKED", "this host was revoked");
    return c.body(null, 204);
  });

  // As with sessions: the router cannot take `{id}:probe` apart.
  app.openAPIRegistry.registerPath(probePeer);
  app.post("/peers/:target{[^/:]+:[^/:]+}", requireScope("peers:write"), async (c) => {
    const [id = "", action = ""] = c.req.param("target").split(":");
    await find(projectPeers(database, projectOf(c)), id);
    if (action !== "probe") {
      throw new RelayError("NOT_FOUND", "there is no such action: probe is");
    }
    return c.json({ asked: agents.probe(id) }, 202);
  });

  app.openapi(listRegions, async (c) => {
    const { cursor, limit, peerId } = c.req.valid("query");
    const rows = await projectPeers(database, projectOf(c)).regions({
      peerId,
      after: cursor === undefined ? undefined : regionPosition(cursor),
      limit: limit + 1,
    });
    const { page, nextCursor } = pageOf(rows, limit, (row) =>
      textCursor(`${row.peerId}/${row.name}`),
    );
    return c.json({ regions: page.map(regionBody), nextCursor }, 200);
  });

  return app;
}

function regionPosition(cursor: string): { readonly peerId: string; readonly name: string } {
  const [peerId = "", name = ""] = textPositionOf(cursor).split("/");
  if (peerIdSchema.safeParse(peerId).success && isAgentName(name)) return { peerId, name };
  throw new RelayError("CURSOR_INVALID", "this cursor is none that the relay gave out");
}

function enrollmentBody(row: EnrollmentRow) {
  const state =
    row.usedAt !== null
      ? ("used" as const)
      : row.expiresAt.getTime() <= Date.now()
        ? ("expired" as const)
        : ("open" as const);
  return {
    id: row.id,
    name: row.name,
    labels: row.labels,
    state,
    peerId: row.peerId,
    createdBy: row.createdBy,
    createdAt: row.createdAt.toISOString(),
    expiresAt: row.expiresAt.toISOString(),
    usedAt: row.usedAt?.toISOString() ?? null,
  };
}

function peerBody(row: PeerRow): PeerBody {
  return {
    id: row.id,
    name: row.name,
    labels: row.labels,
    state: row.online ? "online" : "offline",
    host: row.host,
    zone: row.zone,
    version: row.peerVersion,
    platform: row.platform,
    kernel: row.kernel,
    capabilities: row.capabilities,
    natClass: NAT_CLASSES.find((one) => one === row.natClass) ?? "unknown",
    diskFreeBytes: row.diskFreeBytes,
    hooks: row.hooks,
    directories: row.directories,
    exports: row.exports,
    problems: row.problems,
    lastSeenAt: row.lastSeenAt?.toISOString() ?? null,
    revision: row.version,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
  };
}

function regionBody({
  peerId,
  peerName,
  name,
  kind,
  bytes,
  chunkBytes,
  updatedAt,
}: OfferedRegionRow) {
  return { peerId, peerName, name, kind, bytes, chunkBytes, updatedAt: updatedAt.toISOString() };
}
