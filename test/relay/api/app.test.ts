import { randomBytes } from "node:crypto";

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import type { SessionBody } from "../../../relay/app.ts";
import { fromHex } from "../../../relay/db/hex.ts";
import { API_SCOPES } from "../../../relay/db/schema.ts";
import { fromBase64Url } from "../../../relay/protocol/bytes.ts";
import { PROGRESS_FIELDS, type Progress } from "../../../relay/protocol/frame.ts";
import {
  certificatesMessage,
  decodeSignedCertificates,
} from "../../../relay/protocol/relay-certificates.ts";
import { startHarness, type Harness } from "./harness.ts";

let harness: Harness;
let key: string;

beforeAll(async () => {
  harness = await startHarness();
  ({ key } = await harness.key("mine"));
  return () => harness[Symbol.asyncDispose]();
});

beforeEach(() => harness.advance(60));

/** A body whose shape the test itself asserts. */
// oxlint-disable-next-line typescript/no-explicit-any -- JSON from outside, looked at field by field
async function json(response: Response): Promise<any> {
  return await response.json();
}

async function create(
  body: unknown = {},
  by = key,
): Promise<{ session: SessionBody; tickets: Record<"seeder" | "leecher", { token: string }> }> {
  const response = await harness.ask(by, "POST", "/v1/sessions", body);
  expect(response.status).toBe(201);
  return await json(response);
}

async function join(
  id: string,
  tickets: Awaited<ReturnType<typeof create>>["tickets"],
): Promise<void> {
  for (const role of ["seeder", "leecher"] as const) {
    const token = fromBase64Url(tickets[role].token);
    const sessionId = fromHex(id);
    await harness.store.useTicket({ sessionId, role, token, peerKey: randomBytes(32) });
    await harness.store.setState(sessionId, { by: role, state: "joined", reason: "" });
  }
}

const progress: Progress = {
  // Every field is set, and the list of them is complete.
  ...(Object.fromEntries(PROGRESS_FIELDS.map((field) => [field, 0])) as unknown as Progress),
  round: 2,
  chunksTotal: 100,
  chunksReady: 25,
  sendBytesPerS: 1000,
  dirtyBytesPerS: 250,
  bytesRemaining: 1500,
  rttMs: 3,
};

