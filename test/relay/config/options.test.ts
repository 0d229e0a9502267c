import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

import { HELP, readConfig, type RelayConfig } from "../../../relay/config.ts";
import { OPTIONS } from "../../../relay/config/options.ts";
import { formatAddressRange } from "../../../relay/runtime/address-range.ts";

let directory: string;
let file: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-options-"));
  file = join(directory, "relay.toml");
});
afterEach(() => rm(directory, { recursive: true, force: true }));

async function config(
  toml: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<RelayConfig> {
  await writeFile(file, toml);
  const outcome = readConfig(["--config", file, ...args], { HOME: "/users/u", ...env });
  if (outcome.kind !== "config") throw new Error(JSON.stringify(outcome));
  return outcome.config;
}

async function problems(toml: string, ...args: string[]): Promise<readonly string[]> {
  await writeFile(file, toml);
  const outcome = readConfig(["--config", file, ...args], { HOME: "/users/u" });
  return outcome.kind === "problems" ? outcome.problems : [];
}

test("readConfig() takes every option from the file by the name of its flag", async () => {
  const found = await config(`
    # what a relay on the internet says
    listen = "0.0.0.0:443"
    dashboard = "off"
    data = "/srv/relay"
    database-url = "postgres://h/db"
    public-url = "https://relay.example"
    acme-domains = ["Relay.example", "b.example"]
    acme-agree-terms = true
    acme-email = "ops@relay.example"
    acme-directory = "staging"
    acme-challenge = "0.0.0.0:8080"
    secret-key-file = "/etc/memferry/secret-key"
    name = "fra-1"
    zone = "eu"
    drain-wait = 20
    webhook-allow = ["10.0.0.0/8", "fd00::/8"]
    webhook-http = true
    discovery-ports = [3478, 3479]
    log-level = "warn"
    json = true
    webtransport = false
    user-config = false
    limits = ["connections=20000", "failedLoginsPerPrefix = 0.25"]
  `);
  expect(found).toEqual({
    limits: { connections: 20_000, failedLoginsPerPrefix: 0.25 },
    listen: { host: "0.0.0.0", port: 443 },
    dashboard: undefined,
    dataDir: "/srv/relay",
    databaseUrl: "postgres://h/db",
    publicUrl: "https://relay.example",
    certificate: undefined,
    acme: {
      domains: ["relay.example", "b.example"],
      email: "ops@relay.example",
      directoryUrl: "https://acme-staging-v02.api.letsencrypt.org/directory",
      caFile: undefined,
      challenge: { host: "0.0.0.0", port: 8080 },
    },
    secretKeyFile: "/etc/memferry/secret-key",
    name: "fra-1",
    zone: "eu",
    drainWaitMs: 20_000,
    retention: { days: 90, auditDays: 400 },
    webhooks: { allow: found.webhooks.allow, http: true },
    discoveryPorts: [3478, 3479],
    webTransport: false,
    logLevel: "warn",
    json: true,
    userConfigFile: undefined,
  });
  expect(found.webhooks.allow.map(formatAddressRange)).toEqual(["10.0.0.0/8", "fd00::/8"]);
});

test("readConfig() puts flags over the environment over the file, switches too", async () => {
  const toml = `listen = "127.0.0.1:1"\nname = "file"\nzone = "file"\nwebtransport = false\njson = true`;
  const env = { MEMFERRY_NAME: "env", MEMFERRY_ZONE: "env", MEMFERRY_WEBHOOK_HTTP: "true" };
  expect(await config(toml, ["--zone", "flag"], env)).toMatchObject({
    listen: { host: "127.0.0.1", port: 1 },
    name: "env",
    zone: "flag",
    webTransport: false,
    json: true,
    webhooks: { http: true },
  });
  expect(await config("webtransport = true\njson = false")).toMatchObject({
    webTransport: true,
    json: false,
  });
});

test("readConfig() takes the environment's word for a switch over the file's, off as well as on", async () => {
  const toml = "json = true\nwebtransport = false";
  const env = { MEMFERRY_JSON: "false", MEMFERRY_WEBTRANSPORT: "true" };
  expect(await config(toml, [], env)).toMatchObject({ json: false, webTransport: true });
  expect(await config(toml, ["--no-webtransport"], env)).toMatchObject({ webTransport: false });
});

test("readConfig() names each unknown key and wrong type of the file, with the flags' problems", async () => {
  const found = await problems(
    `lissten = "0.0.0.0:443"\ndrain-wait = "5"\nname = 7\njson = "yes"\nno-webtransport = true\n` +
      `check-config = true\nconfig = "other"\nacme-domains = [true]\n[table]\na = 1`,
    "--log-level",
    "loud",
  );
  const named = found.map((line) => line.replace(`${file}: `, "").split(":")[0]);
  expect(named).toHaveLength(10);
  expect(new Set(named)).toEqual(
    new Set([
      "--log-level",
      "acme-domains",
      "check-config",
      "config",
      "drain-wait",
      "json",
      "lissten",
      "name",
      "no-webtransport",
      "table",
    ]),
  );
});

test("readConfig() says where a file is not TOML, and that one is missing, without a value from it", async () => {
  const [broken, ...more] = await problems(`name = "a"\ndatabase-url = "postgres://u:hunter2@h/d`);
  expect(more).toEqual([]);
  expect(broken).toMatch(/relay\.toml:2:\d+: this is not TOML: /);
  expect(broken).not.toContain("hunter2");
  await rm(file);
  expect(readConfig(["--config", file], {})).toMatchObject({
    problems: [expect.stringContaining("ENOENT")],
  });
});

test("readConfig() reads the database's URL from a file of its own, and refuses an empty or missing one", async () => {
  const secret = join(directory, "url");
  await writeFile(secret, "postgres://u:hunter2@h/db\n");
  expect((await config(`database-url-file = "${secret}"`)).databaseUrl).toBe(
    "postgres://u:hunter2@h/db",
  );
  await writeFile(secret, "mysql://u:hunter2@h/db\n");
  const [wrong] = await problems(`database-url-file = "${secret}"`);
  expect(wrong).toContain("not a URL of PostgreSQL");
  expect(wrong).not.toContain("hunter2");
  await writeFile(secret, "\n");
  expect(await problems(`database-url-file = "${secret}"`)).toHaveLength(1);
  await rm(secret);
  expect(await problems(`database-url-file = "${secret}"`)).toHaveLength(1);
});

test("readConfig() refuses certificates by ACME that could never be issued", async () => {
  const rest = "acme-agree-terms = true\n";
  expect(await problems(`acme-domains = ["relay.example"]`)).toEqual([
    expect.stringContaining("--acme-agree-terms"),
  ]);
  for (const name of ["*.example", "192.0.2.1", "a_b.example", "", "-a.example", "a..b"]) {
    expect([name, (await problems(`${rest}acme-domains = ["${name}"]`)).length]).toEqual([name, 1]);
  }
  expect(
    await problems(`${rest}acme-domains = ["a.example"]\nacme-directory = "http://a"`),
  ).toHaveLength(1);
  expect(await problems(`acme-email = "a@b"\nacme-challenge = "0.0.0.0:80"`)).toHaveLength(2);
  expect(
    await problems(
      `${rest}acme-domains = ["a.example"]\ncertificate = "c"\nprivate-key = "k"\nlisten = "0.0.0.0:80"`,
    ),
  ).toHaveLength(2);
});

test("readConfig() refuses ranges of addresses that mean another range", async () => {
  for (const range of [
    "10.0.0.1/8",
    "10.0.0.0/33",
    "10/8",
    "010.0.0.0/8",
    "::/129",
    "x",
    "1/2/3",
  ]) {
    expect([range, (await problems(`webhook-allow = ["${range}"]`)).length]).toEqual([range, 1]);
  }
});

test("HELP names every option", () => {
  for (const option of Object.keys(OPTIONS)) {
    expect([option, HELP.includes(`--${option}`)]).toEqual([option, true]);
  }
});
