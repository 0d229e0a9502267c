// Projects, API keys, signing in by cookie, and the audit log.
import { eq, sql } from "drizzle-orm";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";

import { API_SCOPES, apiKey, signIn, type ApiScope } from "../../../relay/db/schema.ts";
import { startHarness, type Harness } from "./harness.ts";

const TENANT_SCOPES = API_SCOPES.filter((scope) => scope !== "operator");
const DAY_MS = 24 * 3_600_000;

let harness: Harness;
let operator: string;
let admin: string;
let adminId: string;
let names = 0;

beforeAll(async () => {
  harness = await startHarness();
  ({ key: operator } = await harness.key("house"));
  return () => harness[Symbol.asyncDispose]();
});

beforeEach(async () => {
  harness.advance(60);
  ({ key: admin, keyId: adminId } = await harness.key(`tenant-${++names}`, TENANT_SCOPES));
});

/** A body whose shape the test itself asserts. */
// oxlint-disable-next-line typescript/no-explicit-any -- JSON from outside, looked at field by field
async function json(response: Response | Promise<Response>): Promise<any> {
  return await (await response).json();
}

async function expectProblem(
  response: Response | Promise<Response>,
  status: number,
  code: string,
): Promise<void> {
  const { status: got } = await response;
  const body = await json(response);
  expect([got, body.code]).toEqual([status, code]);
}

async function makeKey(
  by: string,
  body: Record<string, unknown>,
): Promise<{ key: Record<string, unknown> & { id: string; prefix: string }; secret: string }> {
  const response = await harness.ask(by, "POST", "/v1/keys", body);
  expect(response.status).toBe(201);
  return await json(response);
}