async function expectProblem(response: Response, status: number, code: string): Promise<void> {
  expect(response.status).toBe(status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const body = await json(response);
  expect(body).toMatchObject({ status, code, type: "about:blank" });
  expect(body.requestId).toBe(response.headers.get("x-request-id"));
  for (const field of ["title", "detail"]) expect(body[field]).toMatch(/\S/);
}

describe("sessions", () => {
  test("POST /v1/sessions makes a session with two tickets that work", async () => {
    const response = await harness.ask(key, "POST", "/v1/sessions", {
      name: "db → rack 7",
      labels: { "team/a": "x" },
      mode: "precopy",
      limits: { downtimeTargetMs: 100 },
      ticketTtlMs: 60_000,
    });
    expect(response.status).toBe(201);
    const body = await json(response);
    expect(response.headers.get("location")).toBe(`/v1/sessions/${body.session.id}`);
    expect(body.session).toMatchObject({
      name: "db → rack 7",
      labels: { "team/a": "x" },
      mode: "precopy",
      limits: { downtimeTargetMs: 100 },
      state: "pending",
      reason: null,
      region: null,
      authority: { holder: "seeder", epoch: 0 },
      allowedActions: ["pause", "cancel", "rotateTickets", "check"],
    });
    expect(body.relay).toEqual({
      url: "https://relay.test:8443",
      certificateHashes: ["ab".repeat(32)],
      identity: "cd".repeat(32),
    });
    const lifetime = Date.parse(body.tickets.seeder.expiresAt) - Date.now();
    expect(lifetime).toBeGreaterThan(50_000);
    expect(lifetime).toBeLessThanOrEqual(60_000);
    expect(fromBase64Url(body.tickets.leecher.token)).toHaveLength(32);
    await join(body.session.id, body.tickets);
    const shown = await json(await harness.ask(key, "GET", `/v1/sessions/${body.session.id}`));
    expect(shown).toMatchObject({
      state: "joined",
      allowedActions: ["finalize", "pause", "cancel", "check"],
    });
    expect(shown.seeder.joinedAt).toMatch(/^20.*Z$/);
    expect(JSON.stringify(shown)).not.toContain(body.tickets.seeder.token);
    expect(harness.logged.join()).not.toContain(body.tickets.seeder.token);
  });

  test("POST /v1/sessions without a body takes the defaults", async () => {
    const response = await harness.app.request("/v1/sessions", {
      method: "POST",
      headers: { authorization: `Bearer ${key}` },
    });
    expect(response.status).toBe(201);
    expect((await json(response)).session).toMatchObject({ name: "", mode: "live", limits: {} });
  });

  test("GET /v1/sessions pages through all, newest first, and filters by state", async () => {
    const { key: other } = await harness.key("pages");
    const made: string[] = [];
    for (let at = 0; at < 7; at++) made.push((await create({ name: `s${at}` }, other)).session.id);
    await harness.ask(other, "POST", `/v1/sessions/${made[3]}:cancel`);
    const seen: string[] = [];
    let path: string | null = "/v1/sessions?limit=3";
    while (path !== null) {
      const page = await json(await harness.ask(other, "GET", path));
      expect(page.sessions.length).toBeLessThanOrEqual(3);
      seen.push(...page.sessions.map((session: SessionBody) => session.id));
      path = page.nextCursor === null ? null : `/v1/sessions?limit=3&cursor=${page.nextCursor}`;
    }
    expect(seen).toEqual(made.toReversed());
    const cancelled = await json(
      await harness.ask(other, "GET", "/v1/sessions?state=cancelled,done"),
    );
    expect(cancelled.sessions.map((session: SessionBody) => session.id)).toEqual([made[3]]);
  });

  test("GET /v1/sessions/{id} shows what is live over what is kept", async () => {
    const { session, tickets } = await create();
    await join(session.id, tickets);
    const sessionId = fromHex(session.id);
    await harness.store.setState(sessionId, { by: "seeder", state: "precopy", reason: "" });
    await harness.store.saveProgress(sessionId, { ...progress, round: 1 });
    await harness.store.describe(sessionId, "seeder", {
      kind: "describe",
      regionName: "cache",
      regionBytes: 6_553_600,
      chunkBytes: 65_536,
      host: "a",
      version: "1.0.0",
    });
    const peer = {
      link: "websocket",
      remoteAddress: "203.0.113.7",
      joinedAtMs: 1_700_000_000_000,
    } as const;
    harness.switchboard.sessions.set(session.id, {
      seeder: { ...peer, link: "webtransport" },
      leecher: peer,
      progress,
      bytesFrom: { seeder: 1, leecher: 2 },
    });
    const body = await json(await harness.ask(key, "GET", `/v1/sessions/${session.id}`));
    expect(body).toMatchObject({
      state: "precopy",
      region: {
        name: "cache",
        bytes: 6_553_600,
        chunkBytes: 65_536,
        chunkCount: 100,
        rootHash: null,
      },
      seeder: { connected: true, host: "a", link: "webtransport", observedAddr: "203.0.113.7" },
      leecher: { connected: true, host: null, link: "websocket" },
      path: { kind: "relayWs", rttMs: 3 },
      progress: {
        round: 2,
        ready: 25,
        convergence: { verdict: "yes", ratio: 0.25 },
        etaMs: 2000,
        expectedDowntimeMs: null,
      },
      allowedActions: ["finalize", "postcopy", "pause", "cancel", "check"],
    });
    harness.switchboard.sessions.delete(session.id);
    const later = await json(await harness.ask(key, "GET", `/v1/sessions/${session.id}`));
    expect(later).toMatchObject({
      path: null,
      seeder: { connected: false },
      progress: { round: 1 },
    });
  });

  test(":finalize reaches the leecher, or says why not", async () => {
    const { session, tickets } = await create();
    const path = `/v1/sessions/${session.id}:finalize`;
    const early = await harness.ask(key, "POST", path);
    expect(await json(early.clone())).toMatchObject({
      currentState: "pending",
      allowedActions: ["pause", "cancel", "rotateTickets", "check"],
    });
    await expectProblem(early, 409, "STATE_CONFLICT");
    await join(session.id, tickets);
    await expectProblem(await harness.ask(key, "POST", path), 409, "STATE_CONFLICT");
    const leecher = { link: "memory", remoteAddress: "", joinedAtMs: 0 } as const;
    harness.switchboard.sessions.set(session.id, {
      seeder: undefined,
      leecher,
      progress: undefined,
      bytesFrom: { seeder: 0, leecher: 0 },
    });
    const response = await harness.ask(key, "POST", path, { reason: "window opens" });
    expect(response.status).toBe(202);
    expect(harness.switchboard.commands.at(-1)).toEqual({
      sessionId: session.id,
      command: "finalize",
      reason: "window opens",
    });
    const { events } = await json(
      await harness.ask(key, "GET", `/v1/sessions/${session.id}/events`),
    );
    expect(events.at(-1)).toMatchObject({
      type: "finalizeRequested",
      data: { by: "api", reason: "window opens" },
    });
  });

  test(":cancel may be repeated, and is refused once the workload has moved", async () => {
    const { session } = await create();
    for (let time = 0; time < 2; time++) {
      const response = await harness.ask(key, "POST", `/v1/sessions/${session.id}:cancel`, {
        reason: "wrong host",
      });
      expect(response.status).toBe(202);
      expect(await json(response)).toMatchObject({
        state: "cancelled",
        reason: { code: "CANCELLED_BY_API", message: "wrong host" },
        allowedActions: [],
      });
    }
    const moved = await create();
    await harness.store.commit(fromHex(moved.session.id), 1);
    const refused = await harness.ask(key, "POST", `/v1/sessions/${moved.session.id}:cancel`);
    expect(await json(refused.clone())).toMatchObject({
      currentState: "committed",
      allowedActions: ["recover", "check"],
    });
    await expectProblem(refused, 409, "STATE_CONFLICT");
    const shown = await json(await harness.ask(key, "GET", `/v1/sessions/${moved.session.id}`));
    expect(shown.authority).toEqual({ holder: "leecher", epoch: 1 });
  });

  test("a session is paused while one of its peers is away, and found as such", async () => {
    const { key: other } = await harness.key("pauses");
    const made: string[] = [];
    for (let at = 0; at < 5; at++) {
      const { session, tickets } = await create({ name: `s${at}` }, other);
      await join(session.id, tickets);
      const id = fromHex(session.id);
      await harness.store.setState(id, { by: "seeder", state: "precopy", reason: "" });
      made.push(session.id);
    }
    const peer = { link: "memory", remoteAddress: "", joinedAtMs: 0 } as const;
    const live = (id: string | undefined, roles: readonly ("seeder" | "leecher")[]): void => {
      if (id === undefined) throw new Error("no session");
      harness.switchboard.sessions.set(id, {
        seeder: roles.includes("seeder") ? peer : undefined,
        leecher: roles.includes("leecher") ? peer : undefined,
        progress,
        bytesFrom: { seeder: 0, leecher: 0 },
      });
    };
    const show = async (at: number) =>
      await json(await harness.ask(other, "GET", `/v1/sessions/${made[at]}`));
    const find = async (state: string) => {
      const found: string[] = [];
      let cursor = "";
      do {
        const path = `/v1/sessions?limit=2&state=${state}${cursor}`;
        const page = await json(await harness.ask(other, "GET", path));
        expect(page.sessions.length).toBeLessThanOrEqual(2);
        found.push(...page.sessions.map((session: SessionBody) => session.id));
        cursor = page.nextCursor === null ? "" : `&cursor=${page.nextCursor}`;
      } while (cursor !== "");
      return found;
    };
    live(made[0], ["seeder", "leecher"]);
    live(made[1], ["seeder"]);
    live(made[2], ["leecher"]);
    expect(await show(0)).toMatchObject({
      state: "precopy",
      reason: null,
      allowedActions: ["finalize", "postcopy", "pause", "cancel", "check"],
      progress: { etaMs: 2000 },
    });
    const reason = (message: string) => ({ code: "PAUSED_BY_RELAY", message });
    expect(await show(1)).toMatchObject({
      state: "paused",
      reason: reason("the leecher is not connected"),
      allowedActions: ["pause", "cancel", "check"],
      progress: { etaMs: null },
    });
    expect((await show(2)).reason).toEqual(reason("the seeder is not connected"));
    expect((await show(3)).reason).toEqual(reason("neither peer is connected"));
    expect(await find("paused")).toEqual([made[4], made[3], made[2], made[1]]);
    expect(await find("precopy")).toEqual([made[0]]);
    expect(await find("precopy,paused")).toEqual(made.toReversed());

    // It goes on where it was, with nothing written down.
    live(made[1], ["seeder", "leecher"]);
    expect(await show(1)).toMatchObject({ state: "precopy", reason: null });
    // What has ended stays so, whoever is there.
    await harness.ask(other, "POST", `/v1/sessions/${made[2]}:cancel`, { reason: "enough" });
    expect(await show(2)).toMatchObject({
      state: "cancelled",
      reason: { code: "CANCELLED_BY_API", message: "enough" },
      allowedActions: [],
      path: null,
      progress: { etaMs: null },
    });
    expect((await show(2)).timings.endedAt).toMatch(/^20.*Z$/);
    expect(await find("paused")).toEqual([made[4], made[3]]);
    expect(await find("cancelled")).toEqual([made[2]]);
  });

  test("GET /v1/sessions/{id}/events pages in order", async () => {
    const { session } = await create();
    for (let at = 0; at < 5; at++)
      await harness.store.addEvent(fromHex(session.id), "tick", { at });
    const seen: number[] = [];
    let cursor = "";
    do {
      const page = await json(
        await harness.ask(key, "GET", `/v1/sessions/${session.id}/events?limit=2${cursor}`),
      );
      seen.push(...page.events.map((event: { data: { at: number } }) => event.data.at));
      cursor = page.nextCursor === null ? "" : `&cursor=${page.nextCursor}`;
    } while (cursor !== "");
    expect(seen).toEqual([0, 1, 2, 3, 4]);
  });

  test("GET /v1/sessions/{id}/manifest gives 32 bytes a chunk", async () => {
    const { session } = await create();
    const id = fromHex(session.id);
    await expectProblem(
      await harness.ask(key, "GET", `/v1/sessions/${session.id}/manifest`),
      404,
      "NOT_FOUND",
    );
    await harness.store.describe(id, "seeder", {
      kind: "describe",
      regionName: "r",
      regionBytes: 1026 * 65_536,
      chunkBytes: 65_536,
      host: "a",
      version: "1",
    });
    await harness.store.index.putSegment(id, 1, 1, new Uint8Array(64).fill(7));
    await harness.store.index.setRoot(id, 1, new Uint8Array(32).fill(9));
    const response = await harness.ask(key, "GET", `/v1/sessions/${session.id}/manifest`);
    expect(response.headers.get("memferry-root-hash")).toBe("09".repeat(32));
    const bytes = new Uint8Array(await response.arrayBuffer());
    expect(bytes).toHaveLength(1026 * 32);
    expect(bytes.subarray(0, 1024 * 32).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(1024 * 32).every((byte) => byte === 7)).toBe(true);
  });
});

describe("who may ask", () => {
  test("a session of another project is not found on any route", async () => {
    const { session } = await create({ name: "secret name" });
    const { key: other } = await harness.key("theirs");
    const routes = [
      ["GET", ""],
      ["GET", "/events"],
      ["GET", "/manifest"],
      ["POST", ":finalize"],
      ["POST", ":cancel"],
    ] as const;
    for (const [method, suffix] of routes) {
      const response = await harness.ask(other, method, `/v1/sessions/${session.id}${suffix}`);
      expect(await response.clone().text()).not.toContain("secret name");
      await expectProblem(response, 404, "NOT_FOUND");
    }
    expect(await json(await harness.ask(other, "GET", "/v1/sessions"))).toMatchObject({
      sessions: [],
    });
    expect(await json(await harness.ask(key, "GET", `/v1/sessions/${session.id}`))).toMatchObject({
      state: "pending",
    });
  });

  test("without a good key nothing under /v1 answers", async () => {
    for (const header of [undefined, "", "Bearer", "Bearer x", `Basic ${key}`, `Bearer ${key}x`]) {
      harness.advance(60);
      const response = await harness.app.request("/v1/sessions", {
        headers: header === undefined ? {} : { authorization: header },
      });
      expect(response.headers.get("www-authenticate")).toMatch(/^Bearer/);
      await expectProblem(response, 401, "UNAUTHENTICATED");
    }
    await expectProblem(
      await harness.app.request(`/v1/sessions?key=${key}`),
      401,
      "UNAUTHENTICATED",
    );
  });

  test("a key does what its scopes say", async () => {
    const { session } = await create();
    const { key: reader } = await harness.key("mine", ["sessions:read"]);
    const { key: writer } = await harness.key("mine", ["sessions:write"]);
    const { key: admin } = await harness.key("mine", ["admin"]);
    const cancel = `/v1/sessions/${session.id}:cancel`;
    expect((await harness.ask(reader, "GET", "/v1/sessions")).status).toBe(200);
    await expectProblem(
      await harness.ask(reader, "POST", "/v1/sessions", {}),
      403,
      "SCOPE_MISSING",
    );
    await expectProblem(await harness.ask(reader, "POST", cancel), 403, "SCOPE_MISSING");
    await expectProblem(await harness.ask(writer, "GET", "/v1/sessions"), 403, "SCOPE_MISSING");
    await expectProblem(await harness.ask(writer, "POST", cancel), 403, "SCOPE_MISSING");
    await expectProblem(await harness.ask(reader, "GET", "/metrics"), 403, "SCOPE_MISSING");
    expect((await harness.ask(admin, "POST", cancel)).status).toBe(202);
  });

  test("guessing keys and asking too much are slowed down", async () => {
    const statuses: number[] = [];
    for (let at = 0; at < 25; at++) {
      statuses.push((await harness.ask("mfk_wrong", "GET", "/v1/sessions")).status);
    }
    expect(statuses.slice(0, 20)).toEqual(Array.from({ length: 20 }, () => 401));
    expect(statuses.slice(21)).toEqual(Array.from({ length: 4 }, () => 429));
    const response = await harness.ask(key, "GET", "/v1/sessions");
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
    await expectProblem(response, 429, "RATE_LIMITED");
    harness.advance(60);
    expect((await harness.ask(key, "GET", "/v1/sessions")).status).toBe(200);
    const { key: busy } = await harness.key("busy");
    const asked = await Promise.all(
      Array.from({ length: 310 }, () => harness.ask(busy, "GET", "/v1/sessions/x")),
    );
    expect(asked.filter(({ status }) => status === 429)).toHaveLength(10);
    expect(asked.filter(({ status }) => status === 404)).toHaveLength(300);
  });
});

describe("what is refused", () => {
  const post = (body: string, headers: Record<string, string>) =>
    harness.app.request("/v1/sessions", {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, ...headers },
      body,
    });
  const asJson = { "content-type": "application/json" };

  // oxlint-disable-next-line vitest/expect-expect -- expectProblem does
  test("bodies that are not JSON, of another type, without a length, or huge", async () => {
    await expectProblem(await post("{", asJson), 400, "REQUEST_MALFORMED");
    await expectProblem(await post("", asJson), 400, "REQUEST_MALFORMED");
    await expectProblem(
      await post("{}", { "content-type": "text/plain" }),
      415,
      "MEDIA_TYPE_UNSUPPORTED",
    );
    await expectProblem(
      await post("a=b", { "content-type": "application/x-www-form-urlencoded" }),
      415,
      "MEDIA_TYPE_UNSUPPORTED",
    );
    await expectProblem(
      await post("{}", { "content-type": "application/jsonx" }),
      415,
      "MEDIA_TYPE_UNSUPPORTED",
    );
    await expectProblem(
      await post("{}", { ...asJson, "transfer-encoding": "chunked" }),
      411,
      "LENGTH_REQUIRED",
    );
    await expectProblem(
      await post("{}", { ...asJson, "content-length": "65537" }),
      413,
      "BODY_TOO_LARGE",
    );
    const { session } = await create();
    const cancel = `/v1/sessions/${session.id}:cancel`;
    await expectProblem(await harness.ask(key, "POST", cancel, "{"), 400, "REQUEST_MALFORMED");
    await expectProblem(
      await harness.ask(key, "POST", cancel, { reason: 5 }),
      422,
      "REQUEST_INVALID",
    );
    await expectProblem(await harness.ask(key, "POST", cancel, "null"), 422, "REQUEST_INVALID");
  });

  test("fields that are wrong or unknown, each by name", async () => {
    const wrong: readonly (readonly [body: unknown, path: string])[] = [
      [null, ""],
      [[], ""],
      ["text", ""],
      [7, ""],
      [{ projectId: "x" }, ""],
      [{ state: "done" }, ""],
      [{ id: "0".repeat(32) }, ""],
      [{ name: 5 }, "name"],
      [{ name: "x".repeat(129) }, "name"],
      [{ name: "a\u0000b" }, "name"],
      [{ name: "a\nb" }, "name"],
      [{ name: "\ud800" }, "name"],
      [{ labels: { "": "x" } }, "labels."],
      [{ labels: { a: 1 } }, "labels.a"],
      [{ labels: { a: "\u0007" } }, "labels.a"],
      [
        { labels: Object.fromEntries(Array.from({ length: 33 }, (_, at) => [`l${at}`, ""])) },
        "labels",
      ],
      [{ mode: "fast" }, "mode"],
      [{ limits: { bytesPerS: 0 } }, "limits.bytesPerS"],
      [{ limits: { bytesPerS: 1.5 } }, "limits.bytesPerS"],
      [{ limits: { unknown: 1 } }, "limits"],
      [{ ticketTtlMs: 0 }, "ticketTtlMs"],
      [{ ticketTtlMs: 1e12 }, "ticketTtlMs"],
    ];
    for (const [body, path] of wrong) {
      const response = await harness.ask(key, "POST", "/v1/sessions", JSON.stringify(body));
      const { issues } = await json(response.clone());
      expect([body, issues?.[0]?.path]).toEqual([body, path]);
      await expectProblem(response, 422, "REQUEST_INVALID");
    }
  });

  // oxlint-disable-next-line vitest/expect-expect -- expectProblem does
  test("cursors, limits, states and ids that are none", async () => {
    const { session } = await create();
    const events = `/v1/sessions/${session.id}/events`;
    const cursors = [
      "x",
      "%00",
      "a".repeat(150),
      "MTIzLmFiYw",
      btoa("99999999999999999999.x"),
      "..",
      "1e9",
    ];
    for (const cursor of cursors) {
      await expectProblem(
        await harness.ask(key, "GET", `/v1/sessions?cursor=${cursor}`),
        400,
        "CURSOR_INVALID",
      );
      await expectProblem(
        await harness.ask(key, "GET", `${events}?cursor=${cursor}`),
        400,
        "CURSOR_INVALID",
      );
    }
    for (const query of [
      "limit=0",
      "limit=201",
      "limit=1e9",
      "limit=x",
      "limit=-1",
      "limit=1.5",
      "state=x",
      "state=",
      "limit=1&limit=2",
    ]) {
      await expectProblem(
        await harness.ask(key, "GET", `/v1/sessions?${query}`),
        422,
        "REQUEST_INVALID",
      );
    }
    for (const id of [
      "x",
      "0".repeat(32),
      "0".repeat(31),
      "G".repeat(32),
      "%00",
      "%2e%2e",
      "'or 1=1",
      session.id.toUpperCase(),
    ]) {
      await expectProblem(await harness.ask(key, "GET", `/v1/sessions/${id}`), 404, "NOT_FOUND");
      await expectProblem(
        await harness.ask(key, "POST", `/v1/sessions/${id}:cancel`),
        404,
        "NOT_FOUND",
      );
    }
    for (const suffix of [
      ":nothing",
      ":",
      "::cancel",
      ":cancel:cancel",
      ":Cancel",
      ":cancel/x",
      "",
    ]) {
      const response = await harness.ask(key, "POST", `/v1/sessions/${session.id}${suffix}`);
      await expectProblem(response, 404, "NOT_FOUND");
    }
  });

  test("whatever the request, an answer is never 5xx nor without its headers", async () => {
    const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"];
    const paths = [
      "/",
      "/v1",
      "/v1/",
      "/v1/sessions/",
      "/v1/events/x",
      "/%",
      "/%ff",
      "//",
      "/v1/sessions/%",
      "/.git/config",
      "/v1/%2e%2e/metrics",
    ];
    for (const method of methods) {
      for (const path of paths) {
        const response = await harness.ask(key, method, path);
        expect([method, path, response.status < 500]).toEqual([method, path, true]);
        expect(response.headers.get("x-content-type-options")).toBe("nosniff");
        expect(response.headers.get("content-security-policy")).toMatch(
          /default-src 'self'.*frame-ancestors 'none'/,
        );
        expect(response.headers.get("cache-control")).toBe("no-store");
      }
    }
  });
});

