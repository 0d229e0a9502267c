// What holds for every route that the OpenAPI document names, whoever added it. Nothing here lists routes: requests are
// made of the document. A route that cannot be filled in fails; then its resource wants a line in `MAKERS` or `PREPARE`.
import { generateKeyPairSync, randomBytes } from "node:crypto";

import { eq } from "drizzle-orm";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";

import type { ApiDocument } from "../../../relay/api/document.ts";
import { API_SCOPES, audit, offeredRegion, peer, session } from "../../../relay/db/schema.ts";
import { fromHex } from "../../../relay/db/hex.ts";
import { fromBase64Url } from "../../../relay/protocol/bytes.ts";
import { apiDocument, bodySchema, idFields, routesOf, sample, type Route } from "./api-document.ts";
import { startHarness, type Harness } from "./harness.ts";

/** Named in everything that the owner has: who sees it sees what is not his. */
const MARK = "the-owners-own";
const TENANT_SCOPES = API_SCOPES.filter((scope) => scope !== "operator");
/** Rows that reading changes. */
const VOLATILE_COLUMNS = new Set(["last_used_at"]);
const VOLATILE_TABLES = new Set(["idempotent_request", "relay_instance"]);

let harness: Harness;
let document: ApiDocument;
let routes: Route[];
/** Of the owner's project, and good for the relay as well. */
let owner: string;
/** Another project's, with every scope that a tenant can have. */
let other: string;

beforeAll(async () => {
  harness = await startHarness();
  document = await apiDocument(harness);
  routes = routesOf(document);
  ({ key: owner } = await harness.key("owner"));
  ({ key: other } = await harness.key("other", TENANT_SCOPES));
  return () => harness[Symbol.asyncDispose]();
});

beforeEach(() => harness.advance(60));

/** A body whose shape the test itself asserts. */
// oxlint-disable-next-line typescript/no-explicit-any -- JSON from outside, looked at field by field
async function json(response: Response | Promise<Response>): Promise<any> {
  return await (await response).json();
}

async function ask(key: string, method: string, path: string, body?: unknown): Promise<Response> {
  harness.advance(1);
  return await harness.ask(key, method, path, body);
}

/** How the owner gets one of a resource, where a POST to its list does not make one. */
const MAKERS: Readonly<Record<string, () => Promise<string>>> = {
  relays: async () => (await json(ask(owner, "GET", "/v1/relays"))).relays[0].id,
  enrollments: async () =>
    (await json(ask(owner, "POST", "/v1/enrollments", { name: `${MARK}-${hex(4)}` }))).enrollment
      .id,
  peers: makePeer,
  migrations: async () => {
    const body = { name: `${MARK}-${hex(4)}`, consistency: "each", sessions: [{ name: MARK }] };
    return (await json(ask(owner, "POST", "/v1/migrations", body))).id;
  },
  orders: async () => {
    const body = await migrationBody();
    return (await json(ask(owner, "POST", "/v1/migrations", body))).orders[0].id;
  },
};

const hex = (bytes: number): string => randomBytes(bytes).toString("hex");

/** An enrolled host that offers `r`. */
async function makePeer(): Promise<string> {
  const id = hex(32);
  const projectId = await harness.apiKeys.project("owner");
  const sealingKey = new Uint8Array(
    generateKeyPairSync("x25519").publicKey.export({ type: "spki", format: "der" }).subarray(12),
  );
  const sealingKeySignature = new Uint8Array(64);
  await harness.database.run(async (orm) => {
    await orm
      .insert(peer)
      .values({ id, projectId, name: `${MARK}-${hex(4)}`, sealingKey, sealingKeySignature });
    await orm
      .insert(offeredRegion)
      .values({ peerId: id, name: "r", kind: "file", bytes: 4096, chunkBytes: 4096 });
  });
  return id;
}

async function migrationBody(): Promise<{ from: string; to: string }> {
  return { from: `${await makePeer()}/r`, to: await makePeer() };
}

/** By operation: what must be so before it can be done. Gets the id that was made for it. */
const PREPARE: Readonly<Record<string, (id: string) => Promise<void>>> = {
  finalizeSession: joined,
  postcopySession: joined,
  startSession: (id) => put(id, { hold: "start" }),
  resumeSession: (id) => put(id, { hold: "pause" }),
  recoverSession: (id) => put(id, { state: "failed", owner: "leecher" }),
  finalizeMigration: (id) => eachOf(id, joinedWithoutTickets),
  deleteMigration: (id) =>
    eachOf(id, (one) => put(one, { state: "cancelled", endedAt: new Date() })),
  deleteSession: (id) => put(id, { state: "cancelled", endedAt: new Date() }),
  getSessionManifest: described,
  getSessionMap: described,
};

