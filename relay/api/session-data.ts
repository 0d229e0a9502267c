/**
 * What there is to read of a session beside its body: progress, checks, the map of its region, the manifest.
 *
 * @module
 */
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";

import { MAP_STATES } from "../db/chunk-index-map.ts";
import { fromHex } from "../db/hex.ts";
import { INDEX_CHUNKS_MAX } from "../db/limits.ts";
import type { DatabaseSessionStore } from "../db/session-store.ts";
import type { SessionRow } from "../db/sessions.ts";
import { RelayError } from "../errors.ts";
import { toHex } from "../protocol/bytes.ts";
import { HASH_BYTES } from "../protocol/frame.ts";
import { isEnded } from "../protocol/ids.ts";
import { requireScope } from "./auth.ts";
import { byteRange } from "./byte-range.ts";
import { etagOf } from "./conditional.ts";
import type { AppEnv } from "./env.ts";
import { wantsStream } from "./events.ts";
import { EVENT_STREAM_HEADERS, eventText, HEARTBEAT, pulledStream } from "./pulled-stream.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import {
  denied,
  idParameter,
  json,
  notFound,
  problem,
  refusedQuery,
  security,
} from "./route-parts.ts";
import { checksSchema, progressAnswerSchema } from "./schemas.ts";
import type { SessionService } from "./session-service.ts";
import type { StreamCount } from "./stream-count.ts";

export interface SessionDataRoutesOptions {
  readonly service: SessionService;
  readonly store: Pick<DatabaseSessionStore, "index">;
  readonly streams: StreamCount;
  readonly signal: AbortSignal;
}

const PROGRESS_INTERVAL_MS = 1_000;
const MAP_BUCKETS_MAX = 65_536;
const MAP_BUCKETS_DEFAULT = 1_024;

const binary = { "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) } };

const getProgress = createRoute({
  method: "get",
  path: "/sessions/{id}/progress",
  operationId: "getSessionProgress",
  summary: "Show how far a session is, or follow it",
  description:
    "With `Accept: text/event-stream` as server-sent events, `progress` at most once a second, until the session is over.",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter },
  responses: {
    200: {
      description: "Numbers, or a stream of them.",
      content: {
        "application/json": { schema: progressAnswerSchema },
        "text/event-stream": { schema: z.string() },
      },
    },
    ...denied,
    ...notFound,
  },
});

const getChecks = createRoute({
  method: "get",
  path: "/sessions/{id}/checks",
  operationId: "getSessionChecks",
  summary: "Show what the last `:check` found",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: { params: idParameter },
  responses: { 200: json("What was found.", checksSchema), ...denied, ...notFound },
});

