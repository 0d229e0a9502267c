/**
 * A token for address discovery, for who has no session: `memferry doctor`.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";

import { toBase64Url } from "../protocol/bytes.ts";
import { parseIpAddress } from "../protocol/ip-address.ts";
import { RelayError } from "../errors.ts";
import { networkOf } from "../transport/discovery.ts";
import { remoteAddressOf, type AppEnv } from "./env.ts";
import { RateLimit } from "./rate-limit.ts";
import { discoverySchema, problemSchema } from "./schemas.ts";

/** Tokens for one network. */
const TOKENS_PER_S = 0.2;
const TOKENS_BURST = 20;
const NETWORKS_MAX = 10_000;

/** What the API asks of the UDP ports. */
export interface OpenDiscovery {
  readonly ports: readonly [number, number];
  lend(): Uint8Array;
}

export interface DiscoveryRouteOptions {
  readonly discovery: OpenDiscovery | undefined;
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
  const { discovery, clock } = options;
  const limit = new RateLimit({
    perSecond: TOKENS_PER_S,
    burst: TOKENS_BURST,
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
    const address = parseIpAddress(remoteAddressOf(c));
    const waitS = limit.take(address === undefined ? "unknown" : networkOf(address));
    if (waitS > 0) {
      throw new RelayError("RATE_LIMITED", "too many requests: slow down", {
        details: { limitName: "discoveryTokens", retryAfterS: Math.ceil(waitS) },
      });
    }
    const ports: [number, number] = [...discovery.ports];
    return c.json({ token: toBase64Url(discovery.lend()), ports }, 200);
  });
  return app;
}