describe("keys", () => {
  test("POST /v1/keys makes a key that does what its scopes say, and shows it this once", async () => {
    const expiresAt = new Date(Date.now() + DAY_MS).toISOString();
    const response = await harness.ask(admin, "POST", "/v1/keys", {
      name: "ci",
      scopes: ["sessions:read"],
      expiresAt,
    });
    expect(response.status).toBe(201);
    const { key, secret } = await json(response);
    expect(response.headers.get("location")).toBe(`/v1/keys/${key.id}`);
    expect(key).toMatchObject({
      name: "ci",
      scopes: ["sessions:read"],
      state: "active",
      expiresAt,
      revokedAt: null,
      lastUsedAt: null,
    });
    expect(secret.startsWith(`mfk_${key.prefix}_`)).toBe(true);
    expect((await harness.ask(secret, "GET", "/v1/sessions")).status).toBe(200);
    await expectProblem(harness.ask(secret, "POST", "/v1/sessions", {}), 403, "SCOPE_MISSING");
    await expectProblem(harness.ask(secret, "GET", "/v1/keys"), 403, "SCOPE_MISSING");
    const shown = await json(harness.ask(admin, "GET", `/v1/keys/${key.id}`));
    expect(shown).toMatchObject({ id: key.id, lastUsedAt: expect.stringMatching(/^20.*Z$/) });
    expect(JSON.stringify(shown)).not.toContain(secret.slice(-43));
    expect(harness.logged.join()).not.toContain(secret);
  });

  test("nobody gives away a scope that is not his, nor a key of another project", async () => {
    await expectProblem(
      harness.ask(admin, "POST", "/v1/keys", { scopes: ["operator"] }),
      403,
      "SCOPE_MISSING",
    );
    const house = await json(harness.ask(operator, "GET", "/v1/whoami"));
    await expectProblem(
      harness.ask(admin, "POST", "/v1/keys", { scopes: ["admin"], projectId: house.project.id }),
      404,
      "NOT_FOUND",
    );
    const mine = await json(harness.ask(admin, "GET", "/v1/whoami"));
    const { secret } = await makeKey(operator, {
      scopes: ["sessions:read"],
      projectId: mine.project.id,
    });
    expect(await json(harness.ask(secret, "GET", "/v1/whoami"))).toMatchObject({
      project: mine.project,
      key: { scopes: ["sessions:read"] },
      signIn: null,
    });
    await expectProblem(
      harness.ask(operator, "POST", "/v1/keys", {
        scopes: ["admin"],
        projectId: "0".repeat(32),
      }),
      404,
      "NOT_FOUND",
    );
  });

  test("times that are past, too far or none are refused by name", async () => {
    for (const expiresAt of [
      new Date(Date.now() - 1000).toISOString(),
      new Date(Date.now() + 4000 * DAY_MS).toISOString(),
      "tomorrow",
      5,
    ]) {
      const response = await harness.ask(admin, "POST", "/v1/keys", {
        scopes: ["admin"],
        expiresAt,
      });
      expect([expiresAt, (await json(response.clone())).issues?.[0]?.path]).toEqual([
        expiresAt,
        "expiresAt",
      ]);
      expect(response.status).toBe(422);
    }
    for (const scopes of [[], ["all"], ["admin", "admin"], "admin"]) {
      await expectProblem(
        harness.ask(admin, "POST", "/v1/keys", { scopes }),
        422,
        "REQUEST_INVALID",
      );
    }
  });

  test("a key that has expired lets nobody in, and says so in the list", async () => {
    const { key, secret } = await makeKey(admin, {
      scopes: ["sessions:read"],
      expiresAt: new Date(Date.now() + DAY_MS).toISOString(),
    });
    await harness.database.run((orm) =>
      orm
        .update(apiKey)
        .set({ expiresAt: sql`now() - interval '1 second'` })
        .where(eq(apiKey.id, key.id)),
    );
    await expectProblem(harness.ask(secret, "GET", "/v1/whoami"), 401, "UNAUTHENTICATED");
    const { keys } = await json(harness.ask(admin, "GET", "/v1/keys"));
    expect(keys.map((each: { state: string }) => each.state)).toEqual(["expired", "active"]);
  });

  test("DELETE /v1/keys/{id} revokes at once, may be repeated, and spares the last full key", async () => {
    const { key, secret } = await makeKey(admin, { scopes: ["sessions:read"] });
    for (let time = 0; time < 2; time++) {
      const response = await harness.ask(admin, "DELETE", `/v1/keys/${key.id}`);
      expect(response.status).toBe(200);
      expect(await json(response)).toMatchObject({ id: key.id, state: "revoked" });
    }
    await expectProblem(harness.ask(secret, "GET", "/v1/whoami"), 401, "UNAUTHENTICATED");
    const own = `/v1/keys/${adminId}`;
    await expectProblem(harness.ask(admin, "DELETE", own), 409, "LAST_FULL_KEY");
    await expectProblem(harness.ask(admin, "DELETE", `${own}?force=yes`), 422, "REQUEST_INVALID");
    expect((await harness.ask(admin, "GET", "/v1/keys")).status).toBe(200);
    const { secret: second } = await makeKey(admin, { scopes: ["admin"] });
    expect((await harness.ask(admin, "DELETE", own)).status).toBe(200);
    const [left] = (await json(harness.ask(second, "GET", "/v1/keys"))).keys;
    await expectProblem(harness.ask(second, "DELETE", `/v1/keys/${left.id}`), 409, "LAST_FULL_KEY");
    const forced = await harness.ask(second, "DELETE", `/v1/keys/${left.id}?force=true`);
    expect(await json(forced)).toMatchObject({ state: "revoked" });
    await expectProblem(harness.ask(second, "GET", "/v1/keys"), 401, "UNAUTHENTICATED");
  });

  test("the last two full keys cannot revoke each other", async () => {
    const { key, secret } = await makeKey(admin, { scopes: ["admin"] });
    const statuses = await Promise.all([
      harness.ask(admin, "DELETE", `/v1/keys/${key.id}`),
      harness.ask(secret, "DELETE", `/v1/keys/${adminId}`),
    ]);
    const done = statuses.filter(({ status }) => status === 200);
    expect(done).toHaveLength(1);
  });

  test("a project has so many that are good and no more, and forgets old ones that are not", async () => {
    const { project } = await json(harness.ask(admin, "GET", "/v1/whoami"));
    await harness.ask(operator, "PATCH", `/v1/projects/${project.id}`, { limits: { apiKeys: 3 } });
    for (let at = 0; at < 2; at++) await makeKey(admin, { scopes: ["sessions:read"] });
    const refused = await harness.ask(admin, "POST", "/v1/keys", { scopes: ["admin"] });
    expect(await json(refused.clone())).toMatchObject({ limitName: "apiKeys", limit: 3 });
    await expectProblem(refused, 429, "LIMIT_EXCEEDED");
    await harness.database.run((orm) =>
      orm.execute(sql`insert into api_key
          (id, project_id, name, prefix, secret_hash, scopes, revoked_at, created_at)
        select gen_random_uuid(), ${project.id}::uuid, 'old', 'old' || n, '\\x00', '[]', now(),
          now() - n * interval '1 minute' from generate_series(1, 250) n`),
    );
    await harness.ask(operator, "PATCH", `/v1/projects/${project.id}`, {
      limits: { apiKeys: null },
    });
    await makeKey(admin, { scopes: ["sessions:read"] });
    const rows = await harness.database.run((orm) =>
      orm.select({ name: apiKey.name }).from(apiKey).where(eq(apiKey.projectId, project.id)),
    );
    expect(rows.filter(({ name }) => name === "old")).toHaveLength(200);
  });

  test("GET /v1/keys pages through all, newest first, and an operator through another project's", async () => {
    const made: string[] = [adminId];
    for (let at = 0; at < 4; at++) {
      made.push((await makeKey(admin, { scopes: ["sessions:read"] })).key.id);
    }
    const { project } = await json(harness.ask(admin, "GET", "/v1/whoami"));
    for (const [by, query] of [
      [admin, ""],
      [operator, `&projectId=${project.id}`],
    ] as const) {
      const seen: string[] = [];
      let cursor = "";
      do {
        const page = await json(harness.ask(by, "GET", `/v1/keys?limit=2${query}${cursor}`));
        seen.push(...page.keys.map((key: { id: string }) => key.id));
        cursor = page.nextCursor === null ? "" : `&cursor=${page.nextCursor}`;
      } while (cursor !== "");
      expect(seen).toEqual(made.toReversed());
    }
    const house = await json(harness.ask(operator, "GET", "/v1/whoami"));
    await expectProblem(
      harness.ask(admin, "GET", `/v1/keys?projectId=${house.project.id}`),
      404,
      "NOT_FOUND",
    );
  });
});

