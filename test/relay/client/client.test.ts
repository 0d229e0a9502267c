/** The typed client, against the relay's own routes. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { eventsOf } from "../../../relay/client/event-source.ts";
import {
  ApiProblem,
  createClient,
  RelayUnreachable,
  type Client,
} from "../../../relay/client/index.ts";
import { ROUTES } from "../../../relay/client/operations.ts";
import { operationsOf } from "../../../relay/api/document.ts";
import { apiDocument } from "../api/api-document.ts";
import { startHarness, type Harness } from "../api/harness.ts";

let harness: Harness;
let relay: Client;
let key: string;

beforeAll(async () => {
  harness = await startHarness();
  ({ key } = await harness.key("client"));
  relay = createClient({ url: "https://relay.test", key, fetch: throughHarness });
});
afterAll(() => harness[Symbol.asyncDispose]());

async function throughHarness(
  input: string | URL | Request,
  init?: RequestInit,
): Promise<Response> {
  harness.advance(1);
  const { pathname, search } = new URL(input instanceof Request ? input.url : input);
  const headers = new Headers(init?.headers);
  if (typeof init?.body === "string")
    headers.set("content-length", String(Buffer.byteLength(init.body)));
  return await harness.app.request(`${pathname}${search}`, { ...init, headers });
}

test("it has every operation of the relay's document, where the document has it", async () => {
  const inDocument = [...operationsOf(await apiDocument(harness))]
    .filter(({ operation }) => operation.operationId !== "streamEvents")
    .map(({ path, method, operation }) => [
      operation.operationId,
      `${method.toUpperCase()} ${path}`,
    ]);
  expect(Object.fromEntries(inDocument)).toEqual(ROUTES);
});

describe("calls", () => {
  test("make, find, change and take away a session", async () => {
    const { session, tickets } = await relay.createSession({ body: { name: "db" } });
    expect(tickets.seeder.token).not.toBe(tickets.leecher.token);
    const changed = await relay.patchSession({
      id: session.id,
      ifMatch: session.version,
      body: { name: "db2" },
    });
    expect(changed.name).toBe("db2");
    const stale = relay.patchSession({
      id: session.id,
      ifMatch: session.version,
      body: { name: "db3" },
    });
    await expect(stale).rejects.toMatchObject({ status: 412, code: "VERSION_CONFLICT" });
    await expect(relay.deleteSession({ id: session.id })).rejects.toBeInstanceOf(ApiProblem);
    expect((await relay.cancelSession({ id: session.id })).state).toBe("cancelled");
    expect(await relay.deleteSession({ id: session.id })).toBeUndefined();
    await expect(relay.getSession({ id: session.id })).rejects.toMatchObject({
      status: 404,
      code: "NOT_FOUND",
    });
  });

  test("a refusal tells what is allowed instead", async () => {
    const { session } = await relay.createSession({ body: {} });
    const refused: unknown = await relay
      .finalizeSession({ id: session.id })
      .catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(ApiProblem);
    expect(refused).toMatchObject({
      status: 409,
      allowedActions: ["pause", "cancel", "rotateTickets", "check"],
    });
  });

  test("no secret is in an error", async () => {
    const stranger = createClient({
      url: "https://relay.test",
      key: "mfk_not-one",
      fetch: throughHarness,
    });
    const refused: unknown = await stranger.whoami().catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 401 });
    expect(JSON.stringify(refused) + String(refused)).not.toContain("mfk_not-one");
  });

  test("an id cannot lead to another route", async () => {
    await expect(relay.getSession({ id: "../keys?x=" })).rejects.toMatchObject({ status: 404 });
  });

  test("all() goes through all pages", async () => {
    const label = { run: "pages" };
    for (let n = 0; n < 5; n++)
      await relay.createSession({ body: { name: `s${n}`, labels: label } });
    const names: string[] = [];
    for await (const { name } of relay.all("listSessions", {
      query: { label: "run=pages", limit: 2 },
    }))
      names.push(name);
    expect(names).toEqual(["s4", "s3", "s2", "s1", "s0"]);
  });

  test("a manifest comes as bytes", async () => {
    const { session } = await relay.createSession({ body: {} });
    await expect(relay.getSessionManifest({ id: session.id })).rejects.toBeInstanceOf(ApiProblem);
  });
});

describe("a relay that is busy", () => {
  const answer = (status: number, headers: Record<string, string> = {}): Response =>
    Response.json({ code: "X", detail: "busy", status }, { status, headers });

  test("is asked again, with the same key, after as long as it says", async () => {
    const seen: (string | null)[] = [];
    const busy = createClient({
      url: "https://relay.test",
      key: "mfk_x",
      fetch: async (_, init) => {
        seen.push(new Headers(init?.headers).get("idempotency-key"));
        return await Promise.resolve(
          seen.length < 3 ? answer(503, { "retry-after": "0" }) : Response.json({ session: {} }),
        );
      },
    });
    await busy.createSession({ body: {} });
    expect(seen).toHaveLength(3);
    expect(new Set(seen).size).toBe(1);
  });

  test("is not asked for ever, and not at all for what may have been done", async () => {
    let asked = 0;
    const options = {
      url: "https://relay.test",
      retries: 2,
      fetch: async () => {
        asked++;
        return await Promise.reject(new TypeError("no route"));
      },
    };
    await expect(createClient(options).whoami()).rejects.toBeInstanceOf(RelayUnreachable);
    expect(asked).toBe(3);
    asked = 0;
    await expect(createClient(options).deleteSession({ id: "x" })).rejects.toBeInstanceOf(
      RelayUnreachable,
    );
    expect(asked).toBe(1);
  });

  test("a refusal is no reason to ask again", async () => {
    let asked = 0;
    const fetch_ = async (): Promise<Response> => {
      asked++;
      return await Promise.resolve(answer(403));
    };
    await expect(
      createClient({ url: "https://relay.test", fetch: fetch_ }).whoami(),
    ).rejects.toMatchObject({ status: 403 });
    expect(asked).toBe(1);
  });

  test("what is no relay is not taken for one", async () => {
    const fetch_ = async (): Promise<Response> =>
      await Promise.resolve(new Response("<html>", { status: 502 }));
    const none = createClient({ url: "https://relay.test", retries: 0, fetch: fetch_ });
    await expect(none.whoami()).rejects.toThrow("is no relay");
  });
});

describe("events", () => {
  test("are the same however the bytes are cut", async () => {
    const event = fc.record({
      type: fc.stringMatching(/^[a-z]{1,8}$/),
      id: fc.option(fc.stringMatching(/^[0-9]{1,6}$/), { nil: undefined }),
      data: fc.array(fc.stringMatching(/^[a-zé "{}]{0,12}$/), { minLength: 1, maxLength: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(event, { maxLength: 6 }),
        fc.constantFrom("\n", "\r\n"),
        fc.array(fc.integer({ min: 1, max: 9 })),
        async (events, end, cuts) => {
          let last: string | undefined;
          const wanted = events.map(({ type, id, data }) => ({
            type,
            id: (last = id ?? last),
            data: data.join("\n"),
          }));
          const text = events
            .map(({ type, id, data }) =>
              [
                `event: ${type}`,
                ...(id === undefined ? [] : [`id: ${id}`]),
                ...data.map((one) => `data: ${one}`),
                ": a comment",
                "",
                "",
              ].join(end),
            )
            .join("");
          const bytes = new TextEncoder().encode(text);
          const parts: Uint8Array[] = [];
          for (let at = 0, k = 0; at < bytes.length; k++) {
            const size = cuts[k] ?? bytes.length;
            parts.push(bytes.subarray(at, at + size));
            at += size;
          }
          const found = [];
          for await (const one of eventsOf(ReadableStream.from(parts))) found.push(one);
          expect(found).toEqual(wanted);
        },
      ),
    );
  });

  test("go on where they stopped after a break", async () => {
    const asked: (string | null)[] = [];
    const ended = new AbortController();
    const bodies = [
      'id: 7\nevent: session\ndata: {"n":1}\n\n',
      'id: 8\nevent: session\ndata: {"n":2}\n\n',
    ];
    const broken = createClient({
      url: "https://relay.test",
      fetch: async (_, init) => {
        asked.push(new Headers(init?.headers).get("last-event-id"));
        return await Promise.resolve(new Response(bodies.shift() ?? ""));
      },
    });
    const found: unknown[] = [];
    for await (const { data } of broken.events({ signal: ended.signal })) {
      found.push(data);
      if (found.length === 2) ended.abort();
    }
    expect(found).toEqual([{ n: 1 }, { n: 2 }]);
    expect(asked.slice(0, 2)).toEqual([null, "7"]);
  });

  test("come from the relay", async () => {
    const ended = new AbortController();
    const types: string[] = [];
    let made = "";
    for await (const event of relay.events({ signal: ended.signal })) {
      types.push(event.type);
      if (event.type === "snapshot")
        made = (await relay.createSession({ body: { name: "seen" } })).session.id;
      if (JSON.stringify(event.data).includes(made) && made !== "") ended.abort();
    }
    expect(types[0]).toBe("snapshot");
    expect(types.length).toBeGreaterThan(1);
  });
});