describe("GET /v1/events", () => {
  /** The next event with a name. */
  async function* events(response: Response): AsyncGenerator<{
    event: string;
    data: { session?: SessionBody; sessions?: SessionBody[] } & Partial<SessionBody>;
  }> {
    let text = "";
    const decoder = new TextDecoder();
    // The body is one; a response that has none fails the test that reads it.
    for await (const part of response.body ?? []) {
      text += decoder.decode(part, { stream: true });
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const fields = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const field = (name: string) =>
          fields.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        const event = field("event");
        // What happened, beside how sessions look, has tests of its own.
        if (event === undefined || event === "event") continue;
        yield { event, data: JSON.parse(field("data") ?? "null") };
      }
    }
  }

  test("begins with what there is, goes on with what changes, and shows nobody else's", async () => {
    const { key: own } = await harness.key("stream");
    const { session } = await create({ name: "one" }, own);
    const response = await harness.ask(own, "GET", "/v1/events");
    expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
    const stream = events(response);
    const first = (await stream.next()).value;
    expect(first).toMatchObject({ event: "snapshot", data: { sessions: [{ id: session.id }] } });
    await create({ name: "another project's" });
    const { session: second } = await create({ name: "two" }, own);
    expect((await stream.next()).value).toMatchObject({
      event: "session",
      data: { id: second.id, name: "two" },
    });
    harness.switchboard.changed(fromHex(session.id));
    expect((await stream.next()).value).toMatchObject({
      event: "session",
      data: { id: session.id },
    });
    await stream.return(undefined);
  });

  test("ends when its key is revoked", async () => {
    const { key: own, keyId } = await harness.key("revoked");
    const stream = events(await harness.ask(own, "GET", "/v1/events"));
    expect((await stream.next()).value?.event).toBe("snapshot");
    await harness.apiKeys.revoke(keyId);
    expect((await stream.next()).done).toBe(true);
  });

  test("are so many for a key and no more, and closing one makes room", async () => {
    const { key: own } = await harness.key("many");
    const open = await Promise.all(
      Array.from({ length: 20 }, () => harness.ask(own, "GET", "/v1/events")),
    );
    await expectProblem(await harness.ask(own, "GET", "/v1/events"), 429, "RATE_LIMITED");
    await open[0]?.body?.cancel();
    const again = await harness.ask(own, "GET", "/v1/events");
    expect(again.status).toBe(200);
    await Promise.all([again, ...open.slice(1)].map(async (response) => response.body?.cancel()));
  });
});

