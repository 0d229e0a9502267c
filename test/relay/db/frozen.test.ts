/** A PostgreSQL that stands still, all of it, under a real relay's switchboard and store. */
import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";

import { afterEach, expect, test } from "vitest";

import { memoryRelay } from "../../../peer/net/memory-link.ts";
import { createApiKeys } from "../../../relay/db/api-keys.ts";
import { openDatabase, type Database } from "../../../relay/db/database.ts";
import { fromHex } from "../../../relay/db/hex.ts";
import { createSessionStore, type DatabaseSessionStore } from "../../../relay/db/session-store.ts";
import { projectSessions, type ProjectSessions } from "../../../relay/db/sessions.ts";
import { Switchboard } from "../../../relay/switchboard/switchboard.ts";
import { startPostgres, type TestPostgres } from "../../support/postgres.ts";
import { requireTool } from "../../support/requires.ts";
import { RawPeer, type TestSession } from "../switchboard/harness.ts";

const postgres = requireTool("postgres");
const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** The server and what it has forked: a stopped postmaster alone would leave its backends at work. */
function processesOf(pid: number): number[] {
  const children = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => parentOf(name) === pid)
    .map(Number);
  return [pid, ...children];
}

function parentOf(pid: string): number {
  try {
    // What follows the name, which may hold anything, in brackets: state, parent.
    const [, parent] = (readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1) ?? "").split(
      " ",
    );
    return Number(parent);
  } catch {
    return 0;
  }
}

class Freezer {
  readonly #server: TestPostgres;
  #stopped: number[] = [];

  constructor(server: TestPostgres) {
    this.#server = server;
  }

