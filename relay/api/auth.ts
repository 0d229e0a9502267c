/**
 * Who may ask, and how often.
 *
 * A request is let in by an API key in `Authorization`, or by the cookie that the console got for one. A browser sends a
 * cookie whoever made it ask, so a request with one must come from a page of the relay itself, and one that changes
 * something must bring a token that only such a page can read.
 *
 * @module
 */
import { createHmac, timingSafeEqual } from "node:crypto";

import type { Context } from "hono";
import { getCookie } from "hono/cookie";
import { createMiddleware } from "hono/factory";

import type { ApiKeys, Principal } from "../db/api-keys.ts";
import type { ApiScope } from "../db/schema.ts";
import type { SignIns } from "../db/sign-ins.ts";
import { RelayError } from "../errors.ts";
import { limitError, type RelayLimits } from "../limits.ts";
import { isOwnOrigin } from "../transport/origin.ts";
import { prefixOf } from "../transport/prefix.ts";
import { isSecure, remoteAddressOf, type AppEnv, type Credential } from "./env.ts";
import { RateLimit } from "./rate-limit.ts";

/** Keys and networks that are counted; beyond that the ones idle for longest are forgotten. */
const KEYS_MAX = 10_000;

export const CSRF_HEADER = "x-csrf-token";

/** The prefix makes a browser refuse it from anybody but this host, over TLS. */
export function cookieName(c: Context<AppEnv>): string {
  return isSecure(c) ? "__Host-memferry" : "memferry";
}

/** What a page that is signed in sends along with every change. */
export function csrfToken(cookie: string): string {
  return createHmac("sha256", cookie).update("memferry csrf token").digest("base64url");
}

export interface AuthOptions {
  readonly apiKeys: ApiKeys;
  readonly signIns: SignIns;
  readonly limits: RelayLimits;
  /** Milliseconds, monotone. */
  readonly clock: () => number;
}

interface Holder {
  readonly principal: Principal;
  readonly credential: Credential;
  readonly stillAllowed: () => Promise<boolean>;
}

export interface Auth {
  /** Lets a request through that has a good key or cookie, and leaves whose it is in `principal`. */
  readonly authenticate: ReturnType<typeof createMiddleware<AppEnv>>;
  /**
   * The holder of a key that was typed into the console.
   *
   * @throws RelayError `UNAUTHENTICATED`, `RATE_LIMITED`
   */
  signIn(c: Context<AppEnv>, key: string): Promise<Principal>;
}

export function createAuth({ apiKeys, signIns, limits, clock }: AuthOptions): Auth {
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

  const byKey = async (key: string): Promise<Holder | undefined> => {
    const principal = await apiKeys.authenticate(key);
    if (principal === undefined) return undefined;
    return {
      principal,
      credential: { kind: "key", secret: key },
      stillAllowed: () => apiKeys.isValid(principal.keyId),
    };
  };

  const byCookie = async (c: Context<AppEnv>, token: string): Promise<Holder | undefined> => {
    const found = await signIns.authenticate(token);
    if (found === undefined) return undefined;
    requireSameOrigin(c);
    if (!isSafe(c.req.method)) requireCsrfToken(c, token);
    const { principal, signIn } = found;
    return {
      principal,
      credential: { kind: "cookie", secret: token, signIn },
      stillAllowed: () => signIns.isValid(signIn.id),
    };
  };

  return {
    authenticate: createMiddleware<AppEnv>(async (c, next) => {
      const prefix = prefixOf(remoteAddressOf(c));
      throttle("failedLoginsPerPrefix", failures.waitS(prefix));
      const header = c.req.header("authorization");
      const [, key] = /^bearer +(\S+)$/i.exec(header ?? "") ?? [];
      // A header that is wrong is not made good by a cookie.
      const cookie = header === undefined ? getCookie(c, cookieName(c)) : undefined;
      const holder =
        key !== undefined
          ? await byKey(key)
          : cookie !== undefined
            ? await byCookie(c, cookie)
            : undefined;
      if (holder === undefined) {
        failures.take(prefix);
        throw new RelayError(
          "UNAUTHENTICATED",
          key !== undefined
            ? "this API key is unknown, expired or revoked"
            : cookie !== undefined
              ? "the sign-in is over: sign in again"
              : "send an API key: `Authorization: Bearer mfk_...`",
        );
      }
      throttle("requests", requests.take(holder.principal.keyId));
      c.set("principal", holder.principal);
      c.set("credential", holder.credential);
      c.set("stillAllowed", holder.stillAllowed);
      await next();
    }),

    async signIn(c, key) {
      const prefix = prefixOf(remoteAddressOf(c));
      throttle("failedLoginsPerPrefix", failures.waitS(prefix));
      requireSameOrigin(c);
      const principal = await apiKeys.authenticate(key);
      if (principal === undefined) {
        failures.take(prefix);
        throw new RelayError("UNAUTHENTICATED", "this API key is unknown, expired or revoked");
      }
      throttle("requests", requests.take(principal.keyId));
      return principal;
    },
  };
}

/** What a key with these scopes may do. */
export function allows(scopes: readonly ApiScope[], scope: ApiScope): boolean {
  return (
    scopes.includes(scope) ||
    scopes.includes("operator") ||
    (scopes.includes("admin") && scope !== "operator")
  );
}

/** `admin` is good for everything in its project, `operator` for everything. */
export function requireScope(scope: ApiScope) {
  return createMiddleware<AppEnv>(async (c, next) => {
    mustHaveScope(c, scope);
    await next();
  });
}

/** @throws RelayError `SCOPE_MISSING` */
export function mustHaveScope(c: Context<AppEnv>, scope: ApiScope): void {
  if (allows(c.get("principal").scopes, scope)) return;
  throw new RelayError("SCOPE_MISSING", `this API key lacks the scope ${scope}`, {
    details: { scope },
  });
}

function isSafe(method: string): boolean {
  return method === "GET" || method === "HEAD" || method === "OPTIONS";
}

/**
 * Browsers say where a request comes from: all of today's by `Sec-Fetch-Site`, older ones by `Origin`, at least with
 * what is not safe.
 *
 * @throws RelayError `CROSS_SITE_REQUEST`
 */
function requireSameOrigin(c: Context<AppEnv>): void {
  const site = c.req.header("sec-fetch-site");
  const origin = c.req.header("origin");
  const safe = isSafe(c.req.method);
  // `none`: typed into the address bar.
  const siteIsOurs =
    site === undefined ? undefined : site === "same-origin" || (safe && site === "none");
  const originIsOurs = origin === undefined ? undefined : isOwnOrigin(origin, c.req.header("host"));
  if (siteIsOurs === false || originIsOurs === false) throw crossSite();
  if (siteIsOurs === undefined && originIsOurs === undefined && !safe) throw crossSite();
}

function crossSite(): RelayError {
  return new RelayError(
    "CROSS_SITE_REQUEST",
    "with a cookie, requests must come from the relay's own pages: elsewhere use an API key",
  );
}

function requireCsrfToken(c: Context<AppEnv>, cookie: string): void {
  const given = new TextEncoder().encode(c.req.header(CSRF_HEADER) ?? "");
  const due = new TextEncoder().encode(csrfToken(cookie));
  if (given.length === due.length && timingSafeEqual(given, due)) return;
  throw new RelayError(
    "CROSS_SITE_REQUEST",
    `send the header ${CSRF_HEADER}: \`csrfToken\` of GET /v1/whoami`,
  );
}
