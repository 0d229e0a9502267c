/** Cases 25 to 39 of the list of what a relay must survive: the API and what is behind it. */
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { API_SCOPES } from "../../relay/db/schema.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { operationsOf, type OpenApi } from "./openapi.ts";
import { exchange, loopback, secured, tlsSocket } from "./raw.ts";
import { Scene } from "./scene.ts";

const KIB = 1024;

let scene: Scene;
let key: string;

beforeAll(async () => {
  if (!requireTool("postgres").available) return;
  scene = await Scene.open({
    limits: { requests: 20_000, requestBurst: 20_000, acceptsPerPrefix: 2_000 },
  });
  key = await scene.key("abuser");
});
afterAll(() => scene?.[Symbol.asyncDispose]());

const openapi = async (): Promise<OpenApi> =>
  // Written by the relay that is looked at.
  (await (await fetch(`${scene.plainUrl}/openapi.json`)).json()) as OpenApi;

describe("the API", () => {
  test("(25) what another project has is not there, on any route, and what is not asked for is refused", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const victim = await scene.key("victim");
    const session = await scene.session(victim);
    // As one who may do everything in a project, but is no operator.
    const stranger = await scene.key(
      "stranger",
      API_SCOPES.filter((scope) => scope !== "operator"),
    );
    const before = (await scene.ask(victim, "GET", `/v1/sessions/${session.id}`)).body;
    let walked = 0;
    for (const { method, path } of operationsOf(await openapi())) {
      if (!path.startsWith("/v1/sessions/{id}")) continue;
      const answer = await scene.ask(
        stranger,
        method,
        path.replace("{id}", session.id),
        method === "GET" || method === "DELETE" ? undefined : {},
      );
      expect([method, path, answer.status]).toEqual([method, path, 404]);
      walked++;
    }
    expect(walked).toBeGreaterThan(4);
    expect((await scene.ask(victim, "GET", `/v1/sessions/${session.id}`)).body).toEqual(before);
    for (const field of [
      "projectId",
      "id",
      "state",
      "owner",
      "ownerEpoch",
      "createdBy",
      "version",
      "__proto__",
    ]) {
      const body = `{"name":"x","${field}":"${before.id}"}`;
      const made = await scene.ask(stranger, "POST", "/v1/sessions", body);
      expect([field, made.status]).toEqual([field, 422]);
    }
  });

  test("(26) pages of a billion, and cursors that are made up", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const lists = operationsOf(await openapi()).filter(({ method, described }) => {
      const names = described.parameters?.map(({ name }) => name) ?? [];
      return method === "GET" && names.includes("cursor");
    });
    expect(lists.length).toBeGreaterThan(0);
    const session = await scene.session(key);
    const wild = [
      "limit=1e9",
      "limit=1000000000",
      "limit=0",
      "limit=-1",
      "limit=NaN",
      "limit=1;drop",
      "cursor=",
      "cursor=AAAA",
      `cursor=${"A".repeat(199)}`,
      `cursor=${"A".repeat(20_000 / 4)}`,
      "cursor=%00",
      "cursor=eyJjcmVhdGVkQXQiOiJub3cifQ",
      "cursor=../../x",
      `cursor=${Buffer.from('["2026-01-01T00:00:00Z","\' or 1=1"]').toString("base64url")}`,
    ];
    for (const { path } of lists) {
      for (const query of wild) {
        const target = `${path.replace("{id}", session.id)}?${query}`;
        const { status } = await scene.ask(key, "GET", target);
        expect([400, 404, 422], `${target.slice(0, 80)}: ${status}`).toContain(status);
      }
    }
    await scene.during(async (signal) => {
      while (!signal.aborted) {
        const list = lists[Math.floor(Math.random() * lists.length)];
        const path = list?.path.replace("{id}", session.id);
        await scene.ask(key, "GET", `${path}?${wild[Math.floor(Math.random() * wild.length)]}`);
      }
    });
  });

  test("(27) an Idempotency-Key with another body is refused, and with the same makes nothing twice", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const send = async (
      name: string,
      token: string,
    ): Promise<{ status: number; id: unknown; code: unknown }> => {
      const response = await fetch(`${scene.plainUrl}/v1/sessions`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${key}`,
          "content-type": "application/json",
          "idempotency-key": token,
        },
        body: JSON.stringify({ name }),
      });
      // Of a session or of a problem.
      const body = (await response.json()) as { session?: { id: string }; code?: string };
      return { status: response.status, id: body.session?.id, code: body.code };
    };
    const token = randomBytes(8).toString("hex");
    const first = await send("one", token);
    expect(first.status).toBe(201);
    expect(await send("one", token)).toEqual(first);
    expect(await send("two", token)).toMatchObject({ status: 422, code: "IDEMPOTENCY_KEY_REUSED" });
    const racing = randomBytes(8).toString("hex");
    const raced = await Promise.all(Array.from({ length: 10 }, () => send("r", racing)));
    const made = new Set(raced.filter(({ status }) => status === 201).map(({ id }) => id));
    expect(made.size).toBe(1);
    for (const { status } of raced) expect([201, 409]).toContain(status);
  });

  test("(28) readers of events that never read are bounded in number and in what they hold", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const request = `GET /v1/events HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer ${key}\r\n\r\n`;
    const sockets = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const socket = tlsSocket(scene.relay.port, loopback(10 + i));
        await secured(socket);
        socket.write(request);
        await new Promise((resolve) => socket.once("data", resolve));
        // From here on nobody reads.
        socket.removeAllListeners("data");
        socket.pause();
        return socket;
      }),
    );
    const refused = await exchange(
      scene.relay.port,
      request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
      loopback(50),
    );
    expect(refused).toContain("HTTP/1.1 429");
    expect(refused).toContain('"limitName":"eventStreamsPerKey"');
    expect(refused.toLowerCase()).toContain("retry-after:");
    const name = "x".repeat(120);
    let changed = 0;
    await scene.during(async (signal) => {
      await Promise.all(
        Array.from({ length: 4 }, async () => {
          while (!signal.aborted) {
            const { status, body } = await scene.ask(key, "POST", "/v1/sessions", { name });
            if (status === 201) {
              await scene.ask(key, "POST", `/v1/sessions/${body.session.id}:cancel`);
              changed++;
            } else await sleep(5);
          }
        }),
      );
    });
    expect(changed).toBeGreaterThan(20);
    for (const socket of sockets) socket.destroy();
    const { body } = await scene.ask(key, "GET", "/v1/limits");
    const streams = body.limits.find(({ name }: { name: string }) => name === "eventStreamsPerKey");
    expect(streams.bound).toBe(20);
  });

  test("(29) names that are markup, formulas or lines of a log stay what they are", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    for (const name of ["a\nb", "a\r\nfake: log", "\u001b[2J", "\u0000", "\u2028", "\ud800"]) {
      expect((await scene.ask(key, "POST", "/v1/sessions", { name })).status).toBe(422);
    }
    const markup = "<script>alert(1)</script>=cmd|' /C calc'!A0";
    const made = await scene.ask(key, "POST", "/v1/sessions", {
      name: markup,
      labels: { team: '"><img src=x onerror=alert(1)>' },
    });
    expect(made.status).toBe(201);
    const shown = await scene.ask(key, "GET", `/v1/sessions/${made.body.session.id}`);
    expect(shown.body.name).toBe(markup);
    expect(shown.headers.get("content-type")).toMatch(/^application\/json/);
    expect(shown.headers.get("x-content-type-options")).toBe("nosniff");
    const page = await fetch(scene.plainUrl);
    expect(page.headers.get("content-security-policy")).toMatch(/default-src 'self'/);
    expect(page.headers.get("content-security-policy")).not.toMatch(/unsafe-inline|unsafe-eval/);
    // Each line of the log is one object, whatever was sent.
    for (const line of scene.relay.program.stderr.split("\n").filter((text) => text !== "")) {
      expect(() => JSON.parse(line) as unknown, line.slice(0, 200)).not.toThrow();
    }
  });

  test("(30) a page of another origin can neither read nor write", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const origin = "https://evil.example";
    const asked = await fetch(`${scene.plainUrl}/v1/sessions`, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST" },
    });
    expect(asked.headers.get("access-control-allow-origin")).toBeNull();
    const read = await fetch(`${scene.plainUrl}/v1/sessions`, {
      headers: { origin, authorization: `Bearer ${key}` },
    });
    expect(read.headers.get("access-control-allow-origin")).toBeNull();
    expect(read.headers.get("cross-origin-resource-policy")).toBe("same-origin");
    // With the cookie of somebody who is signed in, as a form of another page would send it.
    const signIn = await fetch(`${scene.plainUrl}/v1/sign-in`, {
      method: "POST",
      headers: { "content-type": "application/json", origin: new URL(scene.plainUrl).origin },
      body: JSON.stringify({ key }),
    });
    expect(signIn.status).toBeLessThan(300);
    const cookie = (signIn.headers.get("set-cookie") ?? "").split(";")[0] ?? "";
    expect(signIn.headers.get("set-cookie")).toMatch(/httponly/i);
    expect(signIn.headers.get("set-cookie")).toMatch(/samesite=strict/i);
    for (const headers of [
      { cookie, origin },
      { cookie, "sec-fetch-site": "cross-site" },
      // The same site, but a form: it cannot send the header with the token.
      { cookie },
    ]) {
      const forged = await fetch(`${scene.plainUrl}/v1/sessions`, {
        method: "POST",
        headers: { ...headers, "content-type": "application/json" },
        body: "{}",
      });
      expect([401, 403]).toContain(forged.status);
    }
    const stream = await fetch(`${scene.plainUrl}/v1/events`, { headers: { cookie, origin } });
    expect([401, 403]).toContain(stream.status);
    await stream.body?.cancel();
  });

  test("(31) webhooks to addresses that are not public are refused in every spelling", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const urls = [
      "https://127.0.0.1/x",
      "https://127.1/x",
      "https://2130706433/x",
      "https://0x7f.0.0.1/x",
      "https://0177.0.0.1/x",
      "https://[::1]/x",
      "https://[::ffff:127.0.0.1]/x",
      "https://[::ffff:7f00:1]/x",
      "https://[64:ff9b::7f00:1]/x",
      "https://169.254.169.254/latest/meta-data",
      "https://[fd00:ec2::254]/x",
      "https://10.0.0.1/x",
      "https://172.16.0.1/x",
      "https://192.168.1.1/x",
      "https://100.64.0.1/x",
      "https://0.0.0.0/x",
      "https://224.0.0.1/x",
      "https://[fe80::1]/x",
      "http://example.com/x",
      "file:///etc/passwd",
      "gopher://127.0.0.1:6379/_x",
      "https://user:pass@example.com/x",
    ];
    const accepted: string[] = [];
    for (const url of urls) {
      const { status } = await scene.ask(key, "POST", "/v1/webhooks", { url, eventTypes: ["*"] });
      expect(status, url).toBeLessThan(500);
      if (status === 201) accepted.push(url);
    }
    expect(accepted).toEqual([]);
  });

  test("(36) bodies that are packed, or too large, are not unpacked and not read", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const bomb = gzipSync(Buffer.alloc(50 * KIB * KIB, 0x20));
    expect(bomb.length).toBeLessThan(64 * KIB);
    const send = async (headers: Record<string, string>, body: Uint8Array<ArrayBuffer>) =>
      (
        await fetch(`${scene.plainUrl}/v1/sessions`, {
          method: "POST",
          headers: {
            authorization: `Bearer ${key}`,
            "content-type": "application/json",
            ...headers,
          },
          body,
        })
      ).status;
    await scene.during(async (signal) => {
      while (!signal.aborted) {
        expect(await send({ "content-encoding": "gzip" }, Uint8Array.from(bomb))).toBe(400);
        expect(await send({}, new Uint8Array(64 * KIB + 1).fill(0x20))).toBe(413);
      }
    });
    const deep = `${"[".repeat(30_000)}${"]".repeat(30_000)}`;
    expect((await scene.ask(key, "POST", "/v1/sessions", deep)).status).toBe(422);
  });

  test("(37) a million labels do not fit, nor a body of them", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const labels = (count: number): Record<string, string> =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`l${i}`, "v"]));
    expect((await scene.ask(key, "POST", "/v1/sessions", { labels: labels(32) })).status).toBe(201);
    for (const [count, status] of [
      [33, 422],
      [4_000, 422],
      [100_000, 413],
    ] as const) {
      const answer = await scene.ask(key, "POST", "/v1/sessions", { labels: labels(count) });
      expect([count, answer.status]).toEqual([count, status]);
    }
    const long = { labels: { a: "x".repeat(129) } };
    expect((await scene.ask(key, "POST", "/v1/sessions", long)).status).toBe(422);
  });

  test("(38) a project whose sessions run is not deleted", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const operator = await scene.key("operators");
    const { body } = await scene.ask(await scene.key("good"), "GET", "/v1/projects");
    const own = body.projects?.find(({ name }: { name: string }) => name === "good");
    const good: string | undefined = own?.id;
    expect(good).toMatch(/^[0-9a-f]{32}$/);
    const deleted = await scene.ask(operator, "DELETE", `/v1/projects/${good}`);
    expect(deleted.status).toBe(409);
    await scene.stillGood();
  });

  test("(32) a database that stands still holds up nobody who runs, and is not waited for by new ones", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    let refused = 0;
    await scene.during(async (signal) => {
      scene.postgres.signal("SIGSTOP");
      try {
        while (!signal.aborted) {
          const { status } = await scene.ask(key, "GET", "/v1/sessions");
          if (status === 503) refused++;
          await sleep(50);
        }
        // Long enough that somebody was told.
        for (let i = 0; i < 40 && refused === 0; i++) {
          const { status } = await scene.ask(key, "GET", "/v1/sessions");
          if (status === 503) refused++;
        }
      } finally {
        scene.postgres.signal("SIGCONT");
      }
    });
    expect(refused).toBeGreaterThan(0);
    let back = 0;
    for (let i = 0; i < 100 && back !== 200; i++) {
      await sleep(200);
      back = (await scene.ask(key, "GET", "/v1/sessions")).status;
    }
    expect(back).toBe(200);
  });

  test("(39) nothing that a client chose is a label of a metric, and their number does not grow", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const metrics = async (): Promise<string[]> =>
      (await (await fetch(`${scene.plainUrl}/metrics`)).text())
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("#"));
    const before = await metrics();
    const ids: string[] = [];
    for (let i = 0; i < 50; i++) {
      const { body } = await scene.ask(key, "POST", "/v1/sessions", { name: `label-${i}` });
      if (body.session !== undefined) ids.push(String(body.session.id));
      await scene.ask(key, "GET", `/v1/${randomBytes(8).toString("hex")}`);
      await scene.ask(`mfk_${randomBytes(6).toString("hex")}_x`, "GET", "/v1/sessions");
    }
    const after = await metrics();
    const text = after.join("\n");
    for (const chosen of ["label-", "abuser", key.split("_")[1] ?? key, ...ids]) {
      expect(text.includes(chosen)).toBe(false);
    }
    // Kinds of a thing that had not happened before; not one for each.
    expect(after.length - before.length).toBeLessThan(20);
  });

  test("(2) requests of one key beyond its rate are refused, and another key's are not", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    await using strict = await Scene.open({ limits: { requests: 20, requestBurst: 30 } });
    const [one, other] = [await strict.key("a"), await strict.key("b")];
    let limited = 0;
    await strict.during(async (signal) => {
      while (!signal.aborted) {
        const { status, body, headers } = await strict.ask(one, "GET", "/v1/sessions");
        if (status === 429) {
          limited++;
          expect([body.code, body.limitName, body.limit]).toEqual(["RATE_LIMITED", "requests", 20]);
          expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
        }
      }
    });
    expect(limited).toBeGreaterThan(20);
    expect((await strict.ask(other, "GET", "/v1/sessions")).status).toBe(200);
    expect(await strict.throttled("requests")).toBeGreaterThanOrEqual(limited);
  });
});

test("(10) secrets are compared in constant time, and found by a hash of them", () => {
  const secret = /\b(tokenHash|secretHash|codeHash|cookieHash|streamSecret|peerKey)\b/;
  const sources = [
    "db/session-store.ts",
    "db/api-keys.ts",
    "switchboard/room.ts",
    "switchboard/switchboard.ts",
    "switchboard/joining.ts",
  ];
  let constant = 0;
  for (const file of sources) {
    const text = readFileSync(new URL(`../../relay/${file}`, import.meta.url), "utf8");
    for (const line of text.split("\n")) {
      if (line.includes("timingSafeEqual(")) constant++;
      if (secret.test(line))
        expect(line).not.toMatch(/(?<![=!])[=!]==?(?!\s*(null|undefined))(?!=)\s/);
    }
  }
  expect(constant).toBeGreaterThanOrEqual(5);
});

test("(24) the relay opens connections to nobody that a peer or client names", () => {
  // Where it does open any: to its database, to webhooks (case 31), and to the authority of its certificate.
  const allowed = /^(db\/database|webhooks\/|transport\/acme|config\/check)/;
  const opens =
    /\b(createConnection|connectTls|tls\.connect|http2?s?\.request|fetch|new WebSocket|new WebTransport)\(/;
  const found = sourcesOfRelay().filter(
    ({ file, text }) =>
      !allowed.test(file) && opens.test(text.replaceAll(/app\.fetch|\/\*.*?\*\//gs, "")),
  );
  expect(found.map(({ file }) => file)).toEqual([]);
});

function sourcesOfRelay(): { file: string; text: string }[] {
  const folder = new URL("../../relay/", import.meta.url);
  return filesBelow(folder).map((url) => ({
    file: url.href.slice(folder.href.length),
    text: readFileSync(url, "utf8"),
  }));
}

function filesBelow(folder: URL): URL[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory()
      ? filesBelow(new URL(`${entry.name}/`, folder))
      : entry.name.endsWith(".ts")
        ? [new URL(entry.name, folder)]
        : [],
  );
}
