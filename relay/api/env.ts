/**
 * What a request carries with it through the handlers.
 *
 * @module
 */
import type { IncomingMessage } from "node:http";

import type { Context } from "hono";

import type { Principal } from "../db/api-keys.ts";

/** What a request was let in by. */
export interface Credential {
  readonly kind: "key";
  /** As it came; neither logged nor stored. */
  readonly secret: string;
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
  };
}

/** An IPv4 address in IPv6 clothing is one address, not two. */
export function remoteAddressOf(c: Context<AppEnv>): string {
  // Without a server there are no bindings at all, whatever the type says.
  const bindings: AppEnv["Bindings"] | undefined = c.env;
  const address = bindings?.incoming?.socket.remoteAddress ?? "unknown";
  return address.replace(/^::ffff:(?=\d+\.)/i, "");
}
