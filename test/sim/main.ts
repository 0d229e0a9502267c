/**
 * `npm run sim`: whole migrations under faults, each drawn from a number. README.md beside this file.
 *
 * @module
 */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { MUTANTS } from "./mutants.ts";
import type { SeedReport, Task, WorkerMessage } from "./worker.ts";

const HELP = `Runs migrations between simulated hosts, with crashes, lost connections and full disks, and checks that
nothing is lost and that the workload never runs twice. Each run comes from one number, its seed.

  npm run sim -- --seeds N       seeds 1 to N (default 1,000)
  npm run sim -- --seed S        replays one seed and prints all that happened; twice, to compare
  npm run sim -- --mutants       breaks the code on purpose, one way at a time; each must be found
  npm run sim -- --mutant NAME   one of them, to its first failure
      --from S       first seed (default 1)
      --workers N    processes (default 2)
      --json         one JSON object at the end instead of text
      --help

Exit code: 0 if all is well, 1 if a seed failed or a mutant survived, 2 if it could not run.`;

/** Seeds within which a mutant must be found. */
const MUTANT_SEEDS = 20_000;
const PROGRESS_MS = 1_000;

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "1000" },
    seed: { type: "string" },
    from: { type: "string", default: "1" },
    workers: { type: "string", default: "2" },
    mutants: { type: "boolean", default: false },
    mutant: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

process.exitCode = await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  return 2;
});

async function main(): Promise<number> {
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  if (values.mutants) return await runMutants();
  if (values.seed !== undefined) return await replay(number("seed", values.seed));
  return await runSeeds();
}

function number(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`--${name} ${text}: a number`);
  return value;
}

async function runSeeds(): Promise<number> {
  const [seeds, from, workers] = [
    number("seeds", values.seeds),
    number("from", values.from),
    Math.max(1, number("workers", values.workers)),
  ];
  const startedAtMs = performance.now();
  const failed: SeedReport[] = [];
  const ends = { destination: 0, source: 0 };
  let [done, events, virtualMs, operations, helped, shownAtMs] = [0, 0, 0, 0, 0, 0];
  const onReport = (report: SeedReport): void => {
    done++;
    ends[report.end]++;
    events += report.events;
    virtualMs += report.virtualMs;
    operations += report.operations;
    if (report.helped) helped++;
    if (report.failure !== undefined) failed.push(report);
    const now = performance.now();
    if (values.json || now - shownAtMs < PROGRESS_MS) return;
    shownAtMs = now;
    progress(done, seeds, failed.length, now - startedAtMs);
  };
  await Promise.all(
    Array.from({ length: workers }, (_, i) =>
      runWorker(
        {
          firstSeed: from + i,
          step: workers,
          seedCount: Math.floor((seeds - i + workers - 1) / workers),
          untilFailure: false,
          verbose: false,
          ...(values.mutant === undefined ? {} : { mutant: values.mutant }),
        },
        onReport,
      ),
    ),
  );
  const tookMs = performance.now() - startedAtMs;
  const summary = {
    seeds: done,
    failed: failed.length,
    seedsPerS: round((done * 1000) / tookMs),
    tookS: round(tookMs / 1000),
    virtualHours: round(virtualMs / 3_600_000),
    events,
    operations,
    ends,
    helped,
  };
  failed.sort((a, b) => a.seed - b.seed);
  if (values.json) {
    const failures = failed.map(({ seed, failure }) => ({ seed, ...failure }));
    console.log(JSON.stringify({ ...summary, failures }));
    return failed.length === 0 ? 0 : 1;
  }
  clearProgress();
  for (const report of failed.slice(0, 3)) printFailure(report);
  for (const { seed, failure } of failed.slice(3, 40)) {
    console.log(`seed ${seed}: ${failure?.invariant}: ${failure?.what}`);
  }
  console.log(
    `${done} seeds in ${summary.tookS} s (${summary.seedsPerS} a second, ${summary.virtualHours} simulated hours): ` +
      `${ends.destination} ended at the destination, ${ends.source} at the source, ${helped} with an operator's help; ` +
      `${failed.length} failed`,
  );
  return failed.length === 0 ? 0 : 1;
}

