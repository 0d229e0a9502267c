// What every resource of the API relies on: requests sent again, versions, pages, and who is named as the actor.
import { Hono } from "hono";
import fc from "fast-check";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";

import { actorOf } from "../../../relay/api/actor.ts";
import { etagOf, requireMatch } from "../../../relay/api/conditional.ts";
import type { AppEnv } from "../../../relay/api/env.ts";
import { problemResponse, toRelayError } from "../../../relay/api/errors.ts";
import {
  numberCursor,
  numberOf,
  pageOf,
  positionCursor,
  positionOf,
  textCursor,
  textPositionOf,
} from "../../../relay/api/pages.ts";
import { createIdempotentRequests } from "../../../relay/db/idempotent-requests.ts";
import { apiKey, idempotentRequest, session } from "../../../relay/db/schema.ts";
import { relayLimits } from "../../../relay/limits.ts";
import { eq, sql } from "drizzle-orm";
import { startHarness, type Harness } from "./harness.ts";

let harness: Harness;
let key: string;
let keyId: string;
let tokens = 0;

beforeAll(async () => {
  harness = await startHarness();
  return () => harness[Symbol.asyncDispose]();
});

beforeEach(async () => {
  ({ key, keyId } = await harness.key("plumbing"));
});

/** A body whose shape the test itself asserts. */
// oxlint-disable-next-line typescript/no-explicit-any -- JSON from outside, looked at field by field
async function json(response: Response): Promise<any> {
  return await response.json();
}

const newToken = (): string => `token-${++tokens}`;

async function post(
  path: string,
  token: string,
  { by = key, body = "{}" }: { by?: string; body?: string } = {},
): Promise<Response> {
  return await harness.app.request(path, {
    method: "POST",
    headers: {
      authorization: `Bearer ${by}`,
      "content-type": "application/json",
      "idempotency-key": token,
    },
    body,
  });
}

const sessionCount = async (name: string): Promise<number> =>
  (await harness.database.run((orm) => orm.select().from(session).where(eq(session.name, name))))
    .length;

