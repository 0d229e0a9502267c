/**
 * A relay process, a migration that behaves well, and somebody who does not.
 *
 * ```ts
 * const scene = await Scene.open();
 * const calm = await scene.during(async (signal) => { ...abuse until signal is aborted... });
 * ```
 *
 * `during` holds what every case has to show: the migration kept 80 % of its own rate of just before, the relay's memory
 * stayed within a bound, and the relay still answers.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { createApiKeys } from "../../relay/db/api-keys.ts";
import { openDatabase, type Database } from "../../relay/db/database.ts";
import { API_SCOPES, type ApiScope } from "../../relay/db/schema.ts";
import { fromBase64Url } from "../../relay/protocol/bytes.ts";
import { fromHex } from "../../relay/db/hex.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import { encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { Stage, residentBytes, type TestRelay } from "../e2e/harness.ts";
import { startPostgres, type TestPostgres } from "../support/postgres.ts";
import type { MoverOptions } from "./mover.ts";

const MOVER = fileURLToPath(new URL("mover.ts", import.meta.url));
const KEPT_RATIO = 0.8;
const MIB = 1024 * 1024;
/** Well below what a core passes on: a migration over a network, and not over a loopback alone on its machine. */
const GOOD_BYTES_PER_S = 8 * MIB;
const LOOK_MS = 250;
/** Before the abuse, and while it goes on at least. */
const WINDOWS_MIN = 8;
/** A machine that others use too is given more chances, with the figures of each told. */
const ATTEMPTS = 3;
/** Of what it is to move: below that the machine is too busy to tell anything from. */
const CALM_RATIO = 0.6;
const CALM_LOOKS_MAX = 20;

export interface Session {
  readonly id: string;
  readonly tickets: Readonly<Record<Role, Ticket>>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // oxlint-disable-next-line typescript/no-explicit-any -- whatever the API says; tests look into it
  readonly body: any;
}

export interface SceneOptions {
  readonly args?: readonly string[];
  /** Others than the defaults. */
  readonly limits?: Readonly<Record<string, number>>;
  readonly relay?: { readonly within?: readonly string[] };
}

/** A pair of peers in a process of their own. */
export class Mover {
  readonly #child: ChildProcess;
  readonly #samples: { atMs: number; bytes: number }[] = [];
  broken = "";

  constructor(options: MoverOptions, environment: NodeJS.ProcessEnv) {
    this.#child = spawn(process.execPath, [MOVER], {
      env: environment,
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#child.stdin?.write(`${JSON.stringify(options)}\n`);
    this.#child.once("exit", (code, signal) => {
      if (code !== 0 && signal === null) this.broken ||= `ended with ${code}`;
    });
    if (this.#child.stdout === null) throw new Error("no output to read");
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      // By our own mover.
      const said = JSON.parse(line) as {
        event: string;
        bytes?: number;
        atMs?: number;
        reason?: string;
      };
      if (said.event === "moved") {
        this.#samples.push({ atMs: said.atMs ?? 0, bytes: said.bytes ?? 0 });
      }
      if (said.event === "broken") this.broken = said.reason ?? "broken";
    });
  }

  get bytes(): number {
    return this.#samples.at(-1)?.bytes ?? 0;
  }

  /** Its rate since then, by its own clock, and from how many looks. @param atMs As of `Date.now()`. */
  since(atMs: number): { readonly bytesPerS: number; readonly looks: number } {
    const samples = this.#samples.filter((one) => one.atMs >= atMs);
    const [first, last] = [samples[0], samples.at(-1)];
    if (first === undefined || last === undefined || last.atMs === first.atMs) {
      return { bytesPerS: 0, looks: 0 };
    }
    const bytesPerS = ((last.bytes - first.bytes) / (last.atMs - first.atMs)) * 1_000;
    return { bytesPerS, looks: samples.length - 1 };
  }

  async runs(): Promise<void> {
    while (this.bytes === 0) {
      if (this.broken !== "") throw new Error(`a mover broke: ${this.broken}`);
      await sleep(50);
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await gone;
  }
}

export interface Kept {
  /** Of its own rate of just before. */
  readonly ratio: number;
  readonly grownBytes: number;
}