function progress(done: number, seeds: number, failed: number, tookMs: number): void {
  const rate = (done * 1000) / Math.max(1, tookMs);
  const left = Math.ceil((seeds - done) / Math.max(rate, 0.001));
  const line = `${done}/${seeds} seeds, ${round(rate)} a second, ${left} s left, ${failed} failed`;
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${line}`);
  else console.error(line);
}

function clearProgress(): void {
  if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
}

function printFailure({ seed, failure, trace }: SeedReport): void {
  for (const line of trace ?? []) console.log(line);
  console.log(`seed ${seed}: ${failure?.invariant} is broken: ${failure?.what}`);
  const mutant = values.mutant === undefined ? "" : ` --mutant "${values.mutant}"`;
  console.log(`replay it: npm run sim -- --seed ${seed}${mutant}\n`);
}

/** Runs a seed twice: what happens must be the same. */
async function replay(seed: number): Promise<number> {
  const mutant = values.mutant === undefined ? {} : { mutant: values.mutant };
  const task = { firstSeed: seed, step: 0, seedCount: 2, untilFailure: false, ...mutant };
  const reports: SeedReport[] = [];
  await runWorker({ ...task, verbose: true }, (report) => reports.push(report));
  const [first, second] = reports;
  if (first === undefined || second === undefined) throw new Error("the worker ran nothing");
  if (values.json) {
    const { trace: _trace, ...rest } = first;
    console.log(JSON.stringify({ ...rest, again: second.hash }));
  } else {
    for (const line of first.trace ?? []) console.log(line);
    console.log(
      first.failure === undefined
        ? `seed ${seed} ended at the ${first.end} after ${round(first.virtualMs / 1000)} simulated seconds`
        : `seed ${seed}: ${first.failure.invariant} is broken: ${first.failure.what}`,
    );
  }
  if (first.hash !== second.hash) {
    console.error(`seed ${seed} is not deterministic: ${first.hash}, then ${second.hash}`);
    return 2;
  }
  return first.failure === undefined ? 0 : 1;
}

async function runMutants(): Promise<number> {
  const from = number("from", values.from);
  const waiting = [...MUTANTS];
  const results: { name: string; seed?: number; invariant?: string; seedsRun: number }[] = [];
  const lane = async (): Promise<void> => {
    for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
      const { name } = mutant;
      let caught: SeedReport | undefined;
      let seedsRun = 0;
      await runWorker(
        {
          firstSeed: from,
          step: 1,
          seedCount: MUTANT_SEEDS,
          mutant: name,
          untilFailure: true,
          verbose: false,
        },
        (report) => {
          seedsRun++;
          if (report.failure !== undefined) caught = report;
        },
      );
      // Assigned in the callback, which the type checker does not follow.
      const found = caught as SeedReport | undefined;
      const { seed, failure } = found ?? {};
      results.push({
        name,
        seedsRun,
        ...(seed === undefined || failure === undefined
          ? {}
          : { seed, invariant: failure.invariant }),
      });
      if (values.json) continue;
      const told =
        failure === undefined
          ? `SURVIVED ${seedsRun} seeds`
          : `seed ${seed}: ${failure.invariant}: ${failure.what}`;
      console.log(`${name.padEnd(70)} ${told}`);
    }
  };
  await Promise.all(
    Array.from({ length: Math.max(1, number("workers", values.workers)) }, () => lane()),
  );
  const survived = results.filter(({ seed }) => seed === undefined);
  if (values.json) console.log(JSON.stringify({ mutants: results, survived: survived.length }));
  else console.log(`${results.length - survived.length} of ${results.length} mutants were found`);
  return survived.length === 0 ? 0 : 1;
}

/** @throws Error if it cannot go on, e.g. because a mutant's text is not in the code any more */
function runWorker(task: Task, onReport: (report: SeedReport) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = fork(fileURLToPath(new URL("worker.ts", import.meta.url)));
    let over = false;
    worker.on("message", (message: WorkerMessage) => {
      if (message.kind === "seeds") for (const report of message.reports) onReport(report);
      if (message.kind === "broken") reject(new Error(message.error));
      if (message.kind === "over") over = true;
      if (message.kind !== "seeds") worker.kill();
    });
    worker.on("error", reject);
    worker.on("exit", (code) => {
      if (over) resolve();
      else reject(new Error(`a worker ended with code ${code}`));
    });
    worker.send(task);
  });
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
