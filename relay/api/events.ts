/**
 * What happens in a project, and in one session: pages, and streams that can be taken up where they broke.
 *
 * @module
 */
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";

import { hasProjectEvent, lastProjectEvent, projectEventsAfter } from "../db/project-events.ts";
import type { Database } from "../db/database.ts";
import type { SessionEventRow } from "../db/sessions.ts";
import { isEnded } from "../protocol/ids.ts";
import { requireScope } from "./auth.ts";
import type { Changes } from "./changes.ts";
import type { AppEnv } from "./env.ts";
import { eventStream } from "./event-stream.ts";
import { numberCursor, numberOf, PAGE_LIMIT_MAX, pageOf } from "./pages.ts";
import {
  Bell,
  EVENT_STREAM_HEADERS,
  eventText,
  HEARTBEAT,
  HEARTBEAT_MS,
  pulledStream,
} from "./pulled-stream.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import { denied, idParameter, notFound, refusedQuery, security } from "./route-parts.ts";
import { eventPageSchema, eventsQuerySchema } from "./schemas.ts";
import type { SessionService } from "./session-service.ts";
import type { StreamCount } from "./stream-count.ts";

export interface EventRoutesOptions {
  readonly database: Database;
  readonly service: SessionService;
  readonly changes: Changes;
  readonly streams: StreamCount;
  /** Ends the streams. */
  readonly signal: AbortSignal;
}

const EVENTS_PER_BATCH = 100;
const LOOK_MS = 1_000;

const eventId = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const streamQuerySchema = z.object({
  after: eventId.optional().openapi({
    description:
      "The last event that was seen, as `Last-Event-ID` is. Without either: from now on.",
  }),
  only: z.enum(["events", "sessions"]).optional().openapi({
    description: "What happened, or how sessions look; both unless said.",
  }),
});

const lastEventIdHeader = z.object({
  "last-event-id": eventId.optional().openapi({ description: "What a browser sends by itself." }),
});

const eventStreamContent = { "text/event-stream": { schema: z.string() } };

const streamEvents = createRoute({
  method: "get",
  path: "/events",
  operationId: "streamEvents",
  summary: "Follow the project",
  description:
    "Server-sent events: `snapshot` with the newest sessions, then `event` for each thing that happened and `session` for each session that looks different. `event` has an id: with it as `Last-Event-ID`, or as `after`, a stream goes on where it broke; `gap` says that some of what was missed is no longer kept. Ends when the API key does.",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { query: streamQuerySchema, headers: lastEventIdHeader },
  responses: {
    200: { description: "Events.", content: eventStreamContent },
    ...refusedQuery,
    ...denied,
  },
});

const listEvents = createRoute({
  method: "get",
  path: "/sessions/{id}/events",
  operationId: "listSessionEvents",
  summary: "List what happened to a session, the oldest first, or follow it",
  description:
    "With `Accept: text/event-stream` as server-sent events, each with its `seq` as id; ends with the session, and answers 204 to who has seen the end.",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: {
    params: idParameter,
    query: eventsQuerySchema,
    headers: z.object({ "last-event-id": eventId.optional() }),
  },
  responses: {
    200: {
      description: "A page, or a stream.",
      content: { "application/json": { schema: eventPageSchema }, ...eventStreamContent },
    },
    204: { description: "The session is over, and all of it was seen." },
    ...refusedQuery,
    ...denied,
    ...notFound,
  },
});

