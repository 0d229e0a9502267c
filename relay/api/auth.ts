/**
 * Who may ask, and how often.
 *
 * @module
 */
import { createMiddleware } from "hono/factory";

import type { ApiKeys } from "../db/api-keys.ts";
import type { ApiScope } from "../db/schema.ts";
import { RelayError } from "../errors.ts";
import type { Metrics } from "../metrics.ts";
import type { AppEnv } from "./env.ts";
import { remoteAddressOf } from "./env.ts";
import { RateLimit } from "./rate-limit.ts";

/** A console polls little and a fleet's orchestrator much: this is a bound against loops gone wild. */
const REQUESTS_PER_S = 100;
const REQUESTS_BURST = 300;
/** Wrong keys from one address. A key has 256 bits: this is to keep the log and the database quiet. */
const FAILURES_PER_S = 0.5;
const FAILURES_BURST = 20;
const KEYS_MAX = 10_000;

export interface AuthOptions {
  readonly apiKeys: ApiKeys;
  readonly metrics: Metrics;
  readonly clock: () => number;
}

/** Lets a request through if its key is good, and leaves the key's holder in `principal`. */
export function authenticate({ apiKeys, metrics, clock }: AuthOptions) {
  const requests = new RateLimit({
    perSecond: REQUESTS_PER_S,
    burst: REQUESTS_BURST,
    keysMax: KEYS_MAX,
    clock,
  });
  const failures = new RateLimit({
    perSecond: FAILURES_PER_S,
    burst: FAILURES_BURST,
    keysMax: KEYS_MAX,
    clock,
  });
  const throttle = (limitName: string, retryAfterS: number): void => {
    if (retryAfterS <= 0) return;
    metrics.countThrottled(limitName);
    throw new RelayError("RATE_LIMITED", "too many requests: slow down", {
      details: { limitName, retryAfterS: Math.ceil(retryAfterS) },
    });
  };
  return createMiddleware<AppEnv>(async (c, next) => {
    const address = remoteAddressOf(c);
    throttle("failedLogins", failures.waitS(address));
    const header = c.req.header("authorization") ?? "";
    const [, key] = /^bearer +(\S+)$/i.exec(header) ?? [];
    const principal = key === undefined ? undefined : await apiKeys.authenticate(key);
    if (key === undefined || principal === undefined) {
      failures.take(address);
      throw new RelayError(
        "UNAUTHENTICATED",
        key === undefined
          ? "send an API key: `Authorization: Bearer mfk_...`"
          : "this API key is unknown, expired or revoked",
      );
    }
    throttle("requests", requests.take(principal.keyId));
    c.set("principal", principal);
    c.set("credential", { kind: "key", secret: key });
    await next();
  });
}

/** `admin` is good for everything. */
export function requireScope(scope: ApiScope) {
  return createMiddleware<AppEnv>(async (c, next) => {
    const { scopes } = c.get("principal");
    if (!scopes.includes(scope) && !scopes.includes("admin")) {
      throw new RelayError("SCOPE_MISSING", `this API key lacks the scope ${scope}`, {
        details: { scope },
      });
    }
    await next();
  });
}
