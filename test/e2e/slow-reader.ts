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
const IDLE_SAMPLES = 10;
const SAMPLE_MS = 50;

export interface SlowReader {
  readonly idleBytes: number;
  readonly peakBytes: number;
  readonly seconds: number;
}

export async function feedSlowReader(bytes: number, link: string): Promise<SlowReader> {
  await using stage = await Stage.open();
  const { program } = await stage.relay();
  const from = stage.file("source");
  await makeFile(from, bytes);
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", link]);
  let idleBytes = 0;
  for (let i = 0; i < IDLE_SAMPLES; i++) {
    await sleep(SAMPLE_MS);
    idleBytes = Math.max(idleBytes, residentBytes(program.pid));
  }
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

async function standStillNowAndThen(leecher: Program): Promise<void> {
  while (leecher.exit === undefined && leecher.last("done") === undefined) {
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
