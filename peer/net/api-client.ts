/**
 * The relay's REST API, for the command line.
 *
 * @module
 */
import * as https from "node:https";
import { fromBase64Url } from "../../relay/protocol/bytes.ts";
import { RELAY_IDENTITY_BYTES } from "../../relay/protocol/ids.ts";
import { currentPins, withCurrentPins, type PinnedRelay } from "./relay-pins.ts";
import { routedTcp } from "./proxy.ts";
import { connectPinned, destroyLater } from "./tls.ts";
import { LinkError } from "./errors.ts";
import { connectionError, parseRelayUrl } from "./address.ts";

const RESPONSE_BYTES_MAX = 4 * 1024 * 1024;
const REQUEST_DEADLINE_MS = 15_000;

export interface RelayAccess {
  readonly url: string;
  readonly certificateHashes: readonly Uint8Array[];
  /** Vouches for certificates that came after those. */
  readonly relayIdentity?: Uint8Array | undefined;
  readonly key: string;
}

/** The relay refused: `code` and the message are its own. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export interface CreatedSession {
  readonly id: Uint8Array;
  readonly seederToken: Uint8Array;
  readonly leecherToken: Uint8Array;
  /** What the session's tickets say of the relay: as it is known here, and by which identity it goes on. */
  readonly relay: {
    readonly relayUrl: string;
    readonly certificateHashes: readonly Uint8Array[];
    readonly relayIdentity?: Uint8Array;
  };
}

/** The part of a session's body that the command line shows. */
export interface SessionBody {
  readonly id: string;
  readonly name?: string | null;
  readonly state: string;
  readonly authority?: { readonly holder: string; readonly epoch: number };
  readonly allowedActions?: readonly string[];
  readonly [field: string]: unknown;
}

export class ApiClient {
  readonly #access: RelayAccess;

  constructor(access: RelayAccess) {
    this.#access = access;
  }

  async createSession(request: {
    readonly name: string;
    readonly ticketTtlMs: number;
  }): Promise<CreatedSession> {
    const body = await this.#request("POST", "/v1/sessions", request);
    const id = textAt(body, "session", "id");
    return {
      id: Uint8Array.from(Buffer.from(id.replaceAll("-", ""), "hex")),
      seederToken: fromBase64Url(textAt(body, "tickets", "seeder", "token")),
      leecherToken: fromBase64Url(textAt(body, "tickets", "leecher", "token")),
      relay: this.#relay(body),
    };
  }

  async listSessions(
    query: string,
  ): Promise<{ sessions: SessionBody[]; next: string | undefined }> {
    const body = await this.#request("GET", `/v1/sessions${query}`);
    if (!isRecord(body)) throw unexpected();
    const list = body["items"] ?? body["sessions"];
    if (!Array.isArray(list)) throw unexpected();
    const next = body["nextCursor"];
    return {
      sessions: list.map(asSession),
      next: typeof next === "string" ? next : undefined,
    };
  }

  async getSession(id: string): Promise<SessionBody> {
    return asSession(await this.#request("GET", `/v1/sessions/${encodeURIComponent(id)}`));
  }

  async act(id: string, action: "finalize" | "cancel"): Promise<unknown> {
    return await this.#request("POST", `/v1/sessions/${encodeURIComponent(id)}:${action}`, {});
  }

  /**
   * Any other request. The answer is the relay's JSON, `undefined` if it has none.
   *
   * @throws LinkError, ApiError
   */
  async ask(
    method: "GET" | "POST" | "PATCH" | "DELETE",
    path: string,
    body?: Readonly<Record<string, unknown>>,
  ): Promise<unknown> {
    return await this.#request(method, path, body);
  }

  #relay(body: unknown): CreatedSession["relay"] {
    const { url: relayUrl } = this.#access;
    const certificateHashes = currentPins(this.#pinned());
    if (certificateHashes.length === 0) return { relayUrl, certificateHashes };
    // Its certificate was checked: what it says of itself is its own.
    const identity = this.#access.relayIdentity ?? identityOf(textAt(body, "relay", "identity"));
    return { relayUrl, certificateHashes, relayIdentity: identity };
  }

  #pinned(): PinnedRelay {
    const { url, certificateHashes, relayIdentity } = this.#access;
    return { address: parseRelayUrl(url), certificateHashes, relayIdentity };
  }

  /** @throws LinkError, ApiError */
  #request(method: string, path: string, body?: unknown): Promise<unknown> {
    const { key } = this.#access;
    const relay = this.#pinned();
    const { address } = relay;
    return new Promise((resolve, reject) => {
      const open: { destroy(): void }[] = [];
      const fail = (error: unknown): void => {
        destroyLater(open);
        reject(error instanceof ApiError ? error : connectionError(address, error));
      };
      withCurrentPins(relay, (certificateHashes) =>
        connectPinned({ address, certificateHashes, connectTcp: routedTcp }, open),
      )
        .then((socket) => {
          const payload = body === undefined ? undefined : JSON.stringify(body);
          const request = https.request({
            method,
            path,
            host: address.host,
            port: address.port,
            // Its certificate is checked: only now is the key sent.
            createConnection: () => socket,
            timeout: REQUEST_DEADLINE_MS,
            headers: {
              host: address.text,
              authorization: `Bearer ${key}`,
              accept: "application/json",
              ...(payload === undefined ? {} : { "content-type": "application/json" }),
            },
          });
          request.once("timeout", () => {
            request.destroy(
              new LinkError("DEADLINE_EXCEEDED", `the relay at ${address.text} does not answer`),
            );
          });
          request.once("error", fail);
          request.once("response", (response) => {
            collect(response)
              .then((text) => resolve(parseResponse(response.statusCode ?? 0, text)))
              .catch(fail)
              .finally(() => destroyLater(open));
          });
          request.end(payload);
        })
        .catch(fail);
    });
  }
}

async function collect(response: AsyncIterable<Buffer>): Promise<string> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of response) {
    length += part.length;
    if (length > RESPONSE_BYTES_MAX) throw unexpected();
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

/** @throws ApiError */
function parseResponse(status: number, text: string): unknown {
  let body: unknown;
  try {
    body = text === "" ? undefined : JSON.parse(text);
  } catch {
    throw unexpected();
  }
  if (status >= 200 && status < 300) return body;
  const field = (name: string): string | undefined => {
    const value = isRecord(body) ? body[name] : undefined;
    return typeof value === "string" ? value : undefined;
  };
  const message = field("detail") ?? field("title") ?? `the relay answered with status ${status}`;
  throw new ApiError(status, field("code") ?? `HTTP_${status}`, apiHint(status, message));
}

function apiHint(status: number, message: string): string {
  if (status === 401)
    return `${message}: set MEMFERRY_KEY, give --key-file, or run \`memferry login\``;
  return message;
}

/** @throws ApiError */
function identityOf(hex: string): Uint8Array {
  const bytes = Uint8Array.from(Buffer.from(hex, "hex"));
  if (bytes.length !== RELAY_IDENTITY_BYTES) throw unexpected();
  return bytes;
}

function textAt(value: unknown, ...path: string[]): string {
  let at = value;
  for (const name of path) at = isRecord(at) ? at[name] : undefined;
  if (typeof at !== "string") throw unexpected();
  return at;
}

function asSession(value: unknown): SessionBody {
  const id = textAt(value, "id");
  const state = textAt(value, "state");
  return { ...(isRecord(value) ? value : {}), id, state };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function unexpected(): ApiError {
  return new ApiError(
    0,
    "RESPONSE_UNEXPECTED",
    "what answers there does not speak the relay's API",
  );
}
