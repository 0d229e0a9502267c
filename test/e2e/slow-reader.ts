/**
 * How much a relay grows while a region passes to a leecher that reads slowly.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";

import { makeFile } from "./files.ts";
import { residentBytes, Stage } from "./harness.ts";
import type { Program } from "./program.ts";

/** The leecher runs for one part of the time and stands still for the other: its sockets fill up. */
const RUN_MS = 60;
const STAND_MS = 240;
const SAMPLE_MS = 50;
/** A relay that has just compiled its embedded database gives hundreds of megabytes back, some 15 s later. */
const SETTLE_MS = 20_000;
const SETTLED_RATIO = 0.85;

export interface SlowReader {
  readonly idleBytes: number;
  readonly peakBytes: number;
  readonly seconds: number;
}

/** With a PostgreSQL the relay's idle size is its own; without, the embedded database is a part of it. */
export async function feedSlowReader(
  bytes: number,
  link: string,
  databaseUrl?: string,
): Promise<SlowReader> {
  await using stage = await Stage.open();
  const { program } = await stage.relay(databaseUrl === undefined ? {} : { databaseUrl });
  const from = stage.file("source");
  await makeFile(from, bytes);
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", link]);
  const idleBytes = await settledBytes(program, databaseUrl === undefined ? SETTLE_MS : 0);
  const startedAtMs = performance.now();
  // No hand-over before all is there: a stopped process would only make it wait.
  const leecher = stage.leech(ticket, [
    "--file",
    stage.file("destination"),
    "--link",
    link,
    "--finalize",
    "100",
  ]);
  await leecher.waitForPhase("precopy");
  const over = new AbortController();
  const peak = watchPeak(program, over.signal);
  await standStillNowAndThen(leecher);
  over.abort();
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  return { idleBytes, peakBytes: await peak, seconds: (performance.now() - startedAtMs) / 1_000 };
}

/** Until it has everything; the end of the migration is not to be disturbed. */
async function standStillNowAndThen(leecher: Program): Promise<void> {
  while (leecher.exit === undefined && leecher.last("committed") === undefined) {
    leecher.kill("SIGSTOP");
    await sleep(STAND_MS);
    leecher.kill("SIGCONT");
    await sleep(RUN_MS);
  }
}

async function watchPeak(program: Program, signal: AbortSignal): Promise<number> {
  let peak = 0;
  while (!signal.aborted) {
    peak = Math.max(peak, residentBytes(program.pid));
    await sleep(SAMPLE_MS);
  }
  return peak;
}

async function settledBytes(program: Program, patienceMs: number): Promise<number> {
  const first = residentBytes(program.pid);
  const until = performance.now() + patienceMs;
  while (performance.now() < until && residentBytes(program.pid) > first * SETTLED_RATIO) {
    await sleep(SAMPLE_MS);
  }
  return residentBytes(program.pid);
}
