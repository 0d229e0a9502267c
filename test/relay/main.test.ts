import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { afterEach, beforeEach, expect, test } from "vitest";

import { denoRelayFlags } from "../../peer/demo/deno-relay.ts";

const main = fileURLToPath(new URL("../../relay/main.ts", import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));

let directory: string;
const children = new Set<ChildProcess>();

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-main-"));
});
afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  await rm(directory, { recursive: true, force: true });
});

interface Run {
  readonly child: ChildProcess;
  out: string;
  err: string;
  readonly exit: Promise<number | null>;
}

function start(...args: string[]): Run {
  // By what runs the test.
  const before = "Deno" in globalThis ? denoRelayFlags({ root, writable: [directory] }) : [];
  const child = spawn(process.execPath, [...before, main, ...args], {
    env: { ...process.env, XDG_CONFIG_HOME: join(directory, "config"), DATABASE_URL: "" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.add(child);
  const run: Run = {
    child,
    out: "",
    err: "",
    exit: once(child, "close").then(() => child.exitCode),
  };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (run.out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (run.err += text));
  void run.exit.then(() => children.delete(child));
  return run;
}

/** By the system's call: Deno's `child.kill` would report the signal it sent in place of the exit code. */
function signal(run: Run, name: NodeJS.Signals): void {
  if (run.child.pid !== undefined) process.kill(run.child.pid, name);
}

const usual = () => ["--listen", "127.0.0.1:0", "--data", join(directory, "data"), "--json"];

interface Ready {
  readonly event: string;
  readonly url: string;
  readonly dashboard: string | null;
  readonly certificateHashes: readonly string[];
  readonly identity: string;
  readonly links: readonly string[];
  readonly runtime: string;
  readonly keyFile: string;
}

async function ready(run: Run): Promise<Ready> {
  while (!run.out.includes("\n")) {
    if (run.child.exitCode !== null) throw new Error(`it left: ${run.err}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return JSON.parse(run.out);
}

test("relay/main.ts makes a key, tells the user's commands, serves, and stops on SIGTERM", async () => {
  const configFile = join(directory, "config", "memferry", "config.json");
  await mkdir(join(directory, "config", "memferry"), { recursive: true });
  const other = { url: "https://other.example", certificateHashes: [], key: "k", note: "kept" };
  await writeFile(configFile, JSON.stringify({ version: 1, relays: [other], default: other.url }));

  const first = start(...usual(), "--dashboard", "127.0.0.1:0");
  const line = await ready(first);
  expect(line).toMatchObject({ event: "ready", runtime: "Deno" in globalThis ? "deno" : "node" });
  expect(line.links).toContain("websocket");
  expect(line.certificateHashes[0]).toMatch(/^[0-9a-f]{64}$/);
  const key = (await readFile(line.keyFile, "utf8")).trim();
  expect(first.out + first.err).not.toContain(key);
  expect((await stat(line.keyFile)).mode & 0o777).toBe(0o600);
  expect((await stat(join(directory, "data"))).mode & 0o777).toBe(0o700);

  const saved = JSON.parse(await readFile(configFile, "utf8"));
  expect((await stat(configFile)).mode & 0o777).toBe(0o600);
  expect(saved).toEqual({
    version: 1,
    relays: [
      other,
      {
        url: line.url,
        certificateHashes: line.certificateHashes,
        identity: line.identity,
        key,
      },
    ],
    default: line.url,
  });

  const ask = (path: string, init: RequestInit = {}) =>
    fetch(`${line.dashboard}${path}`, { ...init, headers: { authorization: `Bearer ${key}` } });
  const made = await ask("/v1/sessions", { method: "POST" });
  expect(made.status).toBe(201);
  expect((await fetch(`${line.dashboard}/readyz`)).status).toBe(200);
  // Open while it stops: it must not hold the relay up.
  const events = await ask("/v1/events");

  const second = start(...usual(), "--dashboard", "off");
  expect(await second.exit).toBe(1);
  expect(second.err).toMatch(/^memferry relay: .*in use by another relay.*--data[^\n]*\n$/);

  signal(first, "SIGTERM");
  expect(await first.exit).toBe(0);
  await events.text().catch(() => {});
  expect(first.out.trim().split("\n")).toHaveLength(1);

  const again = start(...usual(), "--dashboard", "off");
  const relay = await ready(again);
  expect(relay.certificateHashes).toEqual(line.certificateHashes);
  expect((await readFile(relay.keyFile, "utf8")).trim()).toBe(key);
  signal(again, "SIGINT");
  expect(await again.exit).toBe(0);
}, 60_000);

test("relay/main.ts survives SIGKILL: the next start finds its data free", async () => {
  const first = start(...usual(), "--dashboard", "off", "--no-user-config");
  await ready(first);
  signal(first, "SIGKILL");
  await first.exit;
  const second = start(...usual(), "--dashboard", "off", "--no-user-config");
  await ready(second);
  signal(second, "SIGTERM");
  expect(await second.exit).toBe(0);
}, 60_000);

test("relay/main.ts says in one line that a port is taken, which, and what to do", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  const address = taken.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const run = start(
    "--listen",
    `127.0.0.1:${address.port}`,
    "--dashboard",
    "off",
    "--data",
    join(directory, "d"),
    "--no-user-config",
  );
  expect(await run.exit).toBe(1);
  expect(run.err).toBe(
    `memferry relay: port ${address.port} is taken: stop the program that has it, or give --listen another HOST:PORT\n`,
  );
  taken.close();
}, 30_000);

test("relay/main.ts called wrongly exits with 2, and --help with 0", async () => {
  const wrong = start("--listen", "x", "--what");
  expect(await wrong.exit).toBe(2);
  expect(wrong.err.trim().split("\n")).toHaveLength(2);
  expect(wrong.out).toBe("");
  const help = start("--help");
  expect(await help.exit).toBe(0);
  expect(help.out).toMatch(/^Usage: memferry relay/);
});

test("relay/main.ts leaves a user's configuration alone that it cannot read", async () => {
  const configFile = join(directory, "config", "memferry", "config.json");
  await mkdir(join(directory, "config", "memferry"), { recursive: true });
  await writeFile(configFile, "{ not json");
  const run = start(...usual(), "--dashboard", "off");
  await ready(run);
  expect(await readFile(configFile, "utf8")).toBe("{ not json");
  expect(run.err).toContain("configuration was not written");
  signal(run, "SIGTERM");
  expect(await run.exit).toBe(0);
}, 30_000);

test("relay/main.ts --check-config names what is wrong and leaves with 2, or says nothing is and leaves with 0", async () => {
  const file = join(directory, "relay.toml");
  await writeFile(file, 'lissten = "127.0.0.1:1"\nlog-level = "loud"\n');
  const wrong = start(
    ...usual().slice(0, 4),
    "--config",
    file,
    "--check-config",
    "--private-key",
    "k",
  );
  expect(await wrong.exit).toBe(2);
  expect(wrong.err.trimEnd().split("\n")).toHaveLength(3);
  const machine = start(...usual(), "--dashboard", "127.0.0.1:0", "--check-config");
  expect(await machine.exit).toBe(0);
  expect(JSON.parse(machine.out)).toEqual({ event: "checked", problems: [], notes: [] });
});
