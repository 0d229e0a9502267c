/**
 * The relay's API: requests with the key, and the stream of sessions.
 *
 * @module
 */
import type { ProblemBody, SessionAction, SessionBody } from "../../relay/app.ts";

export class ApiProblem extends Error {
  readonly status: number;

  constructor(status: number, detail: string) {
    super(detail);
    this.status = status;
  }
}

async function ask(key: string, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${key}`);
  const response = await fetch(path, { ...init, headers, cache: "no-store" });
  if (response.ok) return response;
  // A proxy in between answers in words of its own.
  const problem: Partial<ProblemBody> = await response.json().catch(() => ({}));
  throw new ApiProblem(response.status, problem.detail ?? `the relay answered ${response.status}`);
}

export async function act(key: string, id: string, action: SessionAction): Promise<SessionBody> {
  const response = await ask(key, `/v1/sessions/${id}:${action}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ reason: "asked for in the console" }),
  });
  return response.json();
}

export interface Follower {
  onSnapshot(sessions: readonly SessionBody[]): void;
  onSession(session: SessionBody): void;
  /** `undefined` when what is shown is up to date. */
  onStale(since: Date | undefined): void;
  /** The key is not good, or no longer. */
  onRefused(problem: ApiProblem): void;
}

const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 10_000;
/** The relay says something every 10 s: after this much silence the connection is dead. */
const SILENCE_MS = 25_000;

/** Follows all sessions until `signal` is aborted, through losses of the connection. */
export async function follow(key: string, follower: Follower, signal: AbortSignal): Promise<void> {
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
      const response = await ask(key, "/v1/events", {
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
        follower.onRefused(error);
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
