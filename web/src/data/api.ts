/**
 * The relay's API, as the page's sign-in.
 *
 * The browser holds the sign-in in a cookie that scripts cannot read. Addresses are relative: the page works
 * under any path.
 *
 * @module
 */
import type { ProblemBody, SessionBody } from "../../../relay/app.ts";

export class ApiProblem extends Error {
  override readonly name = "ApiProblem";
  readonly status: number;
  readonly body: Partial<ProblemBody>;

  constructor(status: number, body: Partial<ProblemBody>) {
    super(body.detail ?? `the relay answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** Echoed in what changes something: another site's page does not know it. */
let csrfToken = "";

export function setCsrfToken(token: string): void {
  csrfToken = token;
}

async function send(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (init.method !== undefined && init.method !== "GET") headers.set("x-csrf-token", csrfToken);
  const response = await fetch(path, {
    ...init,
    headers,
    cache: "no-store",
    credentials: "same-origin",
  });
  if (response.ok) return response;
  // A proxy in between answers in words of its own.
  const problem: Partial<ProblemBody> = await response.json().catch(() => ({}));
  throw new ApiProblem(response.status, problem);
}

export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await send(path, signal === undefined ? {} : { signal });
  return response.json();
}

export async function askBytes(path: string, signal: AbortSignal): Promise<Uint8Array> {
  return new Uint8Array(await (await send(path, { signal })).arrayBuffer());
}

export async function change<T>(
  method: "POST" | "PATCH" | "PUT" | "DELETE",
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<T> {
  const response = await send(path, {
    method,
    headers: { ...headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return response.status === 204 ? (undefined as T) : response.json();
}

export async function act(
  id: string,
  action: string,
  reason = "asked for in the dashboard",
): Promise<SessionBody> {
  return await change("POST", `v1/sessions/${id}:${action}`, { reason });
}

export interface Follower {
  onSnapshot(sessions: readonly SessionBody[]): void;
  onSession(session: SessionBody): void;
  onGone(id: string): void;
  /** `undefined` when what is shown is up to date. */
  onStale(since: Date | undefined): void;
  /** The sign-in is not good, or no longer. */
  onRefused(problem: string): void;
}

const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 10_000;
/** The relay says something every 10 s: after this much silence the connection is dead. */
const SILENCE_MS = 25_000;

/** Follows all sessions until `signal` is aborted, through losses of the connection. */
export async function follow(follower: Follower, signal: AbortSignal): Promise<void> {
  let heardAt = new Date();
  for (let retryMs = RETRY_MS_MIN; !signal.aborted;) {
    const silence = new AbortController();
    let timer = 0;
    const heard = (): void => {
      window.clearTimeout(timer);
      timer = window.setTimeout(() => silence.abort(), SILENCE_MS);
      heardAt = new Date();
    };
    try {
      heard();
      const response = await send("v1/events", {
        signal: AbortSignal.any([signal, silence.signal]),
      });
      for await (const { event, data } of messages(response, heard)) {
        if (event === "snapshot") {
          const snapshot: { sessions: SessionBody[] } = JSON.parse(data);
          follower.onSnapshot(snapshot.sessions);
          follower.onStale(undefined);
          retryMs = RETRY_MS_MIN;
        } else if (event === "session") {
          follower.onSession(JSON.parse(data));
        }
      }
    } catch (error) {
      if (error instanceof ApiProblem && (error.status === 401 || error.status === 403)) {
        follower.onRefused(error.message);
        return;
      }
      // Any other loss is waited out below.
    } finally {
      window.clearTimeout(timer);
    }
    if (signal.aborted) return;
    follower.onStale(heardAt);
    await new Promise((resolve) => window.setTimeout(resolve, retryMs));
    retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
  }
}

async function* messages(
  response: Response,
  heard: () => void,
): AsyncGenerator<{ event: string; data: string }> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (reader !== undefined) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name: string): string | undefined =>
        lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const event = field("event");
      if (event !== undefined) yield { event, data: field("data") ?? "null" };
    }
  }
}