describe("projects", () => {
  test("an operator makes one and its first key, and its owner sees it", async () => {
    const response = await harness.ask(operator, "POST", "/v1/projects", {
      name: "orders",
      limits: { sessions: 5 },
    });
    expect(response.status).toBe(201);
    const project = await json(response);
    expect(project).toMatchObject({ name: "orders", limits: { sessions: 5 }, version: 1 });
    expect(response.headers.get("etag")).toBe('"1"');
    const { secret } = await makeKey(operator, { scopes: ["admin"], projectId: project.id });
    const path = `/v1/projects/${project.id}`;
    expect(response.headers.get("location")).toBe(path);
    expect(await json(harness.ask(secret, "GET", path))).toEqual(project);
    await expectProblem(harness.ask(admin, "GET", path), 404, "NOT_FOUND");
    await expectProblem(harness.ask(secret, "PATCH", path, { name: "x" }), 403, "SCOPE_MISSING");
    await expectProblem(harness.ask(secret, "DELETE", path), 403, "SCOPE_MISSING");
    await expectProblem(harness.ask(secret, "GET", "/v1/projects"), 403, "SCOPE_MISSING");
    await expectProblem(
      harness.ask(operator, "POST", "/v1/projects", { name: "orders" }),
      409,
      "NAME_TAKEN",
    );
  });

  test("PATCH changes what it names, and only what the client has seen", async () => {
    const project = await json(
      harness.ask(operator, "POST", "/v1/projects", { name: "p1", limits: { peers: 1 } }),
    );
    await json(harness.ask(operator, "POST", "/v1/projects", { name: "p2" }));
    const path = `/v1/projects/${project.id}`;
    const patch = async (body: unknown, ifMatch?: string) =>
      await harness.app.request(path, {
        method: "PATCH",
        headers: {
          authorization: `Bearer ${operator}`,
          "content-type": "application/json",
          ...(ifMatch === undefined ? {} : { "if-match": ifMatch }),
        },
        body: JSON.stringify(body),
      });
    const first = await patch({ limits: { sessions: 7, relayWeight: 2.5 } }, '"1"');
    expect(first.headers.get("etag")).toBe('"2"');
    expect(await json(first)).toMatchObject({
      name: "p1",
      limits: { peers: 1, sessions: 7, relayWeight: 2.5 },
      version: 2,
    });
    const stale = await patch({ name: "p3" }, '"1"');
    expect(await json(stale.clone())).toMatchObject({ currentVersion: 2 });
    await expectProblem(stale, 412, "VERSION_CONFLICT");
    await expectProblem(patch({ name: "p2" }), 409, "NAME_TAKEN");
    expect(await json(patch({ limits: { sessions: null } }))).toMatchObject({
      limits: { peers: 1, relayWeight: 2.5 },
      version: 3,
    });
    for (const body of [{ limits: { unknown: 1 } }, { limits: { peers: -1 } }, { name: "" }]) {
      await expectProblem(patch(body), 422, "REQUEST_INVALID");
    }
  });

  test("DELETE takes all that is in it, but not while its sessions have not ended", async () => {
    const project = await json(harness.ask(operator, "POST", "/v1/projects", { name: "gone" }));
    const path = `/v1/projects/${project.id}`;
    const { secret } = await makeKey(operator, { scopes: ["admin"], projectId: project.id });
    const { session } = await json(harness.ask(secret, "POST", "/v1/sessions", {}));
    const refused = await harness.ask(operator, "DELETE", path);
    expect(await json(refused.clone())).toMatchObject({ openSessions: 1 });
    await expectProblem(refused, 409, "PROJECT_IN_USE");
    await harness.ask(secret, "POST", `/v1/sessions/${session.id}:cancel`);
    expect((await harness.ask(operator, "DELETE", path)).status).toBe(204);
    await expectProblem(harness.ask(secret, "GET", "/v1/whoami"), 401, "UNAUTHENTICATED");
    await expectProblem(harness.ask(operator, "GET", path), 404, "NOT_FOUND");
    const { project: own } = await json(harness.ask(operator, "GET", "/v1/whoami"));
    await expectProblem(
      harness.ask(operator, "DELETE", `/v1/projects/${own.id}`),
      409,
      "PROJECT_IN_USE",
    );
  });

  test("GET /v1/projects pages by name", async () => {
    for (const name of ["zz é", "zz b", "zz a", "zz ✓"]) {
      await harness.ask(operator, "POST", "/v1/projects", { name });
    }
    const seen: string[] = [];
    let cursor = "";
    do {
      const page = await json(harness.ask(operator, "GET", `/v1/projects?limit=3${cursor}`));
      seen.push(...page.projects.map((project: { name: string }) => project.name));
      cursor = page.nextCursor === null ? "" : `&cursor=${page.nextCursor}`;
    } while (cursor !== "");
    expect(seen.filter((name) => name.startsWith("zz"))).toHaveLength(4);
    expect(new Set(seen).size).toBe(seen.length);
    const known = await harness.database.query(
      { name: "test_projects", text: "select name from project order by name" },
      [],
    );
    expect(seen).toEqual(known.map(({ name }) => name));
  });
});