describe("idempotency()", () => {
  test("gives the first answer again, tickets and all, and does the work once", async () => {
    const token = newToken();
    const body = JSON.stringify({ name: "once" });
    const first = await post("/v1/sessions", token, { body });
    const again = await post("/v1/sessions", token, { body });
    expect(first.status).toBe(201);
    expect(again.status).toBe(201);
    expect(first.headers.get("idempotency-replayed")).toBeNull();
    expect(again.headers.get("idempotency-replayed")).toBe("true");
    expect(again.headers.get("location")).toBe(first.headers.get("location"));
    expect(again.headers.get("x-request-id")).not.toBe(first.headers.get("x-request-id"));
    expect(await again.text()).toBe(await first.text());
    expect(await sessionCount("once")).toBe(1);
  });

  test("refuses another request under the same key", async () => {
    const token = newToken();
    await post("/v1/sessions", token, { body: '{"name":"one"}' });
    for (const [path, body] of [
      ["/v1/sessions", '{"name":"two"}'],
      ["/v1/sessions", '{ "name":"one"}'],
      ["/v1/sessions?x=1", '{"name":"one"}'],
      [`/v1/sessions/${"0".repeat(32)}:cancel`, '{"name":"one"}'],
    ] as const) {
      const response = await post(path, token, { body });
      expect(response.status).toBe(422);
      expect(await response.json()).toMatchObject({ code: "IDEMPOTENCY_KEY_REUSED" });
    }
    expect(await sessionCount("two")).toBe(0);
  });

  test("does the work once however many ask at the same time", async () => {
    const token = newToken();
    const body = JSON.stringify({ name: "crowd" });
    const responses = await Promise.all(
      Array.from({ length: 8 }, () => post("/v1/sessions", token, { body })),
    );
    const statuses = responses.map((response) => response.status);
    expect(statuses.filter((status) => status === 201).length).toBeGreaterThan(0);
    expect(statuses.every((status) => status === 201 || status === 409)).toBe(true);
    const busy = responses.find((response) => response.status === 409);
    if (busy !== undefined) {
      expect(busy.headers.get("retry-after")).toBe("1");
      expect(await busy.json()).toMatchObject({ code: "IDEMPOTENCY_KEY_IN_USE" });
    }
    expect(await sessionCount("crowd")).toBe(1);
  });

  test("is of one API key: the same token of another one is another request", async () => {
    const token = newToken();
    const { key: other } = await harness.key("plumbing");
    const [first, second] = [
      await json(await post("/v1/sessions", token)),
      await json(await post("/v1/sessions", token, { by: other })),
    ];
    expect(second.session.id).not.toBe(first.session.id);
  });

  test("forgets a request that was refused, since nothing was done", async () => {
    const token = newToken();
    const refused = await post("/v1/sessions", token, { body: '{"name":5}' });
    expect(refused.status).toBe(422);
    expect((await post("/v1/sessions", token, { body: '{"name":"well"}' })).status).toBe(201);
  });

  test("keeps no answer that somebody with the database could read", async () => {
    const token = newToken();
    const { tickets } = await json(await post("/v1/sessions", token));
    const [row] = await harness.database.run((orm) =>
      orm
        .select()
        .from(idempotentRequest)
        .where(eq(idempotentRequest.token, `key:${token}`)),
    );
    const kept = Buffer.from(row?.sealedAnswer ?? []);
    expect(kept.length).toBeGreaterThan(100);
    expect(kept.includes(tickets.seeder.token)).toBe(false);
    expect(kept.includes("tickets")).toBe(false);
  });

  test("answers no 5xx for an answer that was tampered with, but says that it is broken inside", async () => {
    const token = newToken();
    await post("/v1/sessions", token);
    await harness.database.run((orm) =>
      orm
        .update(idempotentRequest)
        .set({ sealedAnswer: new Uint8Array(200) })
        .where(eq(idempotentRequest.token, `key:${token}`)),
    );
    const response = await post("/v1/sessions", token);
    expect(await response.json()).toMatchObject({ code: "INTERNAL" });
  });

  test("refuses a header that is none", async () => {
    for (const token of ["", "x".repeat(129), "two words"]) {
      const response = await post("/v1/sessions", token);
      expect([token, response.status]).toEqual([token, 422]);
    }
    expect((await post("/v1/sessions", "x".repeat(128))).status).toBe(201);
  });

  test("takes over a request whose relay went away, and forgets answers after a day", async () => {
    const requests = createIdempotentRequests(harness.database, relayLimits());
    const request = { keyId, token: newToken(), requestHash: new Uint8Array(32) };
    const age = async (minutes: number) =>
      await harness.database.run((orm) =>
        orm
          .update(idempotentRequest)
          .set({ createdAt: sql`now() - ${minutes}::int * interval '1 minute'` })
          .where(eq(idempotentRequest.token, request.token)),
      );
    const first = await requests.begin(request);
    expect(first.kind).toBe("new");
    expect((await requests.begin(request)).kind).toBe("underWay");
    await age(3);
    const second = await requests.begin(request);
    if (first.kind !== "new" || second.kind !== "new") throw new Error("it was not taken over");
    // The first was given up: what it has to say comes too late.
    await requests.finish(request, {
      createdAt: first.createdAt,
      status: 201,
      sealedAnswer: new Uint8Array(1),
    });
    expect((await requests.begin(request)).kind).toBe("underWay");
    await requests.finish(request, {
      createdAt: second.createdAt,
      status: 201,
      sealedAnswer: new Uint8Array(2),
    });
    expect(await requests.begin(request)).toMatchObject({ kind: "answered", status: 201 });
    await age(25 * 60);
    expect(await requests.clear()).toBe(1);
    expect((await requests.begin(request)).kind).toBe("new");
  });

  test("remembers so many for one API key and no more", async () => {
    await harness.database.run((orm) =>
      orm.execute(sql`insert into idempotent_request (key_id, token, request_hash)
        select ${keyId}::uuid, 'filler' || n, '\\x00' from generate_series(1, 10000) n`),
    );
    const response = await post("/v1/sessions", newToken());
    expect(response.status).toBe(429);
    expect(response.headers.get("retry-after")).toBe("60");
    expect(await response.json()).toMatchObject({ limitName: "idempotentRequests" });
    await harness.database.run((orm) => orm.delete(apiKey).where(eq(apiKey.id, keyId)));
  });
});