const getMap = createRoute({
  method: "get",
  path: "/sessions/{id}/map",
  operationId: "getSessionMap",
  summary: "Download how the region's chunks stand, at any resolution",
  description: `A byte a bucket: ${Object.entries(MAP_STATES)
    .map(([name, code]) => `${code} ${name}`)
    .join(
      ", ",
    )}. All buckets but the last have as many chunks, \`memferry-chunks-per-bucket\`; there are never more of them than chunks.`,
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: {
    params: idParameter,
    query: z.object({
      buckets: z.coerce.number().int().min(1).max(MAP_BUCKETS_MAX).default(MAP_BUCKETS_DEFAULT),
      first: z.coerce.number().int().min(0).max(INDEX_CHUNKS_MAX).default(0),
      count: z.coerce.number().int().min(1).max(INDEX_CHUNKS_MAX).optional(),
    }),
  },
  responses: {
    200: { description: "The map.", content: binary },
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
    "32 bytes a chunk in order, zeros where the relay knows none. `memferry-root-hash` is the last root that the seeder reported. One range of bytes may be asked for with `Range`.",
  security,
  middleware: [requireScope("sessions:read")] as const,
  request: {
    params: idParameter,
    headers: z.object({ range: z.string().max(200).optional() }),
  },
  responses: {
    200: { description: "The hashes.", content: binary },
    206: { description: "A part of them.", content: binary },
    416: problem("There is no such part."),
    ...refusedQuery,
    ...denied,
    ...notFound,
  },
});

export function sessionDataRoutes(options: SessionDataRoutesOptions): OpenAPIHono<AppEnv> {
  const { service, store, streams, signal } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  const find = (c: Context<AppEnv>): Promise<SessionRow> =>
    service.find(c.get("principal").projectId, c.req.param("id") ?? "");

  const progressAnswer = (row: SessionRow): z.infer<typeof progressAnswerSchema> => {
    const { id, state, version, progress } = service.body(row);
    return { id, state, version, progress };
  };

  app.openapi(getProgress, async (c) => {
    const row = await find(c);
    c.header("etag", etagOf(row.version));
    if (!wantsStream(c)) return c.json(progressAnswer(row), 200);
    const { keyId, projectId } = c.get("principal");
    const release = streams.open(keyId);
    let shown = "";
    let ended = false;
    let quietSinceMs = performance.now();
    const stream = pulledStream({
      next: async () => {
        if (ended) return undefined;
        if (shown !== "") await new Promise((resolve) => setTimeout(resolve, PROGRESS_INTERVAL_MS));
        const now = await service.of(projectId).get(row.id);
        if (now === undefined) return undefined;
        ended = isEnded(now.state);
        const text = eventText("progress", progressAnswer(now));
        const isNew = text !== shown || performance.now() - quietSinceMs > 10_000;
        if (!isNew && !ended) return "";
        quietSinceMs = performance.now();
        const say = text === shown && !ended ? HEARTBEAT : text;
        shown = text;
        return say;
      },
      stillAllowed: c.get("stillAllowed"),
      signal,
      onEnd: release,
    });
    return c.body(stream, 200, EVENT_STREAM_HEADERS);
  });

  app.openapi(getChecks, async (c) => {
    const { checks, checkedAt } = await find(c);
    return c.json({ checks: checks ?? [], checkedAt: checkedAt?.toISOString() ?? null }, 200);
  });

  app.openapi(getMap, async (c) => {
    const row = await find(c);
    const { buckets, first, count } = c.req.valid("query");
    const { chunkCount } = indexed(row);
    const window = { buckets, first, ...(count === undefined ? {} : { count }) };
    const cells = await store.index.map(fromHex(row.id), window);
    const shown = Math.max(0, Math.min(count ?? chunkCount, chunkCount - first));
    return c.body(cells, 200, {
      "content-type": "application/octet-stream",
      "memferry-chunk-count": String(chunkCount),
      "memferry-chunks-per-bucket": String(Math.ceil(shown / buckets)),
    });
  });

  app.openapi(getManifest, async (c) => {
    const row = await find(c);
    const { chunkCount } = indexed(row);
    const length = chunkCount * HASH_BYTES;
    const headers: Record<string, string> = {
      "accept-ranges": "bytes",
      "content-type": "application/octet-stream",
      "content-disposition": `attachment; filename="${row.id}.manifest"`,
      "memferry-chunk-bytes": String(row.chunkBytes),
    };
    if (row.rootHash !== null) headers["memferry-root-hash"] = toHex(row.rootHash);
    const range = byteRange(c.req.header("range"), length);
    if (range === "unsatisfiable") {
      throw new RelayError("RANGE_INVALID", `the manifest has ${length} bytes`);
    }
    if (range === undefined) {
      headers["content-length"] = String(length);
      return c.body(part(row, { first: 0, length }), 200, headers);
    }
    headers["content-length"] = String(range.length);
    headers["content-range"] = `bytes ${range.first}-${range.first + range.length - 1}/${length}`;
    return c.body(part(row, range), 206, headers);
  });

  /** Bytes of the manifest, made as they are taken. */
  function part(
    row: SessionRow,
    { first, length }: { readonly first: number; readonly length: number },
  ): ReadableStream<Uint8Array> {
    const hashes = store.index.stream(fromHex(row.id));
    let at = 0;
    const end = first + length;
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          while (at < end) {
            const { done, value } = await hashes.next();
            if (done === true) break;
            const from = Math.max(0, first - at);
            const piece = value.subarray(from, Math.max(from, end - at));
            at += value.length;
            if (piece.length === 0) continue;
            controller.enqueue(piece);
            return;
          }
          controller.close();
          await hashes.return(undefined);
        },
        async cancel() {
          await hashes.return(undefined);
        },
      },
      { highWaterMark: 1 },
    );
  }

  return app;
}

function indexed({ chunkCount }: SessionRow): { readonly chunkCount: number } {
  if (chunkCount === null || chunkCount > INDEX_CHUNKS_MAX) {
    throw new RelayError("NOT_FOUND", "the relay has no index of this session's region");
  }
  return { chunkCount };
}