describe("audit", () => {
  test("GET /v1/audit says who did what, when and from where, without a secret", async () => {
    const { key, secret } = await makeKey(admin, { name: "audited", scopes: ["sessions:read"] });
    const revoked = await harness.ask(admin, "DELETE", `/v1/keys/${key.id}`);
    const { entries } = await json(harness.ask(admin, "GET", "/v1/audit"));
    const prefix = admin.split("_")[1] ?? "";
    expect(entries).toMatchObject([
      {
        action: "key.revoke",
        actor: `key:${prefix}`,
        remoteAddress: "unknown",
        requestId: revoked.headers.get("x-request-id"),
        target: { kind: "key", id: key.id },
        before: { revokedAt: null },
        after: { revokedAt: expect.stringMatching(/^20/) },
      },
      { action: "key.create", before: null, after: { name: "audited", prefix: key.prefix } },
    ]);
    expect(JSON.stringify(entries)).not.toContain(secret.slice(-43));
    const one = await json(harness.ask(admin, "GET", "/v1/audit?action=key.create&limit=1"));
    expect(one.entries).toHaveLength(1);
    const page = await json(harness.ask(admin, "GET", "/v1/audit?limit=1"));
    const next = await json(
      harness.ask(admin, "GET", `/v1/audit?limit=1&cursor=${page.nextCursor}`),
    );
    expect(next.entries.map((entry: { action: string }) => entry.action)).toEqual(["key.create"]);
    expect(next.nextCursor).toBeNull();
  });

  test("is a project's own, and an operator's changes to it are in it", async () => {
    const { project } = await json(harness.ask(admin, "GET", "/v1/whoami"));
    await harness.ask(operator, "PATCH", `/v1/projects/${project.id}`, { limits: { peers: 9 } });
    const { entries } = await json(harness.ask(admin, "GET", "/v1/audit"));
    expect(entries).toMatchObject([
      { action: "project.update", before: { limits: {} }, after: { limits: { peers: 9 } } },
    ]);
    const seen = await json(harness.ask(operator, "GET", `/v1/audit?projectId=${project.id}`));
    expect(seen.entries).toEqual(entries);
    const { key: reader } = await harness.key(`tenant-${names}`, ["sessions:read"]);
    await expectProblem(harness.ask(reader, "GET", "/v1/audit"), 403, "SCOPE_MISSING");
    await expectProblem(harness.ask(admin, "GET", "/v1/audit?cursor=MTIz"), 400, "CURSOR_INVALID");
  });
});

