import { expect, test } from "vitest";

import { HELP, parseAddress, readConfig, type RelayConfig } from "../../relay/config.ts";

const home = { HOME: "/users/u" };

function config(args: string[], env: Record<string, string> = home): RelayConfig {
  const outcome = readConfig(args, env);
  if (outcome.kind !== "config") throw new Error(JSON.stringify(outcome));
  return outcome.config;
}

function problems(args: string[], env: Record<string, string> = home): readonly string[] {
  const outcome = readConfig(args, env);
  return outcome.kind === "problems" ? outcome.problems : [];
}

test("readConfig() without anything said is a relay on loopback with its own database", () => {
  expect(config([])).toEqual({
    limits: {},
    listen: { host: "127.0.0.1", port: 8443 },
    dashboard: { host: "127.0.0.1", port: 8444 },
    dataDir: "/users/u/.local/state/memferry/relay",
    databaseUrl: undefined,
    publicUrl: undefined,
    certificate: undefined,
    acme: undefined,
    secretKeyFile: undefined,
    name: "",
    zone: "",
    drainWaitMs: 5_000,
    retention: { days: 90, auditDays: 400 },
    webhooks: { allow: [], http: false },
    discoveryPorts: [8444, 8445],
    webTransport: true,
    logLevel: "info",
    json: false,
    userConfigFile: "/users/u/.config/memferry/config.json",
  });
});

test("readConfig() puts flags over the environment over defaults", () => {
  const env = {
    ...home,
    MEMFERRY_LISTEN: "[::]:1",
    MEMFERRY_LOG_LEVEL: "debug",
    MEMFERRY_DASHBOARD: "",
    DATABASE_URL: "postgres://h/db",
    XDG_STATE_HOME: "/state",
    XDG_CONFIG_HOME: "relative/is/ignored",
  };
  expect(config(["--listen", "0.0.0.0:2", "--dashboard=off", "--json"], env)).toMatchObject({
    listen: { host: "0.0.0.0", port: 2 },
    dashboard: undefined,
    databaseUrl: "postgres://h/db",
    logLevel: "debug",
    json: true,
    dataDir: "/state/memferry/relay",
    userConfigFile: "/users/u/.config/memferry/config.json",
  });
  expect(config([], env).listen).toEqual({ host: "::", port: 1 });
  expect(config(["--public-url", "https://relay.example/"]).publicUrl).toBe(
    "https://relay.example",
  );
  expect(config(["--no-user-config"]).userConfigFile).toBeUndefined();
});

test("readConfig() takes two ports for address discovery, any, or none", () => {
  const ports = (...args: string[]): unknown => config(args).discoveryPorts;
  expect(ports("--discovery-ports", "3478,3479")).toEqual([3478, 3479]);
  expect(ports("--discovery-ports", "0,0")).toEqual([0, 0]);
  expect(ports("--discovery-ports", "none")).toBeUndefined();
  expect(ports("--listen", "127.0.0.1:0")).toEqual([0, 0]);
  expect(ports("--listen", "127.0.0.1:65534")).toEqual([0, 0]);
  for (const bad of ["1", "1,1", "1,65536", "a,b", "1,2,3", "off"]) {
    expect(problems(["--discovery-ports", bad])).toEqual([
      `--discovery-ports: "${bad}" is not two different ports: write e.g. 8444,8445, or none`,
    ]);
  }
});

test("readConfig() reports every problem at once, one line each, with its cure", () => {
  const found = problems([
    "--listen",
    "8443",
    "--dashboard",
    "0.0.0.0:8444",
    "--database-url",
    "mysql://root:hunter2@h/db",
    "--public-url",
    "http://relay.example/path",
    "--certificate",
    "c.pem",
    "--log-level",
    "loud",
    "--colour",
    "--json=yes",
    "extra",
    "--data",
  ]);
  expect(found).toHaveLength(10);
  for (const line of found) expect(line).toMatch(/^[^\n]+: [^\n]+$/);
  expect(found.join("\n")).not.toContain("hunter2");
});

test("readConfig() refuses a dashboard that others can reach, or on the relay's own port", () => {
  for (const host of ["192.168.1.2", "relay.example", "[::]", "127.0.0.1.example.com", ""]) {
    expect([host, problems(["--dashboard", `${host}:9000`]).length]).toEqual([host, 1]);
  }
  for (const host of ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"]) {
    expect([host, problems(["--dashboard", `${host}:9000`])]).toEqual([host, []]);
  }
  expect(problems(["--listen", "127.0.0.1:9000", "--dashboard", "127.0.0.1:9000"])).toHaveLength(1);
  expect(problems(["--listen", "0.0.0.0:9000", "--dashboard", "127.0.0.1:9000"])).toHaveLength(1);
  expect(problems(["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0"])).toEqual([]);
});

test("readConfig() answers --help whatever else is wrong, and names every option there", () => {
  expect(readConfig(["--nonsense", "--help"], home)).toEqual({ kind: "help" });
  expect(readConfig(["-h"], home)).toEqual({ kind: "help" });
  for (const flag of [
    "--listen",
    "--dashboard",
    "--data",
    "--database-url",
    "--public-url",
    "--json",
  ]) {
    expect(HELP).toContain(flag);
  }
});

test("parseAddress() takes HOST:PORT and nothing else", () => {
  expect(parseAddress("[2001:db8::1]:443")).toEqual({ host: "2001:db8::1", port: 443 });
  expect(parseAddress(":443")).toEqual({ host: "", port: 443 });
  for (const text of [
    "",
    "host",
    "host:",
    "host:65536",
    "host:-1",
    "::1:80",
    "a b:1",
    "host:1:2",
    "[::1]",
  ]) {
    expect([text, parseAddress(text)]).toEqual([text, undefined]);
  }
});

test("readConfig() takes limits by their names, and names every one that is wrong", () => {
  expect(config(["--limits", "handshakeMs=5000, connections=1"]).limits).toEqual({
    handshakeMs: 5_000,
    connections: 1,
  });
  const found = problems(["--limits", "nonsense=1,connections=x,bodyBytes=5,handshakeMs"]);
  expect(found).toHaveLength(4);
  for (const name of ["nonsense", "connections", "bodyBytes", "handshakeMs"]) {
    expect(found.join("\n")).toContain(`"${name}"`);
  }
});
