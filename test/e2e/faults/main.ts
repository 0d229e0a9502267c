/**
 * `npm run test:faults`: real processes, killed, cut off and starved in every phase of a migration.
 *
 * Prints a table, fault by phase, and at last `N passed, N failed, N skipped`. `-- FILTER` runs the faults whose
 * name holds it.
 *
 * @module
 */
import { readdir, rm } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { startPostgres } from "../../support/postgres.ts";
import { requireFuse, requireRoot } from "../../support/requires.ts";
import { Scene, type SceneOptions, type Verdict } from "./scene.ts";

const MIB = 1024 * 1024;
const BLACKHOLE_MS = 30_000;
const FREEZE_MS = 8_000;
/** Faults that run at the same time. */
const CONCURRENCY = 2;

interface Fault {
  readonly name: string;
  readonly phase: string;
  readonly scene: SceneOptions;
  /** Who must own the region afterwards. */
  readonly owner: Verdict["owner"];
  /** Does it. @returns when it began and, if the scene ends otherwise than by `done`, waits for that end. */
  run(scene: Scene): Promise<void>;
}

interface Row {
  readonly fault: Fault;
  readonly verdict?: Verdict;
  readonly recoveryMs?: number;
  readonly problem?: string;
}

type Reached = (scene: Scene) => Promise<unknown>;

/** The phases, and how a test knows that one has begun. */
const PHASES: readonly {
  readonly name: string;
  readonly mode: SceneOptions["mode"];
  readonly reached: Reached;
}[] = [
  { name: "joined", mode: "hybrid", reached: ({ leecher }) => leecher.waitFor("joined") },
  {
    name: "pre-copy, begin",
    mode: "hybrid",
    reached: ({ leecher }) => leecher.waitForPhase("precopy"),
  },
  {
    name: "pre-copy, middle",
    mode: "hybrid",
    reached: ({ leecher }) =>
      leecher.waitFor("progress", ({ bytesReady }) => Number(bytesReady) > 3 * MIB),
  },
  {
    name: "finalize, hook",
    mode: "hybrid",
    reached: ({ seeder }) => seeder.waitForPhase("finalizing"),
  },
  {
    name: "suspended",
    mode: "hybrid",
    reached: ({ seeder }) => seeder.waitForPhase("suspended"),
  },
  {
    name: "committed",
    mode: "hybrid",
    reached: ({ leecher }) => leecher.waitForPhase("committed"),
  },
  {
    name: "post-copy, begin",
    mode: "postcopy",
    reached: ({ leecher }) => leecher.waitForPhase("postcopy"),
  },
  {
    name: "post-copy, middle",
    mode: "postcopy",
    reached: ({ leecher }) =>
      leecher.waitFor(
        "progress",
        ({ bytesReady, phase }) => phase === "postcopy" && Number(bytesReady) > 4 * MIB,
      ),
  },
];

const faults: Fault[] = PHASES.flatMap(({ name, mode, reached }) => [
  ...(["seeder", "leecher"] as const).map((role): Fault => ({
    name: `SIGKILL ${role}`,
    phase: name,
    scene: { mode },
    owner: "destination",
    run: async (scene) => {
      await reached(scene);
      scene.kill(role);
    },
  })),
  {
    name: "SIGKILL relay",
    phase: name,
    scene: { mode },
    owner: "destination",
    run: async (scene) => {
      await reached(scene);
      await scene.restartRelay();
    },
  } satisfies Fault,
]);

for (const { name, mode, reached } of PHASES.filter(({ name }) =>
  ["pre-copy, middle", "finalize, hook", "post-copy, middle"].includes(name),
)) {
  faults.push({
    name: `blackhole ${BLACKHOLE_MS / 1000} s`,
    phase: name,
    scene: { mode },
    owner: "destination",
    run: async (scene) => {
      await reached(scene);
      scene.proxy.blackhole(true);
      await sleep(BLACKHOLE_MS);
      scene.proxy.blackhole(false);
    },
  });
}

faults.push(
  {
    name: "relay restarted, new certificate",
    phase: "post-copy, middle",
    scene: { mode: "postcopy" },
    owner: "destination",
    run: async (scene) => {
      await scene.leecher.waitForPhase("postcopy");
      await scene.restartRelay({
        signal: "SIGTERM",
        beforeStart: async () => {
          const { dataDir } = scene.relay;
          for (const file of await readdir(dataDir)) {
            if (/^relay-(certificate|private-key)\.pem$/.test(file)) {
              await rm(path.join(dataDir, file));
            }
          }
        },
      });
    },
  },
  {
    name: "disk full at the leecher",
    phase: "pre-copy, middle",
    scene: { mode: "hybrid", destinationBytes: 5 * MIB, leechArgs: ["--mode", "precopy"] },
    owner: "source",
    run: async (scene) => {
      await scene.leecher.waitForExit(60_000);
    },
  },
);