export class Scene implements AsyncDisposable {
  readonly stage: Stage;
  readonly relay: TestRelay;
  readonly postgres: TestPostgres;
  readonly database: Database;
  readonly good: Mover;
  readonly #movers: Mover[] = [];

  private constructor(parts: {
    readonly stage: Stage;
    readonly relay: TestRelay;
    readonly postgres: TestPostgres;
    readonly database: Database;
    readonly goodTickets: readonly [string, string];
  }) {
    this.stage = parts.stage;
    this.relay = parts.relay;
    this.postgres = parts.postgres;
    this.database = parts.database;
    this.good = this.mover({
      tickets: parts.goodTickets,
      bytesPerS: GOOD_BYTES_PER_S,
      streams: 4,
    });
  }

  static async open(options: SceneOptions = {}): Promise<Scene> {
    const stage = await Stage.open();
    const postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    const limits = Object.entries(options.limits ?? {}).map(([name, value]) => `${name}=${value}`);
    const relay = await stage.relay({
      databaseUrl,
      runtime: process.env["MEMFERRY_ABUSE_RELAY"] === "deno" ? "deno" : "node",
      ...options.relay,
      args: [
        "--dashboard",
        "127.0.0.1:0",
        ...(limits.length === 0 ? [] : ["--limits", limits.join(",")]),
        ...(options.args ?? []),
      ],
    });
    const database = await openDatabase({ url: databaseUrl });
    const key = await keyOf(database, "good");
    const { tickets } = await makeSession(relay, key);
    const goodTickets = [encodeTicket(tickets.seeder), encodeTicket(tickets.leecher)] as const;
    const scene = new Scene({ stage, relay, postgres, database, goodTickets });
    await scene.good.runs();
    return scene;
  }

  get plainUrl(): string {
    return String(this.relay.ready["dashboard"]);
  }

  /** A key of a project, made with it. */
  async key(project: string, scopes: readonly ApiScope[] = API_SCOPES): Promise<string> {
    return await keyOf(this.database, project, scopes);
  }

  async session(key: string, body: object = {}): Promise<Session> {
    return await makeSession(this.relay, key, body);
  }

  async ask(key: string, method: string, path: string, body?: unknown): Promise<Answer> {
    return await ask(this.plainUrl, key, method, path, body);
  }

  /** The counter of a limit. */
  async throttled(limitName: string): Promise<number> {
    const text = await (await fetch(`${this.plainUrl}/metrics`)).text();
    const line = new RegExp(`^relay_throttled_total\\{limit="${limitName}"\\} (\\d+)`, "m");
    return Number(line.exec(text)?.[1] ?? 0);
  }

  mover(options: MoverOptions): Mover {
    const mover = new Mover(options, this.stage.environment());
    this.#movers.push(mover);
    return mover;
  }

  /** Joined peers that move what they can. */
  async greedy(key: string, streams: number): Promise<Mover> {
    const { tickets } = await this.session(key);
    const texts = [encodeTicket(tickets.seeder), encodeTicket(tickets.leecher)] as const;
    const mover = this.mover({ tickets: texts, bytesPerS: 0, streams });
    await mover.runs();
    return mover;
  }

  async stop(mover: Mover): Promise<void> {
    await mover.stop();
    this.#movers.splice(this.#movers.indexOf(mover), 1);
  }

  /**
   * Abuses the relay until enough was seen of the migration that goes on.
   *
   * @param abuse Goes on until the signal is aborted, or is done earlier; what it throws fails the case.
   * @param grownBytesMax What the relay may take in memory on top of what it had.
   */
  async during(
    abuse: (signal: AbortSignal) => Promise<void>,
    grownBytesMax = 192 * MIB,
  ): Promise<Kept> {
    const told: string[] = [];
    // Once: what an attempt left behind counts.
    const idleBytes = residentBytes(this.relay.program.pid);
    for (let attempt = 1; ; attempt++) {
      const kept = await this.#attempt(abuse, idleBytes);
      told.push(`${kept.ratio.toFixed(2)}, ${(kept.grownBytes / MIB).toFixed(0)} MiB more`);
      const good = kept.ratio >= KEPT_RATIO && kept.grownBytes <= grownBytesMax;
      if (!good && attempt < ATTEMPTS) {
        console.log(`  once more: ${told.join("; ")}`);
        continue;
      }
      assert.ok(good, `of its rate, and grown: ${told.join("; ")}`);
      console.log(`  kept ${told.join("; ")}`);
      return kept;
    }
  }

