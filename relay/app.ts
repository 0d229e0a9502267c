/**
 * What the relay answers over HTTP: the API, its description, health, metrics, and the console.
 *
 * @module
 */
import { randomUUID } from "node:crypto";

import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import { createMiddleware } from "hono/factory";

import { toHex } from "./protocol/bytes.ts";
import { messageOf } from "./protocol/errors.ts";
import {
  decodeNonce,
  encodeSignedCertificates,
  RELAY_CERTIFICATES_PATH,
  type SignedCertificates,
} from "./protocol/relay-certificates.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "./protocol/version.ts";
import { auditRest } from "./api/audit-rest.ts";
import { auditRoutes } from "./api/audit.ts";
import { createAuth, requireScope } from "./api/auth.ts";
import { CONSOLE_MISSING, type Console } from "./api/console.ts";
import { Changes } from "./api/changes.ts";
import type { LiveAgents } from "./agents/hub.ts";
import { limitRoutes } from "./api/limits.ts";
import { migrationRoutes } from "./api/migrations.ts";
import { orderRoutes } from "./api/orders.ts";
import { peerRoutes } from "./api/peers.ts";
import { StreamCount } from "./api/stream-count.ts";
import { discoveryRoutes, type OpenDiscovery } from "./api/discovery.ts";
import { openApiDocument, type ApiDocument } from "./api/document.ts";
import { remoteAddressOf, type AppEnv } from "./api/env.ts";
import { idempotency } from "./api/idempotency.ts";
import { problemResponse, statusOf, toRelayError } from "./api/errors.ts";
import { versionSchema } from "./api/schemas.ts";
import { keyRoutes } from "./api/keys.ts";
import { projectRoutes } from "./api/projects.ts";
import { REFERENCE_STYLE, referencePage } from "./api/reference.ts";
import { plainQuery, refuseInvalid } from "./api/refuse-invalid.ts";
import { backupRoutes } from "./api/backup.ts";
import { refuseWhileDraining, relayRoutes, type ThisRelay } from "./api/relays.ts";
import { eventRoutes } from "./api/events.ts";
import { sessionActionRoutes } from "./api/session-actions.ts";
import type { RelayPlace } from "./api/session-body.ts";
import { sessionDataRoutes } from "./api/session-data.ts";
import { SessionService, type LiveSessions } from "./api/session-service.ts";
import { sessionRoutes, type RelayAddress } from "./api/sessions.ts";
import { signInRoutes, whoamiRoutes } from "./api/sign-in.ts";
import { webhookRoutes, type WebhookRoutesOptions } from "./api/webhooks.ts";
import type { ApiKeys } from "./db/api-keys.ts";
import type { Database } from "./db/database.ts";
import { createIdempotentRequests } from "./db/idempotent-requests.ts";
import type { DatabaseSessionStore } from "./db/session-store.ts";
import { countByState, statesOf } from "./db/sessions.ts";
import { createSignIns } from "./db/sign-ins.ts";
import { RelayError } from "./errors.ts";
import { RELAY_LIMITS, relayLimits, type RelayLimits } from "./limits.ts";
import type { NodeBounds } from "./node-bounds.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { runtimeName } from "./runtime/runtime.ts";
import type { Admission } from "./transport/admission.ts";

export type { SessionBody, SessionAction } from "./api/schemas.ts";
export type { ProblemBody } from "./api/errors.ts";
export type { LiveSessions } from "./api/session-service.ts";
export type { RelayAddress } from "./api/sessions.ts";
export type { KeyBody } from "./api/schemas/identity.ts";
export type { DeliveryBody, RelayNodeBody, WebhookBody } from "./api/schemas/operations.ts";

export interface AppDependencies {
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly apiKeys: ApiKeys;
  readonly switchboard: LiveSessions;
  /** Shared with whoever else changes sessions. */
  readonly changes?: Changes;
  /** Default: made of the rest. */
  readonly sessions?: SessionService;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Default: what docs/limits.md says. */
  readonly limits?: RelayLimits;
  /** Absent where a test has no node to fill: then sessions are let in. */
  readonly node?: NodeBounds;
  readonly admission?: Admission;
  readonly console: Console;
  readonly version: string;
  /** Where peers find the relay; asked each time, since its certificate is renewed. */
  readonly address: () => RelayAddress;
  /** Signs, for who made the nonce, which certificates are this relay's. */
  readonly vouch: (nonce: Uint8Array) => SignedCertificates;
  /** Undefined if address discovery is off. */
  readonly discovery?: OpenDiscovery | undefined;
  /** The agents that are connected here. */
  readonly agents: LiveAgents;
  /** This relay among those of its database. */
  readonly relay: ThisRelay;
  readonly webhooks: Omit<WebhookRoutesOptions, "database" | "limits">;
  /** Aborted when the relay begins to go down: event streams end, `/readyz` says so. */
  readonly signal: AbortSignal;
  /** Milliseconds, monotone. */
  readonly clock?: () => number;
}

