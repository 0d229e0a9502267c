/**
 * A PostgreSQL that stands still for a minute, and one that is shut down at once: migrations that run go on, new ones
 * are refused, and nothing is lost when it is back.
 */
import { expect, test } from "vitest";

import { ApiClient } from "../../peer/net/api-client.ts";
import { sleep } from "../../peer/sleep.ts";
import { fromHex } from "../../relay/db/hex.ts";
import { Stage, text } from "../e2e/harness.ts";
import { startPostgres, type TestPostgres } from "../support/postgres.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { RelayedPair } from "./relayed-pair.ts";

const OUTAGE_MS = 60_000;
const LOOK_MS = 10_000;
const MIGRATIONS = 4;
const REGION_BYTES = 24 * 1024 * 1024;
const PAUSE_MS = 2_000;

interface Outage {
  readonly what: string;
  readonly begin: (postgres: TestPostgres) => void;
  readonly end: (postgres: TestPostgres) => Promise<void>;
}

const outages: readonly Outage[] = [
  {
    what: "SIGSTOP",
    begin: (postgres) => postgres.signal("SIGSTOP"),
    end: async (postgres) => postgres.signal("SIGCONT"),
  },
  {
    what: "immediate shutdown",
    begin: (postgres) => process.kill(postgres.pid, "SIGQUIT"),
    end: (postgres) => postgres.restart(),
  },
];

test.for(outages)(
  "PostgreSQL is gone for 60 s by $what: data moves on, new sessions get 503, nothing is lost",
  async ({ what, begin, end }, ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    await using postgres = await startPostgres({ tcp: true });
    await using stage = await Stage.open();
    const relay = await stage.relay({ databaseUrl: postgres.url });
    const client = new ApiClient({
      url: relay.url,
      certificateHashes: relay.certificateHashes.map(fromHex),
      relayIdentity: fromHex(text(relay.ready, "identity")),
      key: relay.key,
    });
    await using pairs = new AsyncDisposableStack();
    const all: RelayedPair[] = [];
    for (let i = 0; i < MIGRATIONS; i++) {
      const options = { name: `m${i}`, bytes: REGION_BYTES, pauseMs: PAUSE_MS };
      all.push(pairs.use(await RelayedPair.start(client, options)));
    }
    const ready = (): number[] => all.map(({ bytesReady }) => bytesReady);
    while (Math.min(...ready()) === 0) await sleep(50);

    const path = async (target: string): Promise<number> =>
      (await statusOf(relay.port, target)) ?? 0;
    expect(await path("/readyz")).toBe(200);
    begin(postgres);
    const moved: number[] = [];
    const answers = new Set<number>();
    const until = performance.now() + OUTAGE_MS;
    let last = ready();
    while (performance.now() < until) {
      const refused = client.createSession({ name: "new", ticketTtlMs: 60_000 }).then(
        () => 201,
        (error: unknown) =>
          error instanceof Error && "status" in error ? Number(error.status) : -1,
      );
      await sleep(LOOK_MS);
      answers.add(await refused);
      const now = ready();
      moved.push(Math.min(...now.map((bytes, i) => bytes - (last[i] ?? 0))));
      last = now;
    }
    const unready = await path("/readyz");
    const alive = await path("/livez");
    await end(postgres);
    await expect.poll(() => path("/readyz"), { timeout: 60_000 }).toBe(200);
    await Promise.all(all.map(({ done }) => done));
    console.log(JSON.stringify({ what, movedBytesMinPer10S: moved, answers: [...answers] }));

    // Every one of them moved on in every ten seconds of it.
    for (const bytes of moved) expect(bytes).toBeGreaterThan(0);
    expect([...answers]).toEqual([503]);
    expect([unready, alive]).toEqual([503, 200]);
    for (const pair of all) {
      expect(pair.same).toBe(true);
      // Nobody lost the relay because of its database.
      expect(pair.connections.filter((one) => one !== "connected")).toEqual([]);
    }
    await expect
      .poll(
        async () => {
          const shown = await Promise.all(all.map(({ sessionId }) => client.getSession(sessionId)));
          return shown.map(({ state }) => state);
        },
        { timeout: 60_000 },
      )
      .toEqual(all.map(() => "done"));
  },
);

/** As somebody who watches it would ask. */
async function statusOf(port: number, path: string): Promise<number | undefined> {
  const { request } = await import("node:https");
  return await new Promise((resolve, reject) => {
    request(
      { host: "127.0.0.1", port, path, rejectUnauthorized: false, agent: false },
      (response) => {
        response.resume();
        response.on("end", () => resolve(response.statusCode));
      },
    )
      .on("error", reject)
      .end();
  });
}