/** By operation: bodies for which the smallest one will not do. */
const BODIES: Readonly<Record<string, () => Promise<unknown>>> = {
  signIn: async () => ({ key: owner }),
  createMigration: migrationBody,
};

/** By operation: why it leaves no trace in the audit log. */
const NOT_AUDITED: Readonly<Record<string, string>> = {
  createDiscoveryToken: "nobody is known who could be named, and nothing is kept",
  signOut: "an API key is no cookie: there is nothing to end; identity.test.ts has the cookie",
};

/** Which resource a field or a query named `…Id` is an id of. */
const ID_OF: Readonly<Record<string, string>> = {
  projectId: "projects",
  sessionId: "sessions",
  migrationId: "migrations",
  webhookId: "webhooks",
  peerId: "peers",
};

async function put(id: string, values: Partial<typeof session.$inferInsert>): Promise<void> {
  await harness.database.run((orm) => orm.update(session).set(values).where(eq(session.id, id)));
}

async function described(id: string): Promise<void> {
  await harness.store.describe(fromHex(id), "seeder", {
    kind: "describe",
    regionName: "r",
    regionBytes: 65_536,
    chunkBytes: 65_536,
    host: "a",
    version: "1",
  });
}

/** Does it to all sessions of a migration. */
async function eachOf(id: string, act: (sessionId: string) => Promise<void>): Promise<void> {
  const rows = await harness.database.run((orm) =>
    orm.select({ id: session.id }).from(session).where(eq(session.migrationId, id)),
  );
  for (const row of rows) await act(row.id);
}

/** Both peers are there. */
async function joinedWithoutTickets(id: string): Promise<void> {
  await put(id, { state: "joined" });
  arrive(id);
}

function arrive(id: string): void {
  const peer = { link: "memory", remoteAddress: "", joinedAtMs: 0 } as const;
  harness.switchboard.sessions.set(id, {
    seeder: peer,
    leecher: peer,
    progress: undefined,
    bytesFrom: { seeder: 0, leecher: 0 },
  });
}

async function joined(id: string): Promise<void> {
  const { tickets } = ticketsOf.get(id) ?? {};
  if (tickets === undefined) throw new Error("this session's tickets are not known");
  for (const role of ["seeder", "leecher"] as const) {
    const token = fromBase64Url(tickets[role].token);
    const sessionId = fromHex(id);
    await harness.store.useTicket({ sessionId, role, token, peerKey: randomBytes(32) });
    await harness.store.setState(sessionId, { by: role, state: "joined", reason: "" });
  }
  arrive(id);
}

const ticketsOf = new Map<
  string,
  { readonly tickets: Readonly<Record<"seeder" | "leecher", { readonly token: string }>> }
>();

/** One of the owner's, with a name that tells whose it is. */
async function make(resource: string): Promise<string> {
  const maker = MAKERS[resource];
  if (maker !== undefined) return await maker();
  const route = routes.find(({ method, path }) => method === "POST" && path === `/v1/${resource}`);
  const schema = route && bodySchema(route);
  if (route === undefined || schema === undefined) {
    throw new Error(`nothing makes one of /v1/${resource}: add it to MAKERS`);
  }
  const smallest = await bodyOf(route);
  const body =
    typeof smallest === "object" && "name" in (properties(schema) ?? {})
      ? { ...smallest, name: `${MARK} ${randomBytes(4).toString("hex")}` }
      : smallest;
  const response = await ask(owner, "POST", route.path, body);
  const answer = await json(response);
  const found: unknown =
    answer.id ?? Object.values<Record<string, unknown>>(answer).find((part) => part["id"])?.["id"];
  if (typeof found !== "string") {
    throw new Error(`POST ${route.path} made nothing: ${JSON.stringify(answer)}`);
  }
  if (answer.tickets !== undefined) ticketsOf.set(found, answer);
  return found;
}

function properties(schema: { $ref?: string }): Record<string, unknown> | undefined {
  const name = schema.$ref?.split("/").at(-1) ?? "";
  const known: unknown = document.components?.schemas?.[name] ?? schema;
  return typeof known === "object" && known !== null && "properties" in known
    ? { ...Object(known.properties) }
    : undefined;
}