export type App = OpenAPIHono<AppEnv>;

const BODY_BYTES_MAX = RELAY_LIMITS.bodyBytes.default;
const SECURITY_HEADERS = {
  "content-security-policy":
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
} as const;

export function createApp(dependencies: AppDependencies): App {
  const { database, apiKeys, metrics, log, switchboard, signal } = dependencies;
  const clock = dependencies.clock ?? (() => performance.now());
  const limits = dependencies.limits ?? relayLimits();
  const streams = new StreamCount(limits);
  const changes = dependencies.changes ?? new Changes();
  const unsubscribe = switchboard.onChange((sessionId) => changes.publish(toHex(sessionId)));
  signal.addEventListener("abort", unsubscribe, { once: true });

  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });

  app.use(async (c, next) => {
    const requestId = randomUUID();
    c.set("requestId", requestId);
    await next();
    const { headers } = c.res;
    headers.set("x-request-id", requestId);
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) headers.set(name, value);
    if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
    log("debug", "request", {
      requestId,
      method: c.req.method,
      path: c.req.path,
      status: c.res.status,
    });
  });

  app.onError((thrown, c) => {
    const error = toRelayError(thrown);
    const requestId = c.get("requestId");
    const { limitName } = error.details;
    if (typeof limitName === "string") metrics.countThrottled(limitName);
    if (statusOf(error.code) >= 500) {
      log("error", "request failed", {
        requestId,
        code: error.code,
        path: c.req.path,
        reason: messageOf(error.cause ?? error),
      });
    }
    return problemResponse(error, requestId);
  });

  app.notFound((c) =>
    problemResponse(new RelayError("NOT_FOUND", "there is nothing here"), c.get("requestId")),
  );

  app.use(boundedBody);

  // Before the key is asked for: whoever looks at its network may have none yet.
  app.route("/v1", discoveryRoutes({ discovery: dependencies.discovery, limits, clock }));
  const signIns = createSignIns(database);
  const auth = createAuth({ apiKeys, signIns, limits, clock });
  app.use("/v1/*", plainQuery, jsonOnly);
  app.route("/v1", signInRoutes({ database, signIns, auth }));
  const requests = createIdempotentRequests(database, limits);
  app.use("/v1/*", auth.authenticate, idempotency({ requests, log }), auditRest({ database, log }));
  const isDraining = (): boolean => signal.aborted || dependencies.relay.draining;
  for (const path of ["/v1/sessions", "/v1/migrations"])
    app.use(path, refuseWhileDraining(isDraining, dependencies));
  app.route("/v1", whoamiRoutes({ database, signIns }));
  app.route("/v1", projectRoutes({ database, limits }));
  app.route("/v1", keyRoutes({ database, limits }));
  app.route("/v1", auditRoutes({ database }));
  const place = (): RelayPlace => dependencies.relay.place;
  const service = dependencies.sessions ?? new SessionService({ ...dependencies, changes, place });
  app.route("/v1", sessionRoutes({ ...dependencies, service, changes, limits }));
  app.route("/v1", sessionActionRoutes({ service, address: dependencies.address }));
  app.route("/v1", sessionDataRoutes({ ...dependencies, service, streams }));
  app.route("/v1", eventRoutes({ ...dependencies, service, changes, streams }));
  app.route("/v1", peerRoutes({ ...dependencies }));
  app.route("/v1", orderRoutes({ ...dependencies, changes, limits }));
  app.route("/v1", migrationRoutes({ ...dependencies, service, changes, limits }));
  app.route("/v1", limitRoutes({ ...dependencies, limits, streams }));

  app.route("/v1", relayRoutes({ database, relay: dependencies.relay }));
  app.route("/v1", backupRoutes({ database }));
  app.route("/v1", webhookRoutes({ database, limits, ...dependencies.webhooks }));

  app.openAPIRegistry.registerComponent("securitySchemes", "apiKey", {
    type: "http",
    scheme: "bearer",
    description: "`mfk_<prefix>_<secret>`, printed when the relay starts for the first time.",
  });
  app.openAPIRegistry.registerComponent("securitySchemes", "signIn", {
    type: "apiKey",
    in: "cookie",
    name: "__Host-memferry",
    description:
      "What the console has. Without TLS its name is `memferry`. Requests must come from the relay's own pages, and those that change something with `x-csrf-token`.",
  });
  let document: ApiDocument | undefined;
  // Made when it is first asked for: by then all routes are there.
  const describe = (): ApiDocument => (document ??= openApiDocument(app, dependencies.version));
  app.get("/openapi.json", (c) => c.json(describe()));
  let reference: string | undefined;
  app.get("/reference", (c) => c.html((reference ??= referencePage(describe()))));
  app.get("/reference.css", (c) =>
    c.body(REFERENCE_STYLE, 200, { "content-type": "text/css; charset=utf-8" }),
  );

  app.openapi(
    createRoute({
      method: "get",
      path: "/version",
      operationId: "getVersion",
      summary: "What runs here",
      responses: {
        200: {
          description: "Version.",
          content: { "application/json": { schema: versionSchema } },
        },
      },
    }),
    (c) =>
      c.json(
        {
          version: dependencies.version,
          protocol: `${PROTOCOL_MAJOR}.${PROTOCOL_MINOR}`,
          runtime: runtimeName(),
        },
        200,
      ),
  );

  // For peers that pin: anyone may ask, also while the relay goes down.
  app.get(RELAY_CERTIFICATES_PATH, (c) => {
    let nonce: Uint8Array;
    try {
      nonce = decodeNonce(c.req.query("nonce"));
    } catch (cause) {
      throw new RelayError("REQUEST_INVALID", "nonce: 32 bytes in base64url are due", { cause });
    }
    const body = encodeSignedCertificates(dependencies.vouch(nonce));
    return c.body(body, 200, { "content-type": "application/json" });
  });

  app.get("/livez", (c) => c.text("ok\n"));

  app.get("/readyz", async (c) => {
    if (isDraining()) throw new RelayError("RELAY_DRAINING", "the relay takes no new sessions");
    await database.ping();
    return c.text("ok\n");
  });

  const localOrAdmin = createMiddleware<AppEnv>(async (c, next) => {
    // A proxy on this host speaks for somebody else, and says so.
    const forwarded = c.req.header("x-forwarded-for") ?? c.req.header("forwarded");
    const address = remoteAddressOf(c);
    const local = address === "::1" || address.startsWith("127.");
    if (local && forwarded === undefined) return await next();
    return await auth.authenticate(c, () => requireScope("admin")(c, next).then(() => {}));
  });

  app.get("/metrics", localOrAdmin, async (c) => {
    // A database that is down is no reason to hide the other numbers; its own counter says so.
    const paths = switchboard.livePaths();
    try {
      const byState = await countByState(database);
      const states = await statesOf(database, [...paths.keys()]);
      metrics.setSessions(
        byState,
        [...states].map(([id, state]) => ({ state, path: paths.get(id) ?? "none" })),
      );
    } catch {
      // Its own counter has counted it: what was known before stays.
    }
    metrics.setQueueBytes(switchboard.queuedBytes);
    return c.body(await metrics.render(), 200, { "content-type": metrics.contentType });
  });

  app.get("*", async (c, next) => {
    const file = dependencies.console.get(c.req.path);
    if (file === undefined) {
      return c.req.path === "/" ? c.text(CONSOLE_MISSING) : await next();
    }
    return c.body(file.bytes, 200, {
      "content-type": file.contentType,
      "cache-control": file.immutable ? "public, max-age=31536000, immutable" : "no-cache",
    });
  });

  return app;
}

/** A body says how long it is, and the server holds it to that; one without a length is not begun. */
const boundedBody = createMiddleware<AppEnv>(async (c, next) => {
  if (c.req.header("transfer-encoding") !== undefined) {
    throw new RelayError("LENGTH_REQUIRED", "send the body with its Content-Length");
  }
  if (Number(c.req.header("content-length") ?? "0") > BODY_BYTES_MAX) {
    throw new RelayError("BODY_TOO_LARGE", `a body has at most ${BODY_BYTES_MAX} bytes`);
  }
  await next();
});

/** A body of another type is refused before anybody reads it. */
const jsonOnly = createMiddleware<AppEnv>(async (c, next) => {
  const { method } = c.req;
  if (method !== "GET" && method !== "HEAD") {
    const contentType = c.req.header("content-type");
    const mediaType = contentType?.split(";")[0]?.trim().toLowerCase();
    const hasBody = contentType !== undefined || Number(c.req.header("content-length") ?? "0") > 0;
    if (hasBody && mediaType !== "application/json") {
      throw new RelayError("MEDIA_TYPE_UNSUPPORTED", "send application/json");
    }
  }
  await next();
});
