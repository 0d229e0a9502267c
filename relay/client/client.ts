/**
 * The relay's REST API as functions, for programs on Node, on Deno and in browsers.
 *
 * @module
 */
import { ApiProblem, RelayUnreachable } from "./errors.ts";
import { eventsOf } from "./event-source.ts";
import { ROUTES, type OperationName, type Operations } from "./operations.ts";

export interface ClientOptions {
  /** `https://relay.example:8443`; in the console's own page the empty text. */
  readonly url: string;
  /** `mfk_…`; without one the browser's cookie is sent. */
  readonly key?: string;
  /** With a cookie: what `/v1/whoami` gave, asked each time. */
  readonly csrfToken?: () => string | undefined;
  /** Default: the runtime's. One that knows a certificate by its hash, for relays that signed their own. */
  readonly fetch?: typeof fetch;
  /** How often what may be asked again is: when the relay cannot be reached, is busy, or holds back. Default 3. */
  readonly retries?: number;
  /** How long one answer may take, milliseconds. Default 30,000. */
  readonly timeoutMs?: number;
}

type IdOf<Op> = Op extends { id: true } ? { readonly id: string } : unknown;
type QueryOf<Op> = Op extends { query: infer Names extends string }
  ? { readonly query?: Readonly<Partial<Record<Names, QueryValue>>> }
  : unknown;
type BodyOf<Op> = Op extends { body: infer Body }
  ? Partial<Record<never, never>> extends Body
    ? { readonly body?: Body }
    : { readonly body: Body }
  : unknown;
type QueryValue = string | number | boolean | readonly string[] | undefined;

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** The `version` that was seen: the change is refused if it is another one by now. */
  readonly ifMatch?: number;
  /** Requests with the same key are carried out once. Default: a new one for each call. */
  readonly idempotencyKey?: string;
  /** Of a manifest: `bytes=0-1023`. */
  readonly range?: string;
}

export type CallArguments<Name extends OperationName> = IdOf<Operations[Name]> &
  QueryOf<Operations[Name]> &
  BodyOf<Operations[Name]> &
  CallOptions;

type Call<Name extends OperationName> =
  Partial<Record<never, never>> extends CallArguments<Name>
    ? (given?: CallArguments<Name>) => Promise<Operations[Name]["answer"]>
    : (given: CallArguments<Name>) => Promise<Operations[Name]["answer"]>;

/** Lists that come in pages. */
type Paged = {
  [Name in OperationName]: Operations[Name]["answer"] extends { nextCursor: string | null }
    ? Name
    : never;
}[OperationName];
type ItemOf<Page> = {
  [Field in keyof Page]: Page[Field] extends readonly (infer Item)[] ? Item : never;
}[keyof Page];

export interface RelayEvent {
  /** `snapshot`, `session`, `event`, … */
  readonly type: string;
  readonly id: string | undefined;
  readonly data: unknown;
}

export interface EventOptions {
  /** What `GET /v1/events` takes. */
  readonly query?: Readonly<Record<string, QueryValue>>;
  readonly signal?: AbortSignal;
  /** Where to go on. */
  readonly after?: string;
  /** It broke, and is tried again. */
  readonly onBreak?: (error: unknown) => void;
}

export type Client = { readonly [Name in OperationName]: Call<Name> } & {
  /** All items of a list, page after page. */
  all<Name extends Paged>(
    name: Name,
    given?: Omit<CallArguments<Name>, "idempotencyKey">,
  ): AsyncIterableIterator<ItemOf<Operations[Name]["answer"]>>;
  /**
   * What changes, as it changes, from now on or from `after` on. Goes on by itself after a broken connection, where it
   * stopped; the relay says `gap` if something is missing. Ends when its signal is aborted.
   */
  events(options?: EventOptions): AsyncIterableIterator<RelayEvent>;
};

interface Given extends CallOptions {
  readonly id?: string;
  readonly query?: Readonly<Record<string, QueryValue>>;
  readonly body?: unknown;
}

const TIMEOUT_MS = 30_000;
const RETRIES = 3;
const FIRST_DELAY_MS = 200;
const DELAY_MAX_MS = 30_000;

/**
 * ```ts
 * const relay = createClient({ url: "https://relay.example:8443", key });
 * for await (const session of relay.all("listSessions", { query: { state: "precopy" } })) {
 *   await relay.finalizeSession({ id: session.id });
 * }
 * ```
 *
 * Every call throws `ApiProblem` for what the relay refuses, and `RelayUnreachable` if it cannot be asked.
 */
export function createClient(options: ClientOptions): Client {
  const asking = new Asking(options);
  const calls = Object.fromEntries(
    Object.keys(ROUTES).map((name) => [
      name,
      // The keys of ROUTES are the names of all operations.
      async (given: Given = {}) => await asking.call(name as OperationName, given),
    ]),
  );
  return {
    ...calls,
    all: (name: OperationName, given: Given = {}) => asking.all(name, given),
    events: (given: EventOptions = {}) => asking.events(given),
    // Each function checks nothing: its types do.
  } as unknown as Client;
}

