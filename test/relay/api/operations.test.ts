import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";

import { toHex } from "../../../relay/protocol/bytes.ts";
import type { RelayNodeBody, WebhookBody } from "../../../relay/api/schemas/operations.ts";
import { RelayNode } from "../../../relay/relay-node.ts";
import { startHarness, type Harness } from "./harness.ts";

interface Answer {
  readonly code: string;
  readonly issues: readonly unknown[];
  readonly webhook: WebhookBody;
  readonly secret: string;
  readonly id: string;
  readonly state: string;
  readonly relays: readonly RelayNodeBody[];
}

/** What a test reads of it is what the test is about: an answer without it fails there. */
async function jsonOf(response: Response): Promise<Answer> {
  return (await response.json()) as Answer;
}

let harness: Harness;
let key: string;
beforeAll(async () => {
  harness = await startHarness();
  ({ key } = await harness.key("operations"));
});
afterAll(() => harness[Symbol.asyncDispose]());

const hook = { url: "https://hooks.example/in?token=t", eventTypes: ["session.*", "webhook.test"] };

async function made(body: unknown = hook, by = key) {
  const response = await harness.ask(by, "POST", "/v1/webhooks", body);
  expect(response.status).toBe(201);
  const { webhook, secret } = await jsonOf(response);
  return { id: String(webhook.id), secret: String(secret), webhook, response };
}

test("POST /v1/webhooks shows the secret once, and nothing else ever does", async () => {
  const { id, secret, response, webhook } = await made();
  expect(secret).toMatch(/^whsec_[A-Za-z0-9_-]{43}$/);
  expect(response.headers.get("location")).toBe(`/v1/webhooks/${id}`);
  expect(webhook).toMatchObject({ ...hook, enabled: true, version: 1, previousSecretUntil: null });
  const shown = await harness.ask(key, "GET", `/v1/webhooks/${id}`);
  expect(shown.headers.get("etag")).toBe('"1"');
  const list = await harness.ask(key, "GET", "/v1/webhooks");
  expect(`${await shown.text()}${await list.text()}${harness.logged.join("")}`).not.toContain(
    secret,
  );
});