export function eventRoutes(options: EventRoutesOptions): OpenAPIHono<AppEnv> {
  const { database, service, changes, streams, signal } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });

  app.openapi(streamEvents, async (c) => {
    const { keyId, projectId } = c.get("principal");
    const { only } = c.req.valid("query");
    const seen = c.req.valid("header")["last-event-id"] ?? c.req.valid("query").after;
    const sessions = service.of(projectId);
    const release = streams.open(keyId);
    try {
      const stream = eventStream({
        after: seen ?? (await lastProjectEvent(database, projectId)),
        hasGap:
          seen !== undefined && seen > 0 && !(await hasProjectEvent(database, projectId, seen)),
        wants: { events: only !== "sessions", sessions: only !== "events" },
        snapshot: async () =>
          (await sessions.list({ limit: PAGE_LIMIT_MAX })).map((row) => service.body(row)),
        sessions: async (ids) => (await sessions.getMany(ids)).map((row) => service.body(row)),
        events: (afterId) => projectEventsAfter(database, projectId, afterId, EVENTS_PER_BATCH),
        subscribe: (listener) => changes.subscribe(listener),
        stillAllowed: c.get("stillAllowed"),
        signal,
        onEnd: release,
      });
      return c.body(stream, 200, EVENT_STREAM_HEADERS);
    } catch (error) {
      release();
      throw error;
    }
  });

  app.openapi(listEvents, async (c) => {
    const { projectId } = c.get("principal");
    const { cursor, limit } = c.req.valid("query");
    const { id } = await service.find(projectId, c.req.param("id"));
    const after = cursor === undefined ? 0 : numberOf(cursor);
    if (wantsStream(c)) {
      const seen = c.req.valid("header")["last-event-id"] ?? after;
      return await followSession(c, id, seen);
    }
    const rows = await service.of(projectId).events(id, after, limit + 1);
    const { page, nextCursor } = pageOf(rows, limit, ({ seq }) => numberCursor(seq));
    return c.json({ events: page.map(sessionEventBody), nextCursor }, 200);
  });

  async function followSession(c: Context<AppEnv>, id: string, seen: number) {
    const { keyId, projectId } = c.get("principal");
    const sessions = service.of(projectId);
    let last = seen;
    let ended = false;
    const more = async (): Promise<string> => {
      // Looked at before the events: what it ended with is among them then.
      const row = await sessions.get(id);
      ended = row === undefined || isEnded(row.state);
      let text = "";
      for (const event of await sessions.events(id, last, EVENTS_PER_BATCH)) {
        last = event.seq;
        text += eventText("event", sessionEventBody(event), event.seq);
      }
      return text;
    };
    const first = await more();
    if (ended && first === "") return c.body(null, 204);
    return stream(c, keyId, { id, first, more, isOver: () => ended });
  }

  /** Says `first`, then what there is more each time the session changes, until it is over and all is said. */
  function stream(
    c: Context<AppEnv>,
    keyId: string,
    of: {
      readonly id: string;
      readonly first: string;
      readonly more: () => Promise<string>;
      readonly isOver: () => boolean;
    },
  ) {
    const release = streams.open(keyId);
    const bell = new Bell();
    const unsubscribe = changes.subscribe((sessionId) => {
      if (sessionId === of.id) bell.ring();
    });
    let first: string | undefined = of.first;
    let saidAtMs = performance.now();
    const body = pulledStream({
      next: async () => {
        let text = first ?? "";
        first = undefined;
        if (text === "") {
          if (!of.isOver()) await bell.rung(LOOK_MS);
          text = await of.more();
          if (text === "" && of.isOver()) return undefined;
        }
        if (text === "" && performance.now() - saidAtMs >= HEARTBEAT_MS) text = HEARTBEAT;
        if (text !== "") saidAtMs = performance.now();
        return text;
      },
      stillAllowed: c.get("stillAllowed"),
      signal,
      onEnd: () => {
        unsubscribe();
        bell.ring();
        release();
      },
    });
    return c.body(body, 200, EVENT_STREAM_HEADERS);
  }

  return app;
}

export function wantsStream(c: Context<AppEnv>): boolean {
  return (c.req.header("accept") ?? "").includes("text/event-stream");
}

function sessionEventBody({ seq, at, type, data }: SessionEventRow) {
  return { seq, at: at.toISOString(), type, data };
}
