/**
 * A PostgreSQL server of a test's own, from whatever `postgres` the system has.
 *
 * It lives in a temporary folder, listens on a socket there (and on 127.0.0.1 if asked), trusts
 * everybody who can reach it, and never syncs: fast, and worthless after a power cut. PostgreSQL
 * refuses to run as root, so root's tests run it as `postgres` or `nobody`.
 *
 * @module
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, rmSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

import pg from "pg";

import { requireTool } from "./requires.ts";

/** How long a server may take to start, or to stop of its own will. */
const PATIENCE_MS = 30_000;
const USER = "memferry";

export interface TestPostgres extends AsyncDisposable {
  /** The database `postgres`, which is there from the start. */
  readonly url: string;
  /** The server process. Kill it to see what the relay does then. */
  readonly pid: number;
  /** Stops the server and starts it again on the same data, at the same address. */
  restart(): Promise<void>;
  /** Sends a signal to the server and all its backends, e.g. SIGSTOP to freeze it. */
  signal(signal: NodeJS.Signals): void;
  /** A new, empty database, for a test that must not see another's rows. Returns its URL. */
  createDatabase(): Promise<string>;
  /** Stops the server and removes its folder. Harmless when repeated. */
  stop(): Promise<void>;
}

export interface TestPostgresOptions {
  /** Listen on 127.0.0.1 as well, and give that address out. Default: the socket alone. */
  readonly tcp?: boolean;
  /** Sync as PostgreSQL does by default, with memory as on a small server. For measurements. */
  readonly durable?: boolean;
}

/**
 * @throws If there is no `postgres` (ask `requireTool("postgres")` first), or it does not start; the
 *   message then holds its log.
 */
export async function startPostgres(options: TestPostgresOptions = {}): Promise<TestPostgres> {
  const found = requireTool("postgres");
  if (!found.available) throw new Error(found.skipReason);
  const bin = path.dirname(found.path);

  // /tmp by choice: a socket's path has room for 107 bytes, and $TMPDIR may be long.
  const base = existsSync("/tmp") ? "/tmp" : tmpdir();
  const folder = mkdtempSync(path.join(base, "memferry-pg-"));
  const identity = unprivileged();
  if (identity) chownSync(folder, identity.uid, identity.gid);
  const data = path.join(folder, "data");
  const port = options.tcp ? await freePort() : 5432;

  let server: ChildProcess | undefined;
  let start: () => Promise<void> = () => Promise.resolve();
  const atExit = (): void => {
    server?.kill("SIGQUIT");
    rmSync(folder, { recursive: true, force: true });
  };
  process.on("exit", atExit);

  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> =>
    (stopping ??= (async () => {
      if (server) await terminate(server);
      rmSync(folder, { recursive: true, force: true });
      process.off("exit", atExit);
    })());

  try {
    execFileSync(
      path.join(bin, "initdb"),
      ["-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
      { cwd: folder, stdio: ["ignore", "ignore", "pipe"], ...identity },
    );
    const settings = [
      `unix_socket_directories=${folder}`,
      `listen_addresses=${options.tcp ? "127.0.0.1" : ""}`,
      `port=${port}`,
      // What is measured is measured as it would be with data that is worth something.
      ...(options.durable === true
        ? ["shared_buffers=256MB", "max_wal_size=4GB"]
        : ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB"]),
      "log_destination=stderr",
      "logging_collector=off",
    ];
    start = async () => {
      server = spawn(
        path.join(bin, "postgres"),
        ["-D", data, ...settings.flatMap((setting) => ["-c", setting])],
        { cwd: folder, stdio: ["ignore", "ignore", "pipe"], ...identity },
      );
      await ready(server);
    };
    await start();
  } catch (error) {
    await stop();
    throw error;
  }

  const pid = server?.pid;
  if (pid === undefined) throw new Error("postgres answered and yet has no pid");
  const urlOf = (database: string): string =>
    options.tcp
      ? `postgresql://${USER}@127.0.0.1:${port}/${database}`
      : `postgresql://${USER}@localhost:${port}/${database}?host=${encodeURIComponent(folder)}`;
  let databaseCount = 0;

  return {
    url: urlOf("postgres"),
    pid,
    async restart() {
      if (server !== undefined) await terminate(server);
      await start();
    },
    signal(signal) {
      const parent = server?.pid ?? pid;
      const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8");
      for (const each of [parent, ...children.split(" ").filter(Boolean).map(Number)]) {
        process.kill(each, signal);
      }
    },
    async createDatabase() {
      const name = `test_${++databaseCount}`;
      const client = new pg.Client({ connectionString: urlOf("postgres") });
      await client.connect();
      try {
        await client.query(`CREATE DATABASE ${name}`);
      } finally {
        await client.end();
      }
      return urlOf(name);
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Whom to run as: nobody else unless this is root. */
function unprivileged(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  for (const name of ["postgres", "nobody"]) {
    try {
      const ask = (flag: string): number =>
        Number(
          execFileSync("id", [flag, name], { stdio: ["ignore", "pipe", "ignore"] }).toString(),
        );
      return { uid: ask("-u"), gid: ask("-g") };
    } catch {
      // No such user here; the next one may be.
    }
  }
  throw new Error("postgres cannot run as root, and there is neither a postgres nor a nobody user");
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  if (address === null || typeof address === "string") throw new Error("no port to be had");
  return address.port;
}

async function ready(server: ChildProcess): Promise<void> {
  let log = "";
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const fail = (why: string): void => reject(new Error(`postgres ${why}\n${log}`));
  const timer = setTimeout(() => fail(`is not ready after ${PATIENCE_MS} ms`), PATIENCE_MS);
  server.once("error", (error) => fail(`did not start: ${error.message}`));
  server.once("exit", (code) => fail(`left with exit code ${code}`));
  server.stderr?.setEncoding("utf8").on("data", (text: string) => {
    // Kept to its end, so that a chatty server cannot fill memory or its own pipe.
    log = (log + text).slice(-16_384);
    if (log.includes("ready to accept connections")) resolve();
  });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** Fast shutdown, then immediate, then the signal nobody refuses. */
async function terminate(server: ChildProcess): Promise<void> {
  for (const signal of ["SIGINT", "SIGQUIT", "SIGKILL"] as const) {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const gone = once(server, "exit");
    if (!server.kill(signal)) return;
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, PATIENCE_MS / 3);
    await Promise.race([gone, late]);
    clearTimeout(timer);
  }
}
