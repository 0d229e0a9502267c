/**
 * Sessions: made, listed, shown, finalized, cancelled.
 *
 * @module
 */
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";

import { toBase64Url, toHex } from "../protocol/bytes.ts";
import { HASH_BYTES } from "../protocol/frame.ts";
import type { Database } from "../db/database.ts";
import { fromHex } from "../db/hex.ts";
import { INDEX_CHUNKS_MAX, TICKET_LIFETIME_MS } from "../db/limits.ts";
import type { DatabaseSessionStore } from "../db/session-store.ts";
import {
  projectSessions,
  type ProjectSessions,
  type SessionPosition,
  type SessionRow,
} from "../db/sessions.ts";
import { RelayError } from "../errors.ts";
import type { RelayLimits } from "../limits.ts";
import type { NodeBounds } from "../node-bounds.ts";
import type { LiveSession, Switchboard } from "../switchboard/switchboard.ts";
import { requireScope } from "./auth.ts";
import type { Changes } from "./changes.ts";
import type { AppEnv } from "./env.ts";
import { eventStream } from "./event-stream.ts";
import { invalidRequest, refuseInvalid } from "./refuse-invalid.ts";
import {
  numberCursor,
  numberOf,
  PAGE_LIMIT_MAX,
  pageOf,
  positionCursor,
  positionOf,
} from "./pages.ts";
import {
  denied,
  idParameter,
  notFound,
  problem,
  refusedBody,
  refusedQuery,
  security,
} from "./route-parts.ts";
import {
  actionBodySchema,
  createdSchema,
  createSessionSchema,
  eventPageSchema,
  eventsQuerySchema,
  listQuerySchema,
  sessionIdSchema,
  sessionPageSchema,
  sessionSchema,
  type SessionBody,
} from "./schemas.ts";
import type { StreamCount } from "./stream-count.ts";
import { allowedActions, AT_WORK, sessionBody, stateOf } from "./session-body.ts";

/** What the API asks of the switchboard. */
export type LiveSessions = Pick<
  Switchboard,
  "announce" | "command" | "live" | "liveSessionCount" | "onChange" | "livePaths" | "queuedBytes"
>;

export interface RelayAddress {
  readonly url: string;
  /** SHA-256 of the certificate's DER, in hexadecimal. */
  readonly certificateHashes: readonly string[];
  /** The relay's ed25519 public key in hexadecimal, which vouches for later certificates. */
  readonly identity: string;
}

export interface SessionRoutesOptions {
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly switchboard: LiveSessions;
  readonly changes: Changes;
  readonly limits: RelayLimits;
  /** Whether this relay lets another session in; without it, always. */
  readonly node?: Pick<NodeBounds, "error"> | undefined;
  readonly streams: StreamCount;
  /** Where peers find the relay; asked each time, since its certificate is renewed. */
  readonly address: () => RelayAddress;
  /** Ends the event streams. */
  readonly signal: AbortSignal;
}

/** Pages of the database that one page of a list may be picked from. */
const LIST_BATCHES_MAX = 10;

const createSession = createRoute({
  method: "post",
  path: "/sessions",
  operationId: "createSession",
  summary: "Make a session and its two one-use tickets",
  security,
  middleware: [requireScope("sessions:write")] as const,
  request: { body: { content: { "application/json": { schema: createSessionSchema } } } },
  responses: {
    201: { description: "Made.", content: { "application/json": { schema: createdSchema } } },
    ...refusedBody,
    ...denied,
  },
});

const listSessions = createRoute({
  method: "get",
  path: "/sessions",
  operationId: "listSessions",
  summary: "List sessions, the newest first",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { query: listQuerySchema },
  responses: {
    200: { description: "A page.", content: { "application/json": { schema: sessionPageSchema } } },
    ...refusedQuery,
    ...denied,
  },
});

const getSession = createRoute({
  method: "get",
  path: "/sessions/{id}",
  operationId: "getSession",
  summary: "Show a session",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter },
  responses: {
    200: {
      description: "The session.",
      content: { "application/json": { schema: sessionSchema } },
    },
    ...denied,
    ...notFound,
  },
});

const listEvents = createRoute({
  method: "get",
  path: "/sessions/{id}/events",
  operationId: "listSessionEvents",
  summary: "List what happened to a session, the oldest first",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter, query: eventsQuerySchema },
  responses: {
    200: { description: "A page.", content: { "application/json": { schema: eventPageSchema } } },
    ...refusedQuery,
    ...denied,
    ...notFound,
  },
});

const getManifest = createRoute({
  method: "get",
  path: "/sessions/{id}/manifest",
  operationId: "getSessionManifest",
  summary: "Download the keyed hash of every chunk",
  description:
    "32 bytes a chunk in order, zeros where the relay knows none. `memferry-root-hash` is the last root that the seeder reported.",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter },
  responses: {
    200: {
      description: "The hashes.",
      content: { "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) } },
    },
    ...denied,
    ...notFound,
  },
});