describe("about the relay", () => {
  test("POST /v1/discovery gives a token without a key, and not too many", async () => {
    const ask = async () => await harness.app.request("/v1/discovery", { method: "POST" });
    expect(await json(await ask())).toEqual({
      token: "BQUFBQUFBQUFBQUFBQUFBQ",
      ports: [3478, 3479],
    });
    let refused: Response | undefined;
    for (let i = 0; i < 50 && refused === undefined; i++) {
      const response = await ask();
      if (response.status === 429) refused = response;
    }
    expect(refused?.headers.get("retry-after")).toBe("5");
    harness.advance(120);
    expect((await ask()).status).toBe(200);
  });

  test("/openapi.json describes every route, with references that lead somewhere", async () => {
    const document = await json(await harness.app.request("/openapi.json"));
    expect(document.openapi).toBe("3.1.0");
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining(["/v1/sessions", "/v1/sessions/{id}:finalize", "/version"]),
    );
    const operationIds = new Set<string>();
    for (const [path, item] of Object.entries<
      Record<string, { operationId: string; responses: object; parameters?: { name: string }[] }>
    >(document.paths)) {
      for (const operation of Object.values(item)) {
        expect(operationIds.has(operation.operationId)).toBe(false);
        operationIds.add(operation.operationId);
        expect(Object.keys(operation.responses).length).toBeGreaterThan(0);
        const names = (operation.parameters ?? []).map((parameter) => parameter.name);
        expect(names.includes("id")).toBe(path.includes("{id}"));
      }
    }
    const references = JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g);
    for (const [, reference = ""] of references) {
      const target = reference.split("/").reduce((at, part) => at?.[part], document);
      expect([reference, typeof target]).toEqual([reference, "object"]);
    }
  });

  test("/reference shows every operation and schema, from the relay's own files and without a script", async () => {
    const document = await json(await harness.app.request("/openapi.json"));
    const response = await harness.app.request("/reference");
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toMatch(/^text\/html/);
    const page = await response.text();
    for (const item of Object.values<Record<string, { operationId: string; summary: string }>>(
      document.paths,
    )) {
      for (const { operationId } of Object.values(item)) {
        expect(page).toContain(`<article id="${operationId}">`);
        expect(page).toContain(`href="#${operationId}"`);
      }
    }
    for (const name of Object.keys(document.components.schemas)) {
      expect(page).toContain(`id="schema-${name}"`);
    }
    // What the policy would refuse, or what would ask somebody else.
    expect(page).not.toMatch(/<script|<style| style=| on\w+=|javascript:/i);
    const links = [...page.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, link = ""]) => link);
    expect(links.filter((link) => !/^(#|\/)(?!\/)/.test(link))).toEqual([]);
    const targets = new Set([...page.matchAll(/ id="([^"]*)"/g)].map(([, id = ""]) => `#${id}`));
    expect(links.filter((link) => link.startsWith("#") && !targets.has(link))).toEqual([]);
    expect(response.headers.get("content-security-policy")).not.toContain("unsafe");
    const style = await harness.app.request("/reference.css");
    expect(style.headers.get("content-type")).toBe("text/css; charset=utf-8");
    expect(await style.text()).not.toMatch(/url\(|@import/);
  });

  test("/.well-known/memferry-relay vouches for certificates to anyone who brings a nonce", async () => {
    const nonce = randomBytes(32);
    const path = `/.well-known/memferry-relay?nonce=${nonce.toString("base64url")}`;
    const response = await harness.app.request(path);
    expect(response.status).toBe(200);
    expect(response.headers.get("cache-control")).toBe("no-store");
    const signed = decodeSignedCertificates(await response.text());
    expect(signed.certificates).toEqual([
      { hash: new Uint8Array(32).fill(0xab), notBeforeMs: 1, notAfterMs: 2 },
    ]);
    const raw = Uint8Array.from(signed.identity);
    const key = await crypto.subtle.importKey("raw", raw, "Ed25519", false, ["verify"]);
    const message = certificatesMessage(nonce, signed.certificates);
    const signature = Uint8Array.from(signed.signature);
    expect(await crypto.subtle.verify("Ed25519", key, signature, message)).toBe(true);
    for (const wrong of ["", "?nonce=", "?nonce=AAAA", `?nonce=${"A".repeat(4_000)}`]) {
      const refused = await harness.app.request(`/.well-known/memferry-relay${wrong}`);
      expect(refused.status).toBe(422);
    }
  });

  test("/livez, /readyz, /version and / answer without a key", async () => {
    for (const path of ["/livez", "/readyz", "/version", "/"]) {
      expect([path, (await harness.app.request(path)).status]).toEqual([path, 200]);
    }
    expect(await (await harness.app.request("/")).text()).toMatch(/console was not built/);
  });

  test("/metrics counts, and never names a session", async () => {
    const { session } = await create();
    await expectProblem(await harness.app.request("/metrics"), 401, "UNAUTHENTICATED");
    const text = await (await harness.ask(key, "GET", "/metrics")).text();
    expect(text).toMatch(/^relay_sessions\{state="pending",path="none"\} [1-9]/m);
    for (const name of [
      "relay_bytes_total",
      "relay_session_downtime_seconds",
      "relay_migration_seconds",
      "relay_pair_wait_seconds",
      "relay_accept_failures_total",
      "relay_path_upgrades_total",
      "relay_queue_bytes",
      "nodejs_eventloop_lag_seconds",
      "relay_handshake_failures_total",
      "relay_throttled_total",
      "relay_db_errors_total",
    ]) {
      expect(text).toContain(`# TYPE ${name} `);
    }
    expect(text).not.toContain(session.id);
  });
});

describe("a relay in trouble", () => {
  let broken: Harness;
  let brokenKey: string;
  beforeAll(async () => {
    broken = await startHarness();
    ({ key: brokenKey } = await broken.key("p", API_SCOPES));
  });
  afterAll(() => broken[Symbol.asyncDispose]());

  test("answers 503 while it goes down or its database is gone, and lets nobody in", async () => {
    const stream = await broken.ask(brokenKey, "GET", "/v1/events");
    broken.down.abort();
    await stream.text();
    await expectProblem(await broken.app.request("/readyz"), 503, "RELAY_DRAINING");
    expect((await broken.app.request("/livez")).status).toBe(200);
    await broken.database.close();
    const response = await broken.ask(brokenKey, "GET", "/v1/sessions");
    expect(response.headers.get("retry-after")).toBe("2");
    await expectProblem(response, 503, "DATABASE_UNAVAILABLE");
  });
});
