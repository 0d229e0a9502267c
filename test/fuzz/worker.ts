/**
 * One of the threads that fuzz: every `step`th case from `first` on.
 *
 * @module
 */
import { setFlagsFromString } from "node:v8";
import { parentPort, workerData } from "node:worker_threads";
import { runInNewContext } from "node:vm";

import { TARGETS } from "./all-targets.ts";
import { Engine, type Failure, type Tally } from "./engine.ts";
import { Meter } from "./meter.ts";

export interface WorkerData {
  readonly seed: number;
  readonly first: number;
  readonly step: number;
  readonly cases: number;
  /** The case that each thread is at. */
  readonly at: SharedArrayBuffer;
}

export interface WorkerResult {
  readonly failures: readonly Failure[];
  readonly tally: Tally;
  /** Live bytes after a fifth of the cases and after all. */
  readonly liveBytes: readonly [number, number];
}

const FAILURES_MAX = 10;
/** The event loop gets its turn after so many. */
const BATCH = 1_000;

async function main({ seed, first, step, cases, at }: WorkerData): Promise<WorkerResult> {
  const engine = new Engine(TARGETS, seed, Meter.install());
  const place = new Int32Array(at);
  const failures: Failure[] = [];
  let settled = 0;
  for (let number = first, done = 0; number < cases; number += step, done++) {
    Atomics.store(place, first, number);
    const failure = await engine.run(number);
    if (failure !== undefined && failures.push(failure) >= FAILURES_MAX) break;
    if (done % BATCH === 0) await new Promise((resolve) => setImmediate(resolve));
    if (settled === 0 && number >= cases / 5) settled = liveBytes();
  }
  return { failures, tally: engine.tally, liveBytes: [settled, liveBytes()] };
}

setFlagsFromString("--expose-gc");
// Most cases throw, and a stack costs more than the case; whoever repeats a finding sees it.
Error.stackTraceLimit = 0;
const collect = runInNewContext("gc") as () => void;

function liveBytes(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

// Whoever starts this file as a thread gives it this.
parentPort?.postMessage(await main(workerData as WorkerData));