test("PATCH and DELETE /v1/webhooks/{id} hold to the version that was seen", async () => {
  const { id } = await made();
  const ask = (method: string, ifMatch: string, body?: unknown) =>
    harness.app.request(`/v1/webhooks/${id}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        "if-match": ifMatch,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  const changed = await ask("PATCH", '"1"', { enabled: false });
  expect([changed.status, changed.headers.get("etag")]).toEqual([200, '"2"']);
  expect(await changed.json()).toMatchObject({ enabled: false, url: hook.url, version: 2 });
  const stale = await ask("PATCH", '"1"', { enabled: true });
  expect([stale.status, (await jsonOf(stale)).code]).toEqual([412, "VERSION_CONFLICT"]);
  expect((await ask("DELETE", '"1"')).status).toBe(412);
  expect((await ask("DELETE", '"2"')).status).toBe(204);
  expect((await harness.ask(key, "GET", `/v1/webhooks/${id}`)).status).toBe(404);
});

test("webhooks to addresses that are not public, and event types that are none, are refused", async () => {
  for (const body of [
    { ...hook, url: "http://hooks.example/" },
    { ...hook, url: "https://127.0.0.1/" },
    { ...hook, url: "https://0x7f000001/" },
    { ...hook, url: "https://[::ffff:169.254.169.254]/" },
    { ...hook, url: "https://u:p@hooks.example/" },
    { ...hook, url: "" },
    { ...hook, eventTypes: [] },
    { ...hook, eventTypes: ["*.done"] },
    { ...hook, eventTypes: ["session"] },
    { ...hook, projectId: toHex(randomBytes(16)) },
    { url: hook.url },
  ]) {
    const response = await harness.ask(key, "POST", "/v1/webhooks", body);
    const { code, issues } = await jsonOf(response);
    expect([body, response.status, code]).toEqual([body, 422, "REQUEST_INVALID"]);
    expect(issues.length).toBeGreaterThan(0);
  }
  const { id } = await made();
  const patched = await harness.ask(key, "PATCH", `/v1/webhooks/${id}`, {
    url: "https://10.0.0.1/",
  });
  expect(patched.status).toBe(422);
});

test(":test makes a delivery that the list shows, and :rotate another secret", async () => {
  const { id, secret } = await made();
  const tested = await harness.ask(key, "POST", `/v1/webhooks/${id}:test`);
  expect(tested.status).toBe(202);
  const delivery = await jsonOf(tested);
  expect(delivery).toMatchObject({ type: "webhook.test", state: "pending", attempts: 0 });
  const list = await harness.ask(key, "GET", `/v1/webhooks/${id}/deliveries?state=pending&limit=1`);
  expect(await list.json()).toMatchObject({ deliveries: [{ id: delivery.id }], nextCursor: null });
  const rotated = await harness.ask(key, "POST", `/v1/webhooks/${id}:rotate`, { previousForS: 60 });
  const { webhook, secret: next } = await jsonOf(rotated);
  expect(rotated.status).toBe(200);
  expect(next).not.toBe(secret);
  expect(Date.parse(webhook.previousSecretUntil ?? "")).toBeGreaterThan(Date.now());
  expect((await harness.ask(key, "POST", `/v1/webhooks/${id}:rotate`)).status).toBe(200);
  for (const bad of [{ previousForS: -1 }, { previousForS: 1e9 }, { other: 1 }]) {
    expect((await harness.ask(key, "POST", `/v1/webhooks/${id}:rotate`, bad)).status).toBe(422);
  }
  expect((await harness.ask(key, "POST", `/v1/webhooks/${id}:rotate`, "{")).status).toBe(400);
  expect((await harness.ask(key, "POST", `/v1/webhooks/${id}:burn`)).status).toBe(404);
});

test("another project's webhook is 404 on every route, and a key without admin is 403", async () => {
  const { id } = await made();
  const { key: stranger } = await harness.key("strangers");
  const { key: reader } = await harness.key("operations", ["sessions:read"]);
  for (const [method, path, body] of [
    ["GET", `/v1/webhooks/${id}`, undefined],
    ["PATCH", `/v1/webhooks/${id}`, { enabled: false }],
    ["DELETE", `/v1/webhooks/${id}`, undefined],
    ["POST", `/v1/webhooks/${id}:test`, undefined],
    ["POST", `/v1/webhooks/${id}:rotate`, undefined],
    ["GET", `/v1/webhooks/${id}/deliveries`, undefined],
  ] as const) {
    const theirs = await harness.ask(stranger, method, path, body);
    expect([method, path, theirs.status]).toEqual([method, path, 404]);
    expect((await harness.ask(reader, method, path, body)).status).toBe(403);
  }
  const listed = await harness.ask(stranger, "GET", "/v1/webhooks");
  expect(await listed.json()).toEqual({ webhooks: [], nextCursor: null });
});

test("GET /v1/relays shows each relay with its load, to operators alone", async () => {
  const { key: reader } = await harness.key("operations", ["sessions:read"]);
  expect((await harness.ask(reader, "GET", "/v1/relays")).status).toBe(403);
  const list = await jsonOf(await harness.ask(key, "GET", "/v1/relays"));
  expect(list).toMatchObject({
    relays: [
      {
        id: harness.relay.id,
        name: "test",
        url: "https://relay.test:8443",
        state: "active",
        wantedState: "active",
        isThis: true,
      },
    ],
    nextCursor: null,
  });
  const load = list.relays[0]?.load;
  expect(load?.memoryBytes).toBeGreaterThan(1_000_000);
  expect(load?.openFilesMax).toBeGreaterThanOrEqual(load?.openFiles ?? Number.NaN);
  const shown = await harness.ask(key, "GET", `/v1/relays/${harness.relay.id}`);
  expect(await shown.json()).toMatchObject({ id: harness.relay.id });
  for (const id of [toHex(randomBytes(16)), "x", "%00"]) {
    expect((await harness.ask(key, "GET", `/v1/relays/${id}`)).status).toBe(404);
    expect((await harness.ask(key, "POST", `/v1/relays/${id}:drain`)).status).toBe(404);
  }
});

test("a relay that is drained refuses new sessions and is not ready, until it is undrained", async () => {
  const act = async (action: string) => {
    const response = await harness.ask(key, "POST", `/v1/relays/${harness.relay.id}:${action}`);
    return [response.status, (await jsonOf(response)).state];
  };
  expect(await act("drain")).toEqual([202, "draining"]);
  const refused = await harness.ask(key, "POST", "/v1/sessions", {});
  expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
  expect(await refused.json()).toMatchObject({ code: "RELAY_DRAINING", alternateUrls: [] });
  const other = new RelayNode({
    database: harness.database,
    log: () => {},
    url: () => "https://other.test:8443",
    version: "0.0.0-test",
    name: "other",
    zone: "",
    sessions: () => 0,
    bytesRelayed: () => 0,
  });
  await other.start();
  const elsewhere = await harness.ask(key, "POST", "/v1/sessions", {});
  expect(await elsewhere.json()).toMatchObject({ alternateUrls: ["https://other.test:8443"] });
  await other.stop();
  expect((await harness.app.request("/readyz")).status).toBe(503);
  expect((await harness.app.request("/livez")).status).toBe(200);
  // What is there can be looked at and ended.
  expect((await harness.ask(key, "GET", "/v1/sessions")).status).toBe(200);
  expect(await act("undrain")).toEqual([202, "active"]);
  expect((await harness.ask(key, "POST", "/v1/sessions", {})).status).toBe(201);
  expect((await harness.app.request("/readyz")).status).toBe(200);
  expect(await act("sleep")).toEqual([404, undefined]);
});