  async #attempt(abuse: (signal: AbortSignal) => Promise<void>, idleBytes: number): Promise<Kept> {
    const before = await this.#calmRate();
    let peakBytes = idleBytes;
    const over = new AbortController();
    const watch = setInterval(() => {
      if (this.relay.program.exit !== undefined) return;
      peakBytes = Math.max(peakBytes, residentBytes(this.relay.program.pid));
    }, 50);
    const startedAtMs = Date.now();
    try {
      const abusing = abuse(over.signal);
      abusing.catch(() => over.abort());
      await this.#windows(startedAtMs, over.signal);
      // What takes longer is watched to its end.
      over.abort();
      await abusing;
    } finally {
      over.abort();
      clearInterval(watch);
    }
    const during = this.good.since(startedAtMs).bytesPerS;
    await this.stillGood();
    return { ratio: during / before, grownBytes: peakBytes - idleBytes };
  }

  /** Its rate while nobody disturbs it but the rest of the machine. */
  async #calmRate(): Promise<number> {
    for (let look = 0; look < CALM_LOOKS_MAX; look++) {
      const calmAtMs = Date.now();
      await this.#windows(calmAtMs);
      const rate = this.good.since(calmAtMs).bytesPerS;
      if (rate >= CALM_RATIO * GOOD_BYTES_PER_S) return rate;
    }
    throw new Error(
      "this machine is too busy: the migration does not get on with nobody in its way",
    );
  }

  async #windows(sinceMs: number, signal?: AbortSignal): Promise<void> {
    while (this.good.since(sinceMs).looks < WINDOWS_MIN && signal?.aborted !== true) {
      await sleep(LOOK_MS);
      await this.stillGood();
    }
  }

  /** The relay runs, and so does the migration. */
  async stillGood(): Promise<void> {
    assert.equal(this.relay.program.exit, undefined, this.relay.program.stderr.slice(-2_000));
    assert.equal(this.good.broken, "");
    const live = await fetch(`${this.plainUrl}/livez`, { signal: AbortSignal.timeout(10_000) });
    assert.equal(await live.text(), "ok\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const mover of this.#movers) await mover.stop();
    await this.database.close();
    try {
      await this.stage[Symbol.asyncDispose]();
    } finally {
      await this.postgres.stop();
    }
  }
}

async function keyOf(
  database: Database,
  project: string,
  scopes: readonly ApiScope[] = API_SCOPES,
): Promise<string> {
  const apiKeys = createApiKeys(database);
  const projectId = await apiKeys.project(project);
  return (await apiKeys.create({ projectId, name: "test", scopes })).key;
}

async function ask(
  url: string,
  key: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Answer> {
  const response = await fetch(`${url}${path}`, {
    method,
    headers: {
      ...(key === "" ? {} : { authorization: `Bearer ${key}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const isJson = /json/.test(response.headers.get("content-type") ?? "");
  return {
    status: response.status,
    headers: response.headers,
    body: isJson ? (JSON.parse(text) as unknown) : text,
  };
}

async function makeSession(relay: TestRelay, key: string, body: object = {}): Promise<Session> {
  const url = String(relay.ready["dashboard"]);
  const made = await ask(url, key, "POST", "/v1/sessions", body);
  if (made.status !== 201) throw new Error(`no session: ${JSON.stringify(made.body)}`);
  const { session, tickets } = made.body as {
    session: { id: string };
    tickets: Record<Role, { token: string }>;
  };
  const ticket = (role: Role): Ticket => ({
    role,
    sessionId: fromHex(session.id),
    token: fromBase64Url(tickets[role].token),
    secret: new Uint8Array(32),
    relayUrl: relay.url,
    certificateHashes: relay.certificateHashes.map((hash) => fromHex(hash)),
  });
  return { id: session.id, tickets: { seeder: ticket("seeder"), leecher: ticket("leecher") } };
}
