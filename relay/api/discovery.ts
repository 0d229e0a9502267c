/**
 * A token for address discovery, for who has no session: `memferry doctor`.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";

import { toBase64Url } from "../protocol/bytes.ts";
import { RelayError } from "../errors.ts";
import { limitError, type RelayLimits } from "../limits.ts";
import { prefixOf } from "../transport/prefix.ts";
import { remoteAddressOf, type AppEnv } from "./env.ts";
import { RateLimit } from "./rate-limit.ts";
import { discoverySchema, problemSchema } from "./schemas.ts";

/** Networks that are counted; beyond that the ones idle for longest are forgotten. */
const NETWORKS_MAX = 10_000;

/** What the API asks of the UDP ports. */
export interface OpenDiscovery {
  readonly ports: readonly [number, number];
  lend(): Uint8Array;
}

export interface DiscoveryRouteOptions {
  readonly discovery: OpenDiscovery | undefined;
  readonly limits: RelayLimits;
  /** Milliseconds, monotone. */
  readonly clock: () => number;
}

const problem = (description: string) => ({
  description,
  content: { "application/problem+json": { schema: problemSchema } },
});

const createDiscovery = createRoute({
  method: "post",
  path: "/discovery",
  operationId: "createDiscoveryToken",
  summary: "Get a token to ask the relay's UDP ports for one's own address",
  description: "Needs no API key. The datagrams are described in relay/protocol/README.md.",
  responses: {
    200: { description: "A token.", content: { "application/json": { schema: discoverySchema } } },
    411: problem("The body has no Content-Length."),
    413: problem("The body is too large."),
    404: problem("This relay does not answer at UDP ports."),
    429: problem("A limit was met; `Retry-After` says when to ask again."),
  },
});

export function discoveryRoutes(options: DiscoveryRouteOptions): OpenAPIHono<AppEnv> {
  const { discovery, limits, clock } = options;
  const limit = new RateLimit({
    perSecond: limits.discoveryTokensPerPrefix,
    burst: limits.discoveryTokenBurstPerPrefix,
    keysMax: NETWORKS_MAX,
    clock,
  });
  const app = new OpenAPIHono<AppEnv>();
  app.openapi(createDiscovery, (c) => {
    if (discovery === undefined) {
      throw new RelayError(
        "NOT_FOUND",
        "address discovery is off at this relay: see --discovery-ports",
      );
    }
    const retryAfterS = limit.take(prefixOf(remoteAddressOf(c)));
    if (retryAfterS > 0) {
      const bound = limits.discoveryTokensPerPrefix;
      const met = { limitName: "discoveryTokensPerPrefix", limit: bound, retryAfterS } as const;
      throw limitError("RATE_LIMITED", met, "too many requests: slow down");
    }
    const ports: [number, number] = [...discovery.ports];
    return c.json({ token: toBase64Url(discovery.lend()), ports }, 200);
  });
  return app;
}