async function bodyOf(route: Route): Promise<unknown> {
  const given = BODIES[route.operationId];
  if (given !== undefined) return await given();
  const schema = bodySchema(route);
  return schema === undefined ? undefined : sample(document, schema);
}

/** The path with an id of the owner's for its first gap; a second one would be below something that is not seen. */
async function fill(route: Route): Promise<{ path: string; id: string }> {
  const id = await make(route.resource);
  await PREPARE[route.operationId]?.(id);
  const [first = "", ...others] = route.ids;
  let path = route.path.replace(`{${first}}`, encodeURIComponent(id));
  for (const name of others) {
    const made = ID_OF[name] === undefined ? "0".repeat(32) : await make(ID_OF[name]);
    path = path.replace(`{${name}}`, made);
  }
  return { path, id };
}

/** All that is kept, to be compared. */
async function everything(): Promise<Record<string, unknown>> {
  const tables = await harness.database.query(
    {
      name: "test_tables",
      text: "select tablename from pg_tables where schemaname = 'public' order by 1",
    },
    [],
  );
  const all: Record<string, unknown> = {};
  for (const { tablename } of tables) {
    if (VOLATILE_TABLES.has(String(tablename))) continue;
    const rows = await harness.database.query(
      { name: `test_all_${String(tablename)}`, text: `select * from "${String(tablename)}"` },
      [],
    );
    all[String(tablename)] = rows
      .map((row) =>
        JSON.stringify(
          Object.fromEntries(Object.entries(row).filter(([name]) => !VOLATILE_COLUMNS.has(name))),
        ),
      )
      .toSorted();
  }
  return all;
}

/** No key that a tenant can make opens it. */
async function isForOperators(response: Response): Promise<boolean> {
  if (response.status !== 403) return false;
  const body = await json(response.clone());
  return body.code === "SCOPE_MISSING" && body.scope === "operator";
}

test("every route under /v1 is in the document", () => {
  const known = new Set(routes.map(({ method, path }) => `${method} ${path}`));
  const actions = routes.filter(({ path }) => path.includes("}:"));
  const routed = harness.app.routes.filter(
    ({ method, path }) => method !== "ALL" && path.startsWith("/v1/"),
  );
  expect(routed.length).toBeGreaterThan(10);
  for (const { method, path } of routed) {
    const written = path.replaceAll(/:(\w+)(\{[^}]*\})?/g, "{$1}");
    const [, resource = ""] = /^\/v1\/([a-z-]+)\//.exec(path) ?? [];
    const one = path.includes("[^/:]+:[^/:]+");
    const described = one
      ? actions.some((action) => action.method === method && action.resource === resource)
      : known.has(`${method} ${written}`);
    expect([method, path, described]).toEqual([method, path, true]);
  }
});

