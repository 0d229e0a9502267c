/**
 * A backup that is taken while sessions are made and ended, and what is there after a restore.
 */
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import path, { join } from "node:path";
import { tmpdir } from "node:os";
import { promisify } from "node:util";

import { afterEach, beforeEach, expect, test } from "vitest";

import { readConfig, type RelayConfig } from "../../relay/config.ts";
import { startRelay, type Relay } from "../../relay/relay.ts";
import { startPostgres } from "../support/postgres.ts";
import { requireTool, skipUnless } from "../support/requires.ts";

/** Not in step: the relay is in this process, and goes on meanwhile. */
const run = promisify(execFile);

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-backup-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

/** What must be kept beside the database, as docs/operating.md names it. */
const KEPT_FILES = ["relay-key", "relay-identity.pem", "relay-secret-key"];

function config(data: string, databaseUrl?: string): RelayConfig {
  const outcome = readConfig(
    [
      ["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--no-user-config"],
      ["--data", data, "--discovery-ports", "none", "--no-webtransport"],
    ].flat(),
    databaseUrl === undefined ? {} : { DATABASE_URL: databaseUrl },
  );
  if (outcome.kind !== "config") throw new Error(JSON.stringify(outcome));
  return outcome.config;
}

interface Session {
  readonly id: string;
  readonly state: string;
  readonly name: string;
}

/** What a test asks of a relay with the key in its data directory. */
class Asker {
  readonly #relay: Relay;
  readonly #key: string;
  readonly logged: string[];

  constructor(relay: Relay, key: string, logged: string[]) {
    this.#relay = relay;
    this.#key = key;
    this.logged = logged;
  }

  static async start(data: string, databaseUrl?: string): Promise<Asker> {
    const logged: string[] = [];
    const relay = await startRelay(config(data, databaseUrl), (level, message) =>
      logged.push(`${level} ${message}`),
    );
    return new Asker(relay, (await readFile(relay.key.file, "utf8")).trim(), logged);
  }

  get identity(): string {
    return this.#relay.identity;
  }

  close(): Promise<void> {
    return this.#relay.close();
  }

  async ask(method: string, target: string, body?: unknown): Promise<Response> {
    const headers = {
      authorization: `Bearer ${this.#key}`,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    };
    return await fetch(`${this.#relay.dashboardUrl}${target}`, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }

  async make(name: string): Promise<Session> {
    const response = await this.ask("POST", "/v1/sessions", { name });
    if (response.status !== 201) throw new Error(await response.text());
    return ((await response.json()) as { session: Session }).session;
  }

  async sessions(): Promise<ReadonlyMap<string, Session>> {
    const response = await this.ask("GET", "/v1/sessions?limit=200");
    const { sessions } = (await response.json()) as { sessions: readonly Session[] };
    return new Map(sessions.map((one) => [one.id, one]));
  }
}

/** Makes and cancels sessions until it is stopped. @returns Every one that was made whole before. */
function load(asker: Asker): { stop(): Promise<void> } {
  let over = false;
  const make = async (): Promise<void> => {
    for (let i = 0; !over && i < 120; i++) {
      const { id } = await asker.make(`load ${i}`);
      if (i % 2 === 0) await asker.ask("POST", `/v1/sessions/${id}:cancel`, {});
    }
  };
  const running = make();
  return {
    async stop() {
      over = true;
      await running;
    },
  };
}

async function before(asker: Asker): Promise<{ done: Session; open: Session; hook: string }> {
  const done = await asker.make("cancelled before");
  await asker.ask("POST", `/v1/sessions/${done.id}:cancel`, {});
  const open = await asker.make("open before");
  const hook = await asker.ask("POST", "/v1/webhooks", {
    url: "https://hooks.invalid/",
    eventTypes: ["peer.enrolled"],
  });
  const { webhook } = (await hook.json()) as { webhook: { id: string } };
  return { done, open, hook: webhook.id };
}

async function expectAllThere(
  restored: Asker,
  { done, open, hook }: Awaited<ReturnType<typeof before>>,
): Promise<void> {
  const sessions = await restored.sessions();
  expect(sessions.get(done.id)).toMatchObject({ state: "cancelled", name: "cancelled before" });
  expect(sessions.get(open.id)).toMatchObject({ state: "pending", name: "open before" });
  expect((await restored.ask("GET", `/v1/webhooks/${hook}`)).status).toBe(200);
  // Its secret is sealed under the key that was kept.
  expect(restored.logged.filter((line) => line.includes("sealed"))).toEqual([]);
  await restored.make("made after the restore");
}

async function keep(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const file of KEPT_FILES) await cp(join(from, file), join(to, file));
}

test("the embedded database is copied while it is used, and a relay starts from the copy", async () => {
  const [data, fresh] = [join(directory, "data"), join(directory, "fresh")];
  const first = await Asker.start(data);
  const known = await before(first);
  const loading = load(first);
  await first.make("during");
  const copy = await first.ask("GET", "/v1/backup");
  expect([copy.status, copy.headers.get("content-type")]).toEqual([200, "application/gzip"]);
  const file = join(directory, "backup.tar.gz");
  await writeFile(file, new Uint8Array(await copy.arrayBuffer()));
  await loading.stop();
  await first.close();

  await keep(data, fresh);
  await mkdir(join(fresh, "database"));
  await run("tar", ["-xzf", file, "-C", join(fresh, "database")]);
  const second = await Asker.start(fresh);
  try {
    expect(second.identity).toBe(first.identity);
    await expectAllThere(second, known);
  } finally {
    await second.close();
  }
}, 120_000);

test("PostgreSQL is dumped while it is used, and a relay starts from the dump", async (ctx) => {
  skipUnless(ctx, requireTool("postgres"), requireTool("pg_dump"));
  await using postgres = await startPostgres();
  const [from, to] = [await postgres.createDatabase(), await postgres.createDatabase()];
  const [data, fresh] = [join(directory, "data"), join(directory, "fresh")];
  const first = await Asker.start(data, from);
  const known = await before(first);
  const loading = load(first);
  await first.make("during");
  expect((await first.ask("GET", "/v1/backup")).status).toBe(409);
  const file = join(directory, "backup.dump");
  const tool = requireTool("pg_dump").path;
  await run(tool, ["--format=custom", `--file=${file}`, from]);
  await loading.stop();
  await first.close();

  await keep(data, fresh);
  await run(path.join(path.dirname(tool), "pg_restore"), [
    "--exit-on-error",
    `--dbname=${to}`,
    file,
  ]);
  const second = await Asker.start(fresh, to);
  try {
    await expectAllThere(second, known);
  } finally {
    await second.close();
  }
}, 120_000);