describe("requireMatch()", () => {
  const app = new Hono<AppEnv>();
  app.onError((error) => problemResponse(toRelayError(error), "r"));
  app.get("/", (c) => {
    requireMatch(c, 7);
    return c.text("changed");
  });
  const ask = async (header?: string) =>
    await app.request("/", header === undefined ? {} : { headers: { "if-match": header } });

  test("lets through what was seen, and what does not care", async () => {
    for (const header of [undefined, etagOf(7), "*", '"1", "7"', ' "7" ']) {
      expect([header, (await ask(header)).status]).toEqual([header, 200]);
    }
  });

  test("refuses what was changed since, saying the version", async () => {
    for (const header of [etagOf(6), 'W/"7"', "7", "", '"77"']) {
      const response = await ask(header);
      expect([header, response.status]).toEqual([header, 412]);
      expect(await response.json()).toMatchObject({ code: "VERSION_CONFLICT", currentVersion: 7 });
    }
  });
});

describe("cursors", () => {
  test("come back as the position that they were made of", () => {
    fc.assert(
      fc.property(
        fc.date({ min: new Date(0), max: new Date(99_999_999_999_999), noInvalidDate: true }),
        fc.stringMatching(/^[0-9a-f]{32}$/),
        fc.nat(),
        fc.string().filter((text) => text.isWellFormed() && !text.includes("\0")),
        (createdAt, id, value, text) => {
          expect(positionOf(positionCursor({ createdAt, id }))).toEqual({ createdAt, id });
          expect(numberOf(numberCursor(value))).toBe(value);
          expect(textPositionOf(textCursor(text))).toBe(text);
        },
      ),
    );
  });

  test("of any other text are refused with CURSOR_INVALID", () => {
    const of = { positionOf, numberOf, textPositionOf };
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.base64String()), (text) => {
        for (const read of Object.values(of)) {
          try {
            read(text);
          } catch (error) {
            expect(toRelayError(error).code).toBe("CURSOR_INVALID");
          }
        }
      }),
    );
    expect(() => numberOf(positionCursor({ createdAt: new Date(), id: "0".repeat(32) }))).toThrow(
      "cursor",
    );
    expect(() => positionOf(numberCursor(5))).toThrow("cursor");
    expect(() => numberOf(numberCursor(Number.MAX_SAFE_INTEGER) + "AA")).toThrow("cursor");
  });
});

test("pageOf() knows of a next page by the row that is too many", () => {
  const cursor = String;
  expect(pageOf([1, 2, 3], 2, cursor)).toEqual({ page: [1, 2], nextCursor: "2" });
  expect(pageOf([1, 2], 2, cursor)).toEqual({ page: [1, 2], nextCursor: null });
  expect(pageOf([], 2, cursor)).toEqual({ page: [], nextCursor: null });
});

test("actorOf() names the key by what may be shown of it", async () => {
  const app = new Hono<AppEnv>();
  app.use(async (c, next) => {
    c.set("requestId", "request-1");
    c.set("principal", { keyId: "k", projectId: "p", prefix: "abcdef", scopes: [] });
    await next();
  });
  app.get("/", (c) => c.json([actorOf(c), actorOf(c, "another")]));
  expect(await (await app.request("/")).json()).toEqual([
    { projectId: "p", actor: "key:abcdef", remoteAddress: "unknown", requestId: "request-1" },
    { projectId: "another", actor: "key:abcdef", remoteAddress: "unknown", requestId: "request-1" },
  ]);
});

test.each(["/v1/orders?peerId=%00", "/v1/sessions?q=a%0ab", "/v1/audit?action=%7f"])(
  "%s: control characters in a query are refused before anybody looks for them",
  async (path) => {
    const response = await harness.ask(key, "GET", path);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: "REQUEST_INVALID" });
  },
);

test("nothing has a name with a zero character in it", async () => {
  expect((await harness.ask(key, "GET", "/v1/peers/%00")).status).toBe(404);
});