const postgres = await startPostgres().catch((error: unknown) => String(error));
if (typeof postgres !== "string") {
  for (const [name, stop] of [
    ["PostgreSQL restarted", () => postgres.restart()],
    [
      `PostgreSQL frozen ${FREEZE_MS / 1000} s`,
      async () => {
        postgres.signal("SIGSTOP");
        await sleep(FREEZE_MS);
        postgres.signal("SIGCONT");
      },
    ],
  ] as const) {
    faults.push({
      name,
      phase: "suspended",
      scene: { mode: "hybrid", databaseUrl: await postgres.createDatabase() },
      owner: "destination",
      run: async (scene) => {
        await scene.seeder.waitForPhase("finalizing");
        await stop();
      },
    });
  }
}

const status = await main();
if (typeof postgres !== "string") await postgres.stop();
process.exit(status);

async function main(): Promise<number> {
  const unmet = [requireFuse(), requireRoot()].filter(({ available }) => !available);
  const filter = process.argv[2] ?? "";
  const chosen = faults.filter(({ name, phase }) => `${name}, ${phase}`.includes(filter));
  if (unmet.length > 0) {
    for (const { skipReason } of unmet) console.log(`skipped: ${skipReason}`);
    console.log(`0 passed, 0 failed, ${chosen.length} skipped`);
    return 0;
  }
  if (typeof postgres === "string") console.log(`skipped: faults of PostgreSQL: ${postgres}`);
  const rows: Row[] = [];
  const queue = [...chosen];
  console.log(columns(["fault", "phase", "outcome", "owner", "rows", "lost", "recovered in"]));
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (let fault = queue.shift(); fault !== undefined; fault = queue.shift()) {
        const row = await attempt(fault);
        rows.push(row);
        console.log(line(row));
      }
    }),
  );
  const failed = rows.filter(({ problem }) => problem !== undefined);
  for (const { fault, problem } of failed)
    console.log(`\n${fault.name}, ${fault.phase}: ${problem}`);
  console.log(
    `${rows.length - failed.length} passed, ${failed.length} failed, ${typeof postgres === "string" ? 2 : 0} skipped`,
  );
  return failed.length === 0 && rows.length > 0 ? 0 : 1;
}

async function attempt(fault: Fault): Promise<Row> {
  let verdict: Verdict | undefined;
  let recoveryMs = 0;
  try {
    await using scene = await Scene.open(fault.scene);
    await fault.run(scene);
    const sinceMs = performance.now();
    await scene.progress();
    recoveryMs = performance.now() - sinceMs;
    if (fault.owner === "destination") await scene.done();
    await scene.progress();
    verdict = await scene.verdict();
  } catch (error) {
    return {
      fault,
      problem: toldOf(error),
      ...(verdict === undefined ? {} : { verdict }),
    };
  }
  const problem = complaint(fault, verdict);
  return { fault, verdict, recoveryMs, ...(problem === "" ? {} : { problem }) };
}

/** What went wrong first, and what went wrong because of it. */
function toldOf(error: unknown): string {
  if (error instanceof SuppressedError)
    return `${toldOf(error.suppressed)}; then ${toldOf(error.error)}`;
  return error instanceof Error ? error.message : String(error);
}

function complaint(fault: Fault, verdict: Verdict): string {
  const problems = [
    verdict.owner === fault.owner ? "" : `the owner is the ${verdict.owner}`,
    verdict.runningOn === fault.owner ? "" : `the workload runs on ${verdict.runningOn}`,
    verdict.rowsLost === 0 ? "" : `${verdict.rowsLost} rows are lost`,
    verdict.integrity === "ok" ? "" : verdict.integrity,
  ];
  return problems.filter((each) => each !== "").join("; ");
}

function line({ fault, verdict, recoveryMs, problem }: Row): string {
  const outcome =
    problem !== undefined ? "FAILED" : fault.owner === "destination" ? "done" : "rolled back";
  return columns([
    fault.name,
    fault.phase,
    outcome,
    verdict?.owner ?? "?",
    String(verdict?.rows ?? "?"),
    String(verdict?.rowsLost ?? "?"),
    recoveryMs === undefined ? "?" : `${(recoveryMs / 1000).toFixed(1)} s`,
  ]);
}

function columns(cells: readonly string[]): string {
  const widths = [34, 18, 12, 12, 7, 5, 12];
  return cells
    .map((cell, i) => cell.padEnd(widths[i] ?? 0))
    .join("  ")
    .trimEnd();
}
