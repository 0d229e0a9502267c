/**
 * `memferry doctor` beside a real relay, and where there is none.
 */
import { createServer, type Server } from "node:net";
import { once } from "node:events";

import { expect, test } from "vitest";

import { requireWan, skipUnless } from "../support/requires.ts";
import { Lab } from "../support/wan/lab.ts";
import { Stage, type Result, type TestRelay } from "./harness.ts";

interface Check {
  readonly id: string;
  readonly status: string;
  readonly found: string;
  readonly cure: string | null;
}

function checks({ stdout }: Result): Map<string, Check> {
  const lines = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Check & { event: string });
  return new Map(lines.filter(({ event }) => event === "check").map((line) => [line.id, line]));
}

const statusOf = (all: Map<string, Check>, ...ids: string[]): (string | undefined)[] =>
  ids.map((id) => all.get(id)?.status);

async function silentServer(): Promise<{ server: Server; port: number }> {
  const server = createServer(() => {});
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  return { server, port: typeof address === "object" && address !== null ? address.port : 0 };
}

const hash = (relay: TestRelay): string => (relay.certificateHashes[0] ?? "").replaceAll(":", "");

test("doctor finds a relay that the user knows, and says that a migration can work", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay();
  const result = await stage.run(["doctor", "--json"]);
  expect(result.stderr).toBe("");
  expect(result.code).toBe(0);
  const found = checks(result);
  expect(statusOf(found, "name", "tcp", "tls", "websocket", "key", "udp", "nat", "clock")).toEqual(
    Array(8).fill("ok"),
  );
  expect(found.get("nat")?.found).toBe("IPv4: none");
  expect(found.get("udp")?.found).toBe("the relay sees 127.0.0.1");
  expect(found.get("tls")?.found).toContain(hash(relay).slice(0, 12));
  const last = JSON.parse(result.stdout.trim().split("\n").at(-1) ?? "") as unknown;
  expect(last).toMatchObject({ event: "doctor", works: true, failures: 0 });

  const shown = await stage.run(["doctor"]);
  expect(shown.code).toBe(0);
  expect(shown.stdout).toMatch(/^memferry doctor: https:\/\/127\.0\.0\.1:\d+\n/);
  expect(shown.stdout).toMatch(/^ {2}ok {4}WebSocket +opens in/m);
  expect(shown.stdout).toMatch(/A migration can work from here[^\n]*\.\n$/);
  expect(shown.stdout + shown.stderr).not.toContain(relay.key);
});

test("doctor of a relay that is not known yet looks further, and shows it no key", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay({ args: ["--no-user-config", "--discovery-ports", "none"] });
  const args = ["doctor", "--relay", relay.url, "--json"];
  const result = await stage.run(args, { environment: { MEMFERRY_KEY: relay.key } });
  expect(result.code).toBe(0);
  const found = checks(result);
  expect(statusOf(found, "tls", "websocket", "key", "udp", "nat")).toEqual([
    "warn",
    "ok",
    "unknown",
    "warn",
    "unknown",
  ]);
  expect(found.get("tls")?.cure).toContain(`--certificate-hash ${hash(relay)}`);
  expect(found.get("udp")?.cure).toContain("--discovery-ports");
});

test("doctor where nobody answers is a table all the same, and status 1", async () => {
  await using stage = await Stage.open();
  const { server, port } = await silentServer();
  server.close();
  const refused = await stage.run(["doctor", "--relay", `https://127.0.0.1:${port}`, "--json"]);
  expect(refused.code).toBe(1);
  const found = checks(refused);
  expect(statusOf(found, "name", "tcp", "tls", "websocket", "node", "addon")).toEqual([
    "ok",
    "fail",
    "unknown",
    "unknown",
    "ok",
    "ok",
  ]);
  const unknown = await stage.run(["doctor", "--relay", "https://relay.invalid:8443"]);
  expect(unknown.code).toBe(1);
  expect(unknown.stdout).toMatch(/^ {2}fail {2}name resolves /m);
  expect(unknown.stdout).toMatch(/No migration can work from here until /);

  const wrong = await stage.run(["doctor", "--relay", "http://relay.example"]);
  expect(wrong.code).toBe(1);
  expect(wrong.stderr).toContain("use https://HOST:PORT");
});

test("doctor does not wait for who takes a connection and says nothing", async () => {
  await using stage = await Stage.open();
  const { server, port } = await silentServer();
  try {
    const result = await stage.run(["doctor", "--relay", `https://127.0.0.1:${port}`, "--json"]);
    expect(result.code).toBe(1);
    expect(statusOf(checks(result), "tcp", "tls")).toEqual(["ok", "fail"]);
  } finally {
    server.close();
  }
});

test("doctor without a relay looks at this host", async () => {
  await using stage = await Stage.open();
  const result = await stage.run(["doctor", "--json"]);
  expect(result.code).toBe(0);
  expect(statusOf(checks(result), "relay", "node", "disk")).toEqual(["unknown", "ok", "ok"]);
});

test.for(["v4", "v6"] as const)("doctor tells the kind of NAT over IP%s", async (family, ctx) => {
  skipUnless(ctx, requireWan());
  await using lab = await Lab.create({
    nodes: {
      relay: {},
      open: {},
      easy: { nat: "easy" },
      symmetric: { nat: "symmetric" },
      blocked: { nat: "udp-blocked" },
      carrier: { nat: "cgnat" },
    },
    link: { delayMs: 5 },
  });
  await using stage = await Stage.open();
  const host = lab.address("relay")[family];
  const listen = family === "v6" ? `[${host}]:0` : `${host}:0`;
  await stage.relay({ within: lab.inside("relay"), args: ["--listen", listen] });
  const doctor = async (node: string): Promise<Map<string, Check>> => {
    const result = await stage.run(["doctor", "--json"], { within: lab.inside(node) });
    expect(result.code, node).toBe(0);
    return checks(result);
  };
  const nats: Record<string, string | undefined> = {};
  for (const node of ["open", "easy", "symmetric", "carrier"]) {
    nats[node] = (await doctor(node)).get("nat")?.found.replace(/;.*| only.*/, "");
  }
  const ip = family === "v4" ? "IPv4" : "IPv6";
  expect(nats).toEqual({
    open: `${ip}: none`,
    easy: `${ip}: endpoint-independent`,
    symmetric: `${ip}: endpoint-dependent:`,
    carrier: `${ip}: endpoint-independent`,
  });
  const blocked = await doctor("blocked");
  expect(statusOf(blocked, "websocket", "webtransport", "udp", "nat")).toEqual([
    "ok",
    "warn",
    "warn",
    "unknown",
  ]);
});

test("doctor tells of a proxy that does not answer, and shows none of its password", async () => {
  await using stage = await Stage.open();
  await stage.relay();
  const { server, port } = await silentServer();
  server.close();
  const proxy = `http://somebody:secret-word@127.0.0.1:${port}`;
  const result = await stage.run(["doctor", "--json"], { environment: { HTTPS_PROXY: proxy } });
  expect(result.code).toBe(1);
  const found = checks(result);
  expect(statusOf(found, "tcp", "proxy", "tls")).toEqual(["ok", "warn", "fail"]);
  expect(found.get("proxy")?.found).toContain(`127.0.0.1:${port}`);
  expect(result.stdout + result.stderr).not.toContain("secret-word");
  const past = await stage.run(["doctor", "--json"], {
    environment: { HTTPS_PROXY: proxy, NO_PROXY: "127.0.0.1" },
  });
  expect(past.code).toBe(0);
});
