/**
 * What a request carries with it through the handlers.
 *
 * @module
 */
import type { IncomingMessage } from "node:http";

import type { Context } from "hono";

import type { Principal } from "../db/api-keys.ts";
import type { Actor } from "../db/audit.ts";
import type { SignIn } from "../db/sign-ins.ts";

/** What a request was let in by. */
export interface Credential {
  readonly kind: "key" | "cookie";
  /** As it came; neither logged nor stored. */
  readonly secret: string;
  /** Of a cookie. */
  readonly signIn?: SignIn;
}

export interface AppEnv {
  Bindings: {
    /** Node's request, where there is a socket; absent when a test calls the app. */
    readonly incoming?: IncomingMessage;
  };
  Variables: {
    requestId: string;
    /** Set by `authenticate`. */
    principal: Principal;
    /** Set by `authenticate`. */
    credential: Credential;
    /** Whether it would still be let in; for answers that go on for long. Set by `authenticate`. */
    stillAllowed: () => Promise<boolean>;
    /** What `actorOf` gave out: whether one of them is in the audit log. */
    actors?: readonly Actor[];
    /** Set by a handler that found nothing to do. */
    unchanged?: boolean;
  };
}

/** An IPv4 address in IPv6 clothing is one address, not two. */
export function remoteAddressOf(c: Context<AppEnv>): string {
  // Without a server there are no bindings at all, whatever the type says.
  const bindings: AppEnv["Bindings"] | undefined = c.env;
  const address = bindings?.incoming?.socket.remoteAddress ?? "unknown";
  return address.replace(/^::ffff:(?=\d+\.)/i, "");
}

/** Whether it came over TLS, also if a proxy on this host took that off. */
export function isSecure(c: Context<AppEnv>): boolean {
  const bindings: AppEnv["Bindings"] | undefined = c.env;
  const socket = bindings?.incoming?.socket;
  if (socket !== undefined && "encrypted" in socket && socket.encrypted === true) return true;
  return c.req.header("x-forwarded-proto") === "https";
}