const streamEvents = createRoute({
  method: "get",
  path: "/events",
  operationId: "streamSessions",
  summary: "Follow all sessions of the project",
  description:
    "Server-sent events: `snapshot` with the newest sessions, then `session` for each that changed. Ends when the API key does.",
  security,
  middleware: [requireScope("sessions:read")] as const,
  responses: {
    200: {
      description: "Events.",
      content: { "text/event-stream": { schema: z.string() } },
    },
    ...denied,
  },
});

const ACTION_SUMMARIES: Readonly<Record<"finalize" | "cancel", string>> = {
  finalize: "Switch over now: suspend the workload, send the rest, resume at the destination",
  cancel: "Stop the migration; the workload stays where it runs. Refused once it has moved",
};

export function sessionRoutes(options: SessionRoutesOptions): OpenAPIHono<AppEnv> {
  const { database, store, switchboard, changes } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const mine = (c: Context<AppEnv>): ProjectSessions =>
    projectSessions(database, c.get("principal").projectId);
  const live = (id: string): LiveSession | undefined => switchboard.live(fromHex(id));
  const body = (row: SessionRow): SessionBody => sessionBody(row, live(row.id));

  async function find(sessions: ProjectSessions, id: string): Promise<SessionRow> {
    const row = sessionIdSchema.safeParse(id).success ? await sessions.get(id) : undefined;
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such session");
    return row;
  }

  app.openapi(createSession, async (c) => {
    const request = c.req.valid("json");
    const full = options.node?.error(c.get("principal").projectId);
    if (full !== undefined) throw full;
    const { row, tickets } = await mine(c).create({
      bounds: options.limits,
      name: request.name ?? "",
      labels: request.labels ?? {},
      mode: request.mode ?? "live",
      limits: request.limits ?? {},
      ticketLifetimeMs: request.ticketTtlMs ?? TICKET_LIFETIME_MS,
      createdBy: c.get("principal").prefix,
    });
    changes.publish(row.id);
    const { url, certificateHashes, identity } = options.address();
    c.header("location", `/v1/sessions/${row.id}`);
    const ticket = ({ token, expiresAt }: (typeof tickets)["seeder"]) => ({
      token: toBase64Url(token),
      expiresAt: expiresAt.toISOString(),
    });
    return c.json(
      {
        session: body(row),
        tickets: { seeder: ticket(tickets.seeder), leecher: ticket(tickets.leecher) },
        relay: { url, certificateHashes: [...certificateHashes], identity },
      },
      201,
    );
  });

  app.openapi(listSessions, async (c) => {
    const { state, cursor, limit } = c.req.valid("query");
    const after = cursor === undefined ? undefined : positionOf(cursor);
    const { page, last } = await listed(mine(c), { states: state, after, limit });
    return c.json(
      { sessions: page.map(body), nextCursor: last === undefined ? null : positionCursor(last) },
      200,
    );
  });

  app.openapi(getSession, async (c) => c.json(body(await find(mine(c), c.req.param("id"))), 200));

  app.openapi(listEvents, async (c) => {
    const { cursor, limit } = c.req.valid("query");
    const sessions = mine(c);
    const { id } = await find(sessions, c.req.param("id"));
    const after = cursor === undefined ? 0 : numberOf(cursor);
    const rows = await sessions.events(id, after, limit + 1);
    const { page, nextCursor } = pageOf(rows, limit, ({ seq }) => numberCursor(seq));
    return c.json(
      {
        events: page.map(({ seq, at, type, data }) => ({ seq, at: at.toISOString(), type, data })),
        nextCursor,
      },
      200,
    );
  });

  app.openapi(getManifest, async (c) => {
    const row = await find(mine(c), c.req.param("id"));
    const { chunkCount, chunkBytes, rootHash } = row;
    if (chunkCount === null || chunkCount > INDEX_CHUNKS_MAX) {
      throw new RelayError("NOT_FOUND", "the relay has no index of this session's region");
    }
    const headers: Record<string, string> = {
      "content-type": "application/octet-stream",
      "content-length": String(chunkCount * HASH_BYTES),
      "content-disposition": `attachment; filename="${row.id}.manifest"`,
      "memferry-chunk-bytes": String(chunkBytes),
    };
    if (rootHash !== null) headers["memferry-root-hash"] = toHex(rootHash);
    const hashes = store.index.stream(fromHex(row.id));
    const stream = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const { done, value } = await hashes.next();
          if (done === true) controller.close();
          else controller.enqueue(value);
        },
        async cancel() {
          await hashes.return(undefined);
        },
      },
      { highWaterMark: 1 },
    );
    return c.body(stream, 200, headers);
  });

  app.openapi(streamEvents, (c) => {
    const { keyId } = c.get("principal");
    const release = options.streams.open(keyId);
    const sessions = mine(c);
    const stream = eventStream({
      snapshot: async () => (await sessions.list({ limit: PAGE_LIMIT_MAX })).map(body),
      sessions: async (ids) => (await sessions.getMany(ids)).map(body),
      subscribe: (listener) => changes.subscribe(listener),
      stillAllowed: c.get("stillAllowed"),
      signal: options.signal,
      onEnd: release,
    });
    return c.body(stream, 200, {
      "content-type": "text/event-stream; charset=utf-8",
      // For proxies that would rather collect it first.
      "x-accel-buffering": "no",
    });
  });

  // The document's `{id}:finalize` is one part of a path, which the router cannot take apart: one route
  // takes both, and the two are described by hand.
  for (const action of ["finalize", "cancel"] as const) {
    app.openAPIRegistry.registerPath({
      method: "post",
      path: `/sessions/{id}:${action}`,
      operationId: `${action}Session`,
      summary: ACTION_SUMMARIES[action],
      security,
      request: {
        params: idParameter,
        body: { content: { "application/json": { schema: actionBodySchema } } },
      },
      responses: {
        202: {
          description: "Passed on; the session as it is now.",
          content: { "application/json": { schema: sessionSchema } },
        },
        ...refusedBody,
        409: problem("The session's state does not allow it: see `allowedActions`."),
        ...denied,
        ...notFound,
      },
    });
  }
  app.post("/sessions/:target{[^/:]+:[^/:]+}", requireScope("sessions:control"), async (c) => {
    const [id = "", action = ""] = c.req.param("target").split(":");
    const sessions = mine(c);
    const row = await find(sessions, id);
    const { reason = "" } = await actionBody(c);
    if (action === "finalize") await finalize(row, reason);
    else if (action === "cancel") await cancel(sessions, row, reason);
    else throw new RelayError("NOT_FOUND", "there is no such action: finalize and cancel are");
    changes.publish(id);
    return c.json(body(await find(sessions, id)), 202);
  });

  /** A page, and where it ended if there may be another. */
  async function listed(
    sessions: ProjectSessions,
    { states, after, limit }: Parameters<ProjectSessions["list"]>[0],
  ): Promise<{ page: SessionRow[]; last: SessionPosition | undefined }> {
    if (states === undefined || !states.some((state) => state === "paused" || AT_WORK.has(state))) {
      // One more than asked for says whether there is a next page.
      const rows = await sessions.list({ states, after, limit: limit + 1 });
      const page = rows.slice(0, limit);
      return { page, last: rows.length > limit ? page.at(-1) : undefined };
    }
    // Which of these are paused is not in the database: what it finds is looked through, within a bound.
    const wanted = new Set(states);
    const recorded = wanted.has("paused") ? [...new Set([...states, ...AT_WORK])] : states;
    const page: SessionRow[] = [];
    let last = after;
    for (let batch = 0; batch < LIST_BATCHES_MAX; batch++) {
      const rows = await sessions.list({ states: recorded, after: last, limit: PAGE_LIMIT_MAX });
      for (const row of rows) {
        if (page.length === limit) return { page, last };
        if (wanted.has(stateOf(row.state, live(row.id)))) page.push(row);
        last = row;
      }
      if (rows.length < PAGE_LIMIT_MAX) return { page, last: undefined };
    }
    return { page, last };
  }

  async function finalize(row: SessionRow, reason: string): Promise<void> {
    const state = stateOf(row.state, live(row.id));
    if (!allowedActions(state, row.owner).includes("finalize")) {
      throw conflict(row, `a session that is ${state} cannot be finalized`);
    }
    if (!switchboard.command(fromHex(row.id), "finalize", reason)) {
      throw conflict(row, "the leecher is not connected: it is the one that finalizes");
    }
    await store.addEvent(fromHex(row.id), "finalizeRequested", {
      by: "api",
      ...(reason === "" ? {} : { reason }),
    });
  }

  function conflict(row: SessionRow, detail: string): RelayError {
    const currentState = stateOf(row.state, live(row.id));
    return new RelayError("STATE_CONFLICT", detail, {
      details: { currentState, allowedActions: allowedActions(currentState, row.owner) },
    });
  }

  async function cancel(sessions: ProjectSessions, row: SessionRow, reason: string): Promise<void> {
    // The database decides, since a commit may be on its way at this moment.
    const change = { by: "api", state: "cancelled", reason } as const;
    if (!(await store.setState(fromHex(row.id), change))) {
      const current = (await sessions.get(row.id)) ?? row;
      throw conflict(
        current,
        current.owner === "leecher"
          ? "the workload has moved already: it runs at the destination"
          : `the session is over: ${current.state}`,
      );
    }
    switchboard.command(fromHex(row.id), "cancel", reason);
    await switchboard.announce(fromHex(row.id));
  }

  return app;
}

async function actionBody(c: Context<AppEnv>): Promise<z.infer<typeof actionBodySchema>> {
  const text = await c.req.text();
  if (text === "") return {};
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new RelayError("REQUEST_MALFORMED", "the body is not JSON", { cause });
  }
  const parsed = actionBodySchema.safeParse(json);
  if (!parsed.success) throw invalidRequest(parsed.error);
  return parsed.data;
}