describe("another tenant", () => {
  test("gets 404 on every route with an id in it, sees nothing, and changes nothing", async () => {
    const withIds = routes.filter(({ ids }) => ids.length > 0);
    expect(withIds.length).toBeGreaterThan(10);
    for (const route of withIds) {
      const { path, id } = await fill(route);
      const body = await bodyOf(route);
      const before = await everything();
      const commands = harness.switchboard.commands.length;
      const response = await ask(other, route.method, path, body);
      const what = `${route.method} ${route.path}`;
      const text = await response.clone().text();
      expect([what, text.includes(MARK)]).toEqual([what, false]);
      if (!(await isForOperators(response))) {
        // Without a problem's body a 404 may be the router's, of a path that was filled in wrongly.
        const { code, detail } = await json(response);
        expect([what, response.status, code]).toEqual([what, 404, "NOT_FOUND"]);
        expect([what, detail]).not.toEqual([what, "there is nothing here"]);
      }
      expect(await everything()).toEqual(before);
      expect(harness.switchboard.commands).toHaveLength(commands);
      // What the owner gets at the same path shows that it is one.
      if (route.method === "GET") {
        const mine = await ask(owner, "GET", path);
        expect([what, id, mine.status]).toEqual([what, id, 200]);
        await mine.body?.cancel();
      }
    }
  });

  test("finds nothing of the owner's in a list, also not by an id in the query", async () => {
    const lists = routes.filter(({ method, ids }) => method === "GET" && ids.length === 0);
    const resources = new Set(routes.filter(({ ids }) => ids.length > 0).map((r) => r.resource));
    const ids = new Map<string, string>();
    for (const resource of resources) ids.set(resource, await make(resource));
    for (const route of lists) {
      const paths = [route.path];
      for (const name of route.queries.filter((query) => query.endsWith("Id"))) {
        const resource = ID_OF[name];
        if (resource === undefined) throw new Error(`what is ${name} of ${route.path}? See ID_OF`);
        paths.push(`${route.path}?${name}=${ids.get(resource) ?? (await make(resource))}`);
      }
      for (const path of paths) {
        const response = await ask(other, "GET", path);
        const text = response.headers.get("content-type")?.startsWith("text/event-stream")
          ? await firstOf(response)
          : await response.text();
        expect([path, text.includes(MARK)]).toEqual([path, false]);
        for (const [resource, id] of ids) {
          // Relays are everybody's; and who asks for an id may hear that there is none of it.
          if (resource === "relays" || path.includes(id)) continue;
          expect([path, resource, text.includes(id)]).toEqual([path, resource, false]);
        }
      }
    }
  });

  test("cannot name what is the owner's in a body", async () => {
    let tried = 0;
    for (const route of routes.filter(({ method, ids }) => method !== "GET" && ids.length === 0)) {
      for (const field of idFields(document, bodySchema(route))) {
        const resource = ID_OF[field];
        if (resource === undefined) {
          throw new Error(`what is ${field} of ${route.method} ${route.path}? See ID_OF`);
        }
        const body = { ...Object(await bodyOf(route)), [field]: await make(resource) };
        const before = await everything();
        const response = await ask(other, route.method, route.path, body);
        expect([route.path, field, response.status]).toEqual([route.path, field, 404]);
        expect(await everything()).toEqual(before);
        tried++;
      }
    }
    expect(tried).toBeGreaterThan(0);
  });
});

test("every route that changes something leaves a trace in the audit log", async () => {
  const changing = routes.filter(({ method }) => method !== "GET");
  expect(changing.length).toBeGreaterThan(10);
  for (const route of changing) {
    if (NOT_AUDITED[route.operationId] !== undefined) continue;
    const { path } = route.ids.length > 0 ? await fill(route) : { path: route.path };
    const body = await bodyOf(route);
    const response =
      route.operation.security === undefined
        ? await harness.app.request(path, {
            method: route.method,
            headers: { "content-type": "application/json", "sec-fetch-site": "same-origin" },
            body: JSON.stringify(body),
          })
        : await ask(owner, route.method, path, body);
    const what = `${route.method} ${route.path}`;
    expect([what, response.status < 300, response.status, await response.text()]).toEqual([
      what,
      true,
      response.status,
      expect.any(String),
    ]);
    const requestId = response.headers.get("x-request-id") ?? "";
    const rows = await harness.database.run((orm) =>
      orm.select().from(audit).where(eq(audit.requestId, requestId)),
    );
    expect([what, rows.length > 0]).toEqual([what, true]);
    for (const row of rows) {
      expect(row.actor).toMatch(/^(key|peer):[0-9a-f]+$/);
      expect(row.action).toMatch(/^[a-zA-Z]+(\.[a-zA-Z]+)+$/);
      expect([what, row.targetId]).toEqual([what, expect.stringMatching(/^[0-9a-f]{32,64}$/)]);
    }
  }
});

test("every route answers with a status that its description names", async () => {
  for (const route of routes) {
    const { path } = route.ids.length > 0 ? await fill(route) : { path: route.path };
    const body = await bodyOf(route);
    for (const [key, given] of [
      ["mfk_none", body],
      [other, body],
      [owner, body],
      [owner, route.method === "GET" ? undefined : "{"],
      [owner, route.method === "GET" ? undefined : { unknown: 1 }],
    ] as const) {
      harness.advance(60);
      const response = await ask(key, route.method, path, given);
      await response.body?.cancel();
      const named = Object.keys(route.operation.responses ?? {});
      const what = `${route.method} ${route.path} ${JSON.stringify(given)}`;
      expect([what, response.status, named.includes(String(response.status))]).toEqual([
        what,
        response.status,
        true,
      ]);
    }
  }
});

async function firstOf(response: Response): Promise<string> {
  const reader = response.body?.getReader();
  const read = await reader?.read();
  await reader?.cancel();
  return new TextDecoder().decode(read?.value);
}
