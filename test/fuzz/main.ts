/**
 * Fuzzes every decoder: `node test/fuzz/main.ts [--cases N] [--seed S] [--case K]`.
 *
 * Exit code 0 only if nothing was found. A finding is printed with its seed, its number and its bytes; with `--case` it
 * is repeated alone.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";

import { TARGETS } from "./all-targets.ts";
import { Engine, merge, type Failure, type Tally } from "./engine.ts";
import { Meter } from "./meter.ts";
import type { WorkerData, WorkerResult } from "./worker.ts";

const THREADS = 2;
/** A thread that stays at one case for so many looks hangs. */
const LOOK_MS = 5_000;
const LOOKS_MAX = 24;
const GROWTH_BYTES_MAX = 16 * 1024 * 1024;

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "100000" },
    seed: { type: "string" },
    case: { type: "string" },
  },
});
const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed);

process.exitCode = values.case === undefined ? await all() : await one(Number(values.case));

async function one(caseNumber: number): Promise<number> {
  const engine = new Engine(TARGETS, seed, Meter.install());
  const failure = await engine.run(caseNumber);
  if (failure === undefined) {
    console.log(`seed ${seed} case ${caseNumber}: nothing wrong, ${JSON.stringify(engine.tally)}`);
    return 0;
  }
  tell(failure);
  return 1;
}

async function all(): Promise<number> {
  const cases = Number(values.cases);
  const startedAtMs = performance.now();
  const at = new SharedArrayBuffer(4 * THREADS);
  const results = await Promise.all(
    Array.from({ length: THREADS }, (_, first) =>
      thread({ seed, first, step: THREADS, cases, at }),
    ),
  );
  const tally: Tally = {};
  for (const result of results) merge(tally, result.tally);
  report(tally);
  const failures = results.flatMap((result) => result.failures);
  for (const failure of failures) tell(failure);
  const growth = Math.max(...results.map(({ liveBytes: [early, late] }) => late - early));
  if (growth > GROWTH_BYTES_MAX) console.error(`a thread's live memory grew by ${growth} bytes`);
  const seconds = ((performance.now() - startedAtMs) / 1_000).toFixed(1);
  console.log(
    `${cases} cases, seed ${seed}, ${seconds} s: ${failures.length} wrong, ` +
      `live memory grew by ${(growth / 1024).toFixed(0)} KiB`,
  );
  return failures.length > 0 || growth > GROWTH_BYTES_MAX ? 1 : 0;
}

function thread(data: WorkerData): Promise<WorkerResult> {
  const worker = new Worker(new URL("worker.ts", import.meta.url), { workerData: data });
  const place = new Int32Array(data.at);
  let [last, looks] = [-1, 0];
  return new Promise((resolve, reject) => {
    const watch = setInterval(() => {
      const now = Atomics.load(place, data.first);
      looks = now === last ? looks + 1 : 0;
      last = now;
      if (looks < LOOKS_MAX) return;
      void worker.terminate();
      reject(new Error(`seed ${data.seed} case ${now} does not come to an end`));
    }, LOOK_MS);
    worker.once("message", (result: WorkerResult) => resolve(result));
    worker.once("error", (error) => {
      const text = error instanceof Error ? error.message : String(error);
      reject(new Error(`seed ${data.seed} case ${Atomics.load(place, data.first)}: ${text}`));
    });
    worker.once("exit", () => clearInterval(watch));
  });
}

function report(tally: Tally): void {
  for (const { name } of TARGETS) {
    const verdicts = Object.entries(tally[name] ?? {}).toSorted(([, a], [, b]) => b - a);
    const sum = verdicts.reduce((total, [, count]) => total + count, 0);
    const told = verdicts.map(([verdict, count]) => `${verdict} ${count}`).join(", ");
    console.log(`${name.padEnd(26)} ${String(sum).padStart(8)}: ${told}`);
  }
}

function tell({ target, caseNumber, hex, error }: Failure): void {
  console.error(`FOUND by ${target}: --seed ${seed} --case ${caseNumber}\n  ${hex}\n  ${error}`);
}
