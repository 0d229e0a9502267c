/**
 * Signing in at the console with an API key, and out again; and who one is.
 *
 * @module
 */
import { createRoute, OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import { setCookie } from "hono/cookie";

import type { Principal } from "../db/api-keys.ts";
import type { Database } from "../db/database.ts";
import { projectName } from "../db/projects.ts";
import type { SignIn, SignIns } from "../db/sign-ins.ts";
import { RelayError } from "../errors.ts";
import { actorOf } from "./actor.ts";
import { cookieName, csrfToken, type Auth } from "./auth.ts";
import { isSecure, type AppEnv } from "./env.ts";
import { refuseInvalid } from "./refuse-invalid.ts";
import { denied, json, problem, refusedBody, security } from "./route-parts.ts";
import { signInSchema, whoamiSchema } from "./schemas/identity.ts";
import type { z } from "@hono/zod-openapi";

const signInRoute = createRoute({
  method: "post",
  path: "/sign-in",
  operationId: "signIn",
  summary: "Get a cookie for an API key",
  description:
    "For the console. The cookie is HttpOnly, SameSite=Strict, and over TLS Secure; it ends after 12 hours and with the key.",
  request: {
    body: { required: true, content: { "application/json": { schema: signInSchema } } },
  },
  responses: {
    200: json("Signed in.", whoamiSchema),
    ...refusedBody,
    401: problem("The API key is not good."),
    403: problem("The request comes from another site."),
    429: problem("A limit was met; `Retry-After` says when to ask again."),
    503: problem("The database does not answer, or the relay is going down."),
  },
});

const signOutRoute = createRoute({
  method: "post",
  path: "/sign-out",
  operationId: "signOut",
  summary: "End the cookie that is sent",
  security,
  responses: { 204: { description: "Signed out." }, ...refusedBody, ...denied },
});

const whoamiRoute = createRoute({
  method: "get",
  path: "/whoami",
  operationId: "whoami",
  summary: "Show whose the API key or cookie is",
  security,
  responses: { 200: json("You.", whoamiSchema), ...denied },
});

export interface SignInRoutesOptions {
  readonly database: Database;
  readonly signIns: SignIns;
  readonly auth: Auth;
}

/** The one route that needs no key yet. */
export function signInRoutes(options: SignInRoutesOptions): OpenAPIHono<AppEnv> {
  const { database, signIns, auth } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
  app.openapi(signInRoute, async (c) => {
    const principal = await auth.signIn(c, c.req.valid("json").key);
    c.set("principal", principal);
    const { token, ...signIn } = await signIns.begin(principal.keyId, actorOf(c));
    putCookie(c, token, Math.floor((signIn.expiresAt.getTime() - Date.now()) / 1000));
    return c.json(await whoami(database, principal, { signIn, token }), 200);
  });
  return app;
}

export function whoamiRoutes(options: Omit<SignInRoutesOptions, "auth">): OpenAPIHono<AppEnv> {
  const { database, signIns } = options;
  const app = new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });

  app.openapi(signOutRoute, async (c) => {
    const { signIn } = c.get("credential");
    if (signIn === undefined) c.set("unchanged", true);
    else await signIns.end(signIn.id, actorOf(c));
    putCookie(c, "", 0);
    return c.body(null, 204);
  });

  app.openapi(whoamiRoute, async (c) => {
    const { signIn, secret } = c.get("credential");
    const cookie = signIn === undefined ? undefined : { signIn, token: secret };
    return c.json(await whoami(database, c.get("principal"), cookie), 200);
  });

  return app;
}

function putCookie(c: Context<AppEnv>, token: string, maxAge: number): void {
  setCookie(c, cookieName(c), token, {
    httpOnly: true,
    secure: isSecure(c),
    sameSite: "Strict",
    path: "/",
    maxAge,
  });
}

async function whoami(
  database: Database,
  { keyId, projectId, prefix, scopes }: Principal,
  cookie: { readonly signIn: SignIn; readonly token: string } | undefined,
): Promise<z.infer<typeof whoamiSchema>> {
  const name = await projectName(database, projectId);
  if (name === undefined) {
    throw new RelayError("UNAUTHENTICATED", "the project of this API key is gone");
  }
  return {
    project: { id: projectId, name },
    key: { id: keyId, prefix, scopes: [...scopes] },
    signIn:
      cookie === undefined
        ? null
        : {
            expiresAt: cookie.signIn.expiresAt.toISOString(),
            csrfToken: csrfToken(cookie.token),
          },
  };
}