  freeze(): void {
    // Twice: a backend may be forked while the first look is taken.
    for (let look = 0; look < 2; look++) {
      for (const pid of processesOf(this.#server.pid)) {
        if (this.#stopped.includes(pid)) continue;
        process.kill(pid, "SIGSTOP");
        this.#stopped.push(pid);
      }
    }
  }

  thaw(): void {
    for (const pid of this.#stopped.splice(0)) {
      try {
        process.kill(pid, "SIGCONT");
      } catch {
        // Its client has left meanwhile, and it with it.
      }
    }
  }
}

interface World {
  readonly freezer: Freezer;
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly sessions: ProjectSessions;
  readonly session: TestSession;
  readonly hex: string;
}

async function world(): Promise<World> {
  const server = await startPostgres();
  closers.push(() => server.stop());
  const freezer = new Freezer(server);
  const database = await openDatabase({ url: await server.createDatabase() });
  closers.push(() => database.close());
  closers.push(() => freezer.thaw());
  const store = createSessionStore(database);
  const sessions = projectSessions(database, await createApiKeys(database).project("p"));
  const { row, tickets } = await sessions.create({
    name: "s",
    labels: {},
    mode: "live",
    limits: {},
    ticketLifetimeMs: 60_000,
    createdBy: "test",
  });
  const session = {
    sessionId: fromHex(row.id),
    tokens: { seeder: tickets.seeder.token, leecher: tickets.leecher.token },
  };
  return { freezer, database, store, sessions, session, hex: row.id };
}

const unavailable = { code: "DATABASE_UNAVAILABLE" };

test("a frozen PostgreSQL costs every question an error in bounded time, and none afterwards", async (ctx) => {
  if (!postgres.available) ctx.skip(postgres.skipReason);
  const { freezer, database, store, session } = await world();
  const { sessionId } = session;
  expect(await store.owner(sessionId)).toMatchObject({ owner: "seeder" });

  freezer.freeze();
  // More than there are connections: those that wait for one are answered too.
  const asked = Array.from({ length: 30 }, () => store.owner(sessionId));
  const answers = await Promise.allSettled([...asked, store.commit(sessionId, 3), database.ping()]);
  for (const answer of answers) {
    expect(answer).toMatchObject({ status: "rejected", reason: unavailable });
  }

  freezer.thaw();
  // The commit that nobody was answered may have been carried out: asked again, it says so.
  expect(await store.commit(sessionId, 3)).toEqual({
    committed: true,
    owner: "leecher",
    ownerEpoch: 3,
    state: "committed",
  });
  expect(await store.owner(sessionId)).toMatchObject({ owner: "leecher", ownerEpoch: 3 });
}, 60_000);

// Drizzle's own transactions give a connection back that is still inside its transaction: a commit on it would be
// answered, and rolled back with what had been begun before.
test("a transaction that PostgreSQL did not answer takes no later commit with it", async (ctx) => {
  if (!postgres.available) ctx.skip(postgres.skipReason);
  const { freezer, database, store, session } = await world();
  const { sessionId } = session;
  const begun = Promise.withResolvers<void>();
  const statement = { name: "frozen_probe", text: "select 1" };
  const inside = Array.from({ length: 12 }, () =>
    database.transaction(async (tx) => {
      await tx.execute("select 1");
      begun.resolve();
      freezer.freeze();
      await tx.execute("select 1");
    }),
  );
  await begun.promise;
  for (const result of await Promise.allSettled(inside)) {
    expect(result).toMatchObject({ status: "rejected", reason: unavailable });
  }
  freezer.thaw();
  for (let epoch = 1; epoch <= 12; epoch++) {
    await database.query(statement, []);
    await database.run((orm) => orm.execute("create table if not exists kept (epoch int)"));
    await database.run((orm) => orm.execute("insert into kept values (1)"));
  }
  await store.commit(sessionId, 1);
  // By another connection than any of those.
  const rows = await database.decide({ name: "kept_count", text: "select count(*) from kept" }, []);
  expect(Number(rows[0]?.["count"])).toBe(12);
  expect(await store.owner(sessionId)).toMatchObject({ owner: "leecher", ownerEpoch: 1 });
}, 90_000);

test("a running session goes on over a frozen PostgreSQL, and is told the owner when it is back", async (ctx) => {
  if (!postgres.available) ctx.skip(postgres.skipReason);
  const { freezer, store, session, sessions, hex } = await world();
  const switchboard = new Switchboard({ store, log: () => {} });
  closers.push(() => switchboard.close());
  const network = memoryRelay((incoming) => switchboard.accept(incoming));
  const dial = () => network.dial({ url: "https://memory:1", certificateHashes: [] });
  const seeder = await (await RawPeer.open(await dial(), session, "seeder")).join();
  const leecher = await (await RawPeer.open(await dial(), session, "leecher")).join();
  await Promise.all([seeder.paired(), leecher.paired()]);
  const streams = await Promise.all([seeder.openStream(0), leecher.openStream(0)]);

  freezer.freeze();
  await seeder.send(
    {
      kind: "describe",
      regionName: "r",
      regionBytes: 8192,
      chunkBytes: 4096,
      host: "h",
      version: "1",
    },
    { kind: "phase", state: "tracking", reason: "" },
    { kind: "phase", state: "precopy", reason: "" },
    { kind: "indexSegment", epoch: 1, segment: 0, hashes: new Uint8Array(64) },
  );
  await leecher.send({ kind: "commit", epoch: 2 });
  const [from, to] = streams;
  let answer: unknown;
  for (let beat = 0; answer === undefined; beat++) {
    await seeder.send({ kind: "ping", nonce: beat });
    await seeder.until("pong");
    if (leecher.welcome !== undefined) await leecher.send({ kind: "ping", nonce: beat });
    const frame = await leecher.next();
    if (frame?.kind === "pong") {
      expect(frame.nonce).toBe(beat);
      await from?.write(Uint8Array.of(beat & 0xff));
      expect(await to?.read()).toEqual(Uint8Array.of(beat & 0xff));
      await new Promise((resolve) => setTimeout(resolve, 50));
    } else if (frame?.kind !== "peer") {
      answer = frame;
    }
  }
  // Never a guess: to be asked again.
  expect(answer).toMatchObject({ kind: "error", code: "RELAY_UNAVAILABLE", retryable: true });

  freezer.thaw();
  let again: RawPeer | undefined;
  for (let attempt = 0; again === undefined; attempt++) {
    const peer = await RawPeer.open(await dial(), session, "leecher", leecher.identity);
    again = await peer.rejoin().catch((error: unknown) => {
      if (attempt > 5) throw error;
      return undefined;
    });
  }
  await again.send({ kind: "commit", epoch: 2 });
  expect(await again.until("owner")).toMatchObject({ owner: "leecher", ownerEpoch: 2 });
  await again.send({ kind: "phase", state: "postcopy", reason: "" }, { kind: "bye" });
  await again.stream.closed;
  const events = await sessions.events(hex, 0, 100);
  expect(events.filter(({ type }) => type === "committed")).toHaveLength(1);
  expect(await sessions.get(hex)).toMatchObject({ owner: "leecher", regionBytes: 8192 });
}, 120_000);
