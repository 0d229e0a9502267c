/**
 * One request to a webhook's receiver: no redirects, no more than so many bytes and so much time.
 *
 * @module
 */
import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { request as httpsRequest } from "node:https";
import { isIP } from "node:net";

import { ANSWER_BYTES_MAX } from "./limits.ts";

export interface PostOptions {
  readonly url: URL;
  /** The one to connect to; what the name resolves to meanwhile does not matter. */
  readonly address: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Certificates (PEM) that are trusted in place of the system's. */
  readonly ca: string | undefined;
  readonly signal: AbortSignal;
}

/** @returns The status. @throws Error if there is none: connection, certificate, time. */
export async function post(options: PostOptions): Promise<number> {
  const { url, address, headers, body, ca, signal } = options;
  const bytes = Buffer.from(body, "utf8");
  const hostname = url.hostname.replace(/^\[|\]$/g, "");
  const common: RequestOptions = {
    host: address,
    family: isIP(address),
    port: url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port),
    method: "POST",
    path: `${url.pathname}${url.search}`,
    headers: {
      ...headers,
      host: url.host,
      "content-length": String(bytes.length),
      connection: "close",
    },
    // Not one that is kept: the next delivery may go to another address.
    agent: false,
    signal,
  };
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const request =
    url.protocol === "https:"
      ? httpsRequest({
          ...common,
          // A name is what the certificate is for, whatever address it is at.
          ...(isIP(hostname) === 0 ? { servername: hostname } : {}),
          ...(ca === undefined ? {} : { ca }),
        })
      : httpRequest(common);
  request.on("response", resolve);
  request.on("error", reject);
  request.end(bytes);
  const response = await promise;
  await drain(response);
  return response.statusCode ?? 0;
}

/** Reads what is left, up to the bound: who says more is hung up on. */
async function drain(response: IncomingMessage): Promise<void> {
  let left = ANSWER_BYTES_MAX;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  response.on("data", (piece: Uint8Array) => {
    left -= piece.length;
    if (left >= 0) return;
    // Its status was heard; nothing else is of use.
    resolve();
    response.destroy();
  });
  response.on("end", () => resolve());
  response.on("close", () => resolve());
  response.on("error", reject);
  await promise;
}