class Asking {
  readonly #options: ClientOptions;
  readonly #base: string;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#base = options.url.replace(/\/+$/, "");
  }

  async call(name: OperationName, given: Given): Promise<unknown> {
    const [method = "GET", path = ""] = ROUTES[name].split(" ");
    const response = await this.#patiently(method, pathOf(path, given), given);
    if (response.status === 204) return undefined;
    const type = response.headers.get("content-type") ?? "";
    return type.startsWith("application/json")
      ? await response.json()
      : new Uint8Array(await response.arrayBuffer());
  }

  async *all(name: OperationName, given: Given): AsyncIterableIterator<unknown> {
    let cursor: string | undefined;
    do {
      const query = { ...given.query, ...(cursor === undefined ? {} : { cursor }) };
      const page: unknown = await this.call(name, { ...given, query });
      if (typeof page !== "object" || page === null) return;
      const items: unknown = Object.values(page).find((value) => Array.isArray(value));
      if (Array.isArray(items)) yield* items;
      cursor =
        "nextCursor" in page && typeof page.nextCursor === "string" ? page.nextCursor : undefined;
    } while (cursor !== undefined);
  }

  async *events({
    query = {},
    signal,
    after,
    onBreak,
  }: EventOptions): AsyncIterableIterator<RelayEvent> {
    let last = after;
    for (let delayMs = FIRST_DELAY_MS; ; delayMs = Math.min(delayMs * 2, DELAY_MAX_MS)) {
      try {
        const response = await this.#ask("GET", pathOf("/v1/events", { query }), {
          ...(signal === undefined ? {} : { signal }),
          headers: {
            accept: "text/event-stream",
            ...(last === undefined ? {} : { "last-event-id": last }),
          },
          endless: true,
        });
        if (response.body === null) throw new RelayUnreachable("the relay sent no events");
        for await (const { type, id, data } of eventsOf(response.body, signal)) {
          last = id ?? last;
          delayMs = FIRST_DELAY_MS;
          yield { type, id, data: JSON.parse(data) as unknown };
        }
      } catch (error) {
        if (signal?.aborted === true) return;
        if (error instanceof ApiProblem && !isPassing(error)) throw error;
        onBreak?.(error);
      }
      if (signal?.aborted === true) return;
      await wait(delayMs * (0.5 + Math.random() / 2), signal);
    }
  }

  /** Asks again what may be asked again. */
  async #patiently(method: string, path: string, given: Given): Promise<Response> {
    const { retries = RETRIES } = this.#options;
    const { signal, body } = given;
    const headers: Record<string, string> = {
      accept:
        "application/json, application/problem+json, application/octet-stream, application/gzip",
      ...(given.ifMatch === undefined ? {} : { "if-match": `"${given.ifMatch}"` }),
      ...(given.range === undefined ? {} : { range: given.range }),
      // So that an answer that was lost may be asked for again.
      ...(method === "POST"
        ? { "idempotency-key": given.idempotencyKey ?? crypto.randomUUID() }
        : {}),
    };
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#ask(method, path, {
          headers,
          ...(body === undefined && method !== "POST" ? {} : { body: JSON.stringify(body ?? {}) }),
          ...(signal === undefined ? {} : { signal }),
        });
      } catch (error) {
        // A change without a key of its own may have been made although its answer was lost.
        const again = method === "GET" || method === "POST" || error instanceof ApiProblem;
        if (signal?.aborted === true || attempt >= retries || !again || !isPassing(error))
          throw error;
        const told = error instanceof ApiProblem ? error.retryAfterMs : undefined;
        const delayMs = told ?? FIRST_DELAY_MS * 2 ** attempt * (0.5 + Math.random() / 2);
        await wait(Math.min(delayMs, DELAY_MAX_MS), signal);
      }
    }
  }

  async #ask(
    method: string,
    path: string,
    given: {
      readonly headers: Readonly<Record<string, string>>;
      readonly body?: string;
      readonly signal?: AbortSignal;
      readonly endless?: boolean;
    },
  ): Promise<Response> {
    const { key, csrfToken, timeoutMs = TIMEOUT_MS } = this.#options;
    const limit = given.endless === true ? [] : [AbortSignal.timeout(timeoutMs)];
    const csrf = key === undefined && method !== "GET" ? csrfToken?.() : undefined;
    let response: Response;
    try {
      response = await (this.#options.fetch ?? fetch)(`${this.#base}${path}`, {
        method,
        redirect: "error",
        credentials: key === undefined ? "same-origin" : "omit",
        headers: {
          ...given.headers,
          ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
          ...(csrf === undefined ? {} : { "x-csrf-token": csrf }),
          ...(given.body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(given.body === undefined ? {} : { body: given.body }),
        signal: AbortSignal.any([...limit, ...(given.signal === undefined ? [] : [given.signal])]),
      });
    } catch (cause) {
      given.signal?.throwIfAborted();
      throw new RelayUnreachable(`the relay at ${this.#base || "this address"} cannot be reached`, {
        cause,
      });
    }
    if (response.ok) return response;
    throw await problemOf(response);
  }
}

/** What somebody else may have put there is encoded; `:` of an action is part of the path. */
function pathOf(path: string, { id, query = {} }: Pick<Given, "id" | "query">): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined) search.append(name, String(one));
    }
  }
  const whole = path.replace("{id}", encodeURIComponent(id ?? ""));
  return search.size === 0 ? whole : `${whole}?${search.toString()}`;
}

async function problemOf(response: Response): Promise<Error> {
  const problem: unknown = await response.json().catch(() => undefined);
  if (typeof problem !== "object" || problem === null) {
    return new RelayUnreachable(`what answers there with ${response.status} is no relay`);
  }
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  return new ApiProblem(
    response.status,
    { ...problem },
    Number.isFinite(seconds) ? seconds * 1000 : undefined,
  );
}

function isPassing(error: unknown): boolean {
  if (error instanceof RelayUnreachable) return true;
  return error instanceof ApiProblem && (error.status === 429 || error.status === 503);
}

async function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done, { once: true });
  });
  signal?.throwIfAborted();
}
