/**
 * Who may ask, and how often.
 *
 * @module
 */
import { createMiddleware } from "hono/factory";

import type { ApiKeys } from "../db/api-keys.ts";
import type { ApiScope } from "../db/schema.ts";
import { RelayError } from "../errors.ts";
import { limitError, type RelayLimits } from "../limits.ts";
import { prefixOf } from "../transport/prefix.ts";
import type { AppEnv } from "./env.ts";
import { remoteAddressOf } from "./env.ts";
import { RateLimit } from "./rate-limit.ts";

/** Keys and networks that are counted; beyond that the ones idle for longest are forgotten. */
const KEYS_MAX = 10_000;

export interface AuthOptions {
  readonly apiKeys: ApiKeys;
  readonly limits: RelayLimits;
  readonly clock: () => number;
}

/** Lets a request through if its key is good, and leaves the key's holder in `principal`. */
export function authenticate({ apiKeys, limits, clock }: AuthOptions) {
  const requests = new RateLimit({
    perSecond: limits.requests,
    burst: limits.requestBurst,
    keysMax: KEYS_MAX,
    clock,
  });
  const failures = new RateLimit({
    perSecond: limits.failedLoginsPerPrefix,
    burst: limits.failedLoginBurstPerPrefix,
    keysMax: KEYS_MAX,
    clock,
  });
  const throttle = (limitName: "requests" | "failedLoginsPerPrefix", retryAfterS: number): void => {
    if (retryAfterS <= 0) return;
    const met = { limitName, limit: limits[limitName], retryAfterS };
    throw limitError("RATE_LIMITED", met, "too many requests: slow down");
  };
  return createMiddleware<AppEnv>(async (c, next) => {
    const prefix = prefixOf(remoteAddressOf(c));
    throttle("failedLoginsPerPrefix", failures.waitS(prefix));
    const header = c.req.header("authorization") ?? "";
    const [, key] = /^bearer +(\S+)$/i.exec(header) ?? [];
    const principal = key === undefined ? undefined : await apiKeys.authenticate(key);
    if (key === undefined || principal === undefined) {
      failures.take(prefix);
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