describe("signing in", () => {
  const HOST = "relay.test";
  interface Asked {
    readonly method?: string;
    readonly body?: unknown;
    readonly headers?: Record<string, string>;
    readonly tls?: boolean;
  }

  async function browse(path: string, options: Asked = {}): Promise<Response> {
    const { method = "GET", body, headers = {}, tls = true } = options;
    return await harness.app.request(path, {
      method,
      headers: {
        host: HOST,
        "sec-fetch-site": "same-origin",
        ...(tls ? { "x-forwarded-proto": "https" } : {}),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }

  async function enter(key: string, tls = true): Promise<{ cookie: string; csrf: string }> {
    const response = await browse("/v1/sign-in", { method: "POST", body: { key }, tls });
    expect(response.status).toBe(200);
    const cookie = response.headers.get("set-cookie") ?? "";
    const body = await json(response);
    return { cookie: cookie.split(";")[0] ?? "", csrf: body.signIn.csrfToken };
  }

  test("gives a cookie that scripts and other sites cannot use, and that is not the key", async () => {
    const response = await browse("/v1/sign-in", { method: "POST", body: { key: admin } });
    const header = response.headers.get("set-cookie") ?? "";
    expect(header).toMatch(/^__Host-memferry=[A-Za-z0-9_-]{43}; /);
    for (const part of ["HttpOnly", "Secure", "SameSite=Strict", "Path=/", "Max-Age="]) {
      expect(header).toContain(part);
    }
    expect(header).not.toContain("Domain");
    const [, token = ""] = /=([^;]+)/.exec(header) ?? [];
    expect(admin).not.toContain(token);
    const text = await response.clone().text();
    expect(text).not.toContain(token);
    expect(text).not.toContain(admin.slice(-43));
    const [row] = await harness.database.run((orm) =>
      orm.select().from(signIn).where(eq(signIn.keyId, adminId)),
    );
    expect(Buffer.from(row?.tokenHash ?? []).toString("base64url")).not.toBe(token);
    expect(harness.logged.join()).not.toContain(token);
    const hours = ((row?.expiresAt.getTime() ?? 0) - Date.now()) / 3_600_000;
    expect(hours).toBeGreaterThan(11.9);
    expect(hours).toBeLessThan(12.1);
    // Without TLS a browser would not keep a Secure cookie, nor one with that name.
    const plain = await browse("/v1/sign-in", { method: "POST", body: { key: admin }, tls: false });
    expect(plain.headers.get("set-cookie")).toMatch(/^memferry=/);
    expect(plain.headers.get("set-cookie")).not.toContain("Secure");
  });

  test("lets in to what the key may do, and to nothing more", async () => {
    const { key: reader } = await harness.key(`tenant-${names}`, ["sessions:read"]);
    const { cookie, csrf } = await enter(reader);
    expect((await browse("/v1/sessions", { headers: { cookie } })).status).toBe(200);
    await expectProblem(
      browse("/v1/sessions", {
        method: "POST",
        body: {},
        headers: { cookie, "x-csrf-token": csrf },
      }),
      403,
      "SCOPE_MISSING",
    );
    const whoami = await json(browse("/v1/whoami", { headers: { cookie } }));
    expect(whoami).toMatchObject({
      key: { scopes: ["sessions:read"] },
      signIn: { csrfToken: csrf },
    });
  });

  test("a change needs the token that only the relay's own pages can read", async () => {
    const { cookie, csrf } = await enter(admin);
    const { csrf: anothers } = await enter(admin);
    const change = (headers: Record<string, string>) =>
      browse("/v1/sessions", { method: "POST", body: {}, headers: { cookie, ...headers } });
    for (const wrong of [{}, { "x-csrf-token": "" }, { "x-csrf-token": anothers }]) {
      await expectProblem(change(wrong), 403, "CROSS_SITE_REQUEST");
    }
    expect((await change({ "x-csrf-token": csrf })).status).toBe(201);
  });

  test("requests from elsewhere are refused with the cookie, whatever they ask for", async () => {
    const { cookie, csrf } = await enter(admin);
    const from = async (headers: Record<string, string>, method = "GET", path = "/v1/sessions") => {
      const { status } = await harness.app.request(path, {
        method,
        headers: {
          host: HOST,
          "x-forwarded-proto": "https",
          cookie,
          "x-csrf-token": csrf,
          ...headers,
        },
      });
      return status;
    };
    for (const headers of [
      { "sec-fetch-site": "cross-site" },
      { "sec-fetch-site": "same-site" },
      { origin: "https://evil.test" },
      { origin: "null" },
      { origin: `https://${HOST}:444` },
      { origin: `https://x.${HOST}`, "sec-fetch-site": "same-origin" },
    ]) {
      for (const path of ["/v1/sessions", "/v1/events", "/v1/whoami"]) {
        expect([headers, path, await from(headers, "GET", path)]).toEqual([headers, path, 403]);
      }
      expect([headers, await from(headers, "POST")]).toEqual([headers, 403]);
    }
    // Typed into the address bar; a browser that says nothing; and one that says where it is.
    expect(await from({ "sec-fetch-site": "none" })).toBe(200);
    expect(await from({})).toBe(200);
    expect(await from({ origin: `https://${HOST}` }, "POST")).toBe(201);
    expect(await from({ "sec-fetch-site": "none" }, "POST")).toBe(403);
    expect(await from({}, "POST")).toBe(403);
  });

  test("nobody is signed in by another site, nor with a key that is not good", async () => {
    await expectProblem(
      browse("/v1/sign-in", {
        method: "POST",
        body: { key: admin },
        headers: { "sec-fetch-site": "cross-site" },
      }),
      403,
      "CROSS_SITE_REQUEST",
    );
    const statuses: number[] = [];
    for (let at = 0; at < 25; at++) {
      const response = await browse("/v1/sign-in", { method: "POST", body: { key: "mfk_x" } });
      expect(response.headers.get("set-cookie")).toBeNull();
      statuses.push(response.status);
    }
    expect(statuses.slice(0, 20)).toEqual(Array.from({ length: 20 }, () => 401));
    expect(statuses.at(-1)).toBe(429);
    harness.advance(60);
  });

  test("a cookie ends with POST /v1/sign-out, with its key, and with its time", async () => {
    const stillGood = async (cookie: string) =>
      (await browse("/v1/whoami", { headers: { cookie } })).status === 200;
    const first = await enter(admin);
    const second = await enter(admin);
    const out = await browse("/v1/sign-out", {
      method: "POST",
      headers: { cookie: first.cookie, "x-csrf-token": first.csrf },
    });
    expect(out.status).toBe(204);
    expect(out.headers.get("set-cookie")).toContain("Max-Age=0");
    expect(await stillGood(first.cookie)).toBe(false);
    expect(await stillGood(second.cookie)).toBe(true);
    const { key, secret } = await makeKey(admin, { scopes: ["sessions:read"] });
    const third = await enter(secret);
    await harness.ask(admin, "DELETE", `/v1/keys/${key.id}`);
    expect(await stillGood(third.cookie)).toBe(false);
    await harness.database.run((orm) =>
      orm
        .update(signIn)
        .set({ expiresAt: sql`now() - interval '1 second'` })
        .where(eq(signIn.keyId, adminId)),
    );
    await expectProblem(
      browse("/v1/whoami", { headers: { cookie: second.cookie } }),
      401,
      "UNAUTHENTICATED",
    );
    const { entries } = await json(harness.ask(admin, "GET", "/v1/audit?action=signIn.begin"));
    expect(entries.length).toBe(3);
  });

  test("an event stream of a cookie ends with it", async () => {
    const { cookie, csrf } = await enter(admin);
    const response = await browse("/v1/events", { headers: { cookie } });
    expect(response.status).toBe(200);
    const read = response.text();
    await browse("/v1/sign-out", { method: "POST", headers: { cookie, "x-csrf-token": csrf } });
    expect(await read).toContain("event: snapshot");
  });

  test("a key has so many cookies, and the oldest ends for the next", async () => {
    const cookies: string[] = [];
    for (let at = 0; at < 21; at++) cookies.push((await enter(admin)).cookie);
    const statuses = await Promise.all(
      [cookies[0], cookies[1], cookies[20]].map(
        async (cookie = "") => (await browse("/v1/whoami", { headers: { cookie } })).status,
      ),
    );
    expect(statuses).toEqual([401, 200, 200]);
  });

  test("an Idempotency-Key of a cookie is not the API key's own", async () => {
    const { cookie, csrf } = await enter(admin);
    const headers = { "idempotency-key": "same" };
    const make = async (more: Record<string, string>) => {
      const response = await browse("/v1/sessions", {
        method: "POST",
        body: {},
        headers: { ...headers, ...more },
      });
      return (await json(response)).session.id;
    };
    const byCookie = { cookie, "x-csrf-token": csrf };
    const first = await make(byCookie);
    expect(await make(byCookie)).toBe(first);
    expect(await make({ authorization: `Bearer ${admin}` })).not.toBe(first);
  });

  test("a wrong Authorization header is not made good by a cookie", async () => {
    const { cookie } = await enter(admin);
    await expectProblem(
      browse("/v1/whoami", { headers: { cookie, authorization: "Bearer mfk_wrong" } }),
      401,
      "UNAUTHENTICATED",
    );
    for (const wrong of ["__Host-memferry=x", `__Host-memferry=${"A".repeat(43)}`]) {
      await expectProblem(
        browse("/v1/whoami", { headers: { cookie: wrong } }),
        401,
        "UNAUTHENTICATED",
      );
    }
  });
});

test("every scope is one that some key may have, and operator is good for all", async () => {
  for (const scope of API_SCOPES) {
    const { key } = await harness.key("house", [scope]);
    const { status } = await harness.ask(key, "GET", "/v1/whoami");
    expect([scope, status]).toEqual([scope, 200]);
  }
  const only: readonly ApiScope[] = ["operator"];
  const { key } = await harness.key("house", only);
  expect((await harness.ask(key, "POST", "/v1/sessions", {})).status).toBe(201);
  const { key: house } = await harness.key("house", ["admin"]);
  await expectProblem(harness.ask(house, "GET", "/v1/projects"), 403, "SCOPE_MISSING");
});
