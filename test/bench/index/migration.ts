/**
 * What the index costs a migration: the same one with it and without it, in turns, through a relay on PostgreSQL.
 *
 * Chunks are as small as they may be, which makes the index as large as it can be: 32 bytes for 4 KiB.
 *
 * @module
 */
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";

import { Stage } from "../../e2e/harness.ts";
import type { TestPostgres } from "../../support/postgres.ts";
import { cpuOf } from "./database.ts";
import type { Figure } from "./figure.ts";

const CHUNK_SIZES = ["64KiB", "4KiB"] as const;
const PATIENCE_MS = 300_000;

export interface MigrationBench {
  readonly server: TestPostgres;
  readonly mib: number;
  readonly rounds: number;
  readonly onFigure: (figure: Figure) => void;
}

interface Run {
  readonly seconds: number;
  readonly cpuS: number;
}

export async function benchMigration(bench: MigrationBench): Promise<void> {
  const { server, mib, rounds, onFigure } = bench;
  await using stage = await Stage.open();
  await stage.relay({ databaseUrl: await server.createDatabase() });
  const source = stage.file("source");
  writeNoise(source, mib);
  for (const chunkSize of CHUNK_SIZES) {
    // The first of all warms caches and connections up.
    await migrate(stage, source, chunkSize, true);
    const pairs: { with: Run; without: Run }[] = [];
    for (let round = 0; round < rounds; round++) {
      const first = await migrate(stage, source, chunkSize, round % 2 === 0);
      const second = await migrate(stage, source, chunkSize, round % 2 === 1);
      pairs.push(
        round % 2 === 0 ? { with: first, without: second } : { with: second, without: first },
      );
    }
    const ratio = (of: (run: Run) => number): number =>
      median(pairs.map((pair) => of(pair.with) / of(pair.without)));
    const figure = (what: string, unit: string, of: (run: Run) => number): void =>
      onFigure({
        name: `a migration's ${what} with the index, ${mib} MiB of ${chunkSize}`,
        unit: `of that without (${median(pairs.map((pair) => of(pair.with))).toFixed(2)} ${unit})`,
        value: ratio(of),
        goal: { atMost: 1.03 },
        limit: { what: `without, ${unit}`, value: median(pairs.map((pair) => of(pair.without))) },
      });
    figure("time", "s", ({ seconds }) => seconds);
    figure("CPU", "CPU s", ({ cpuS }) => cpuS);
  }
}

/** All CPU time of its processes, of the relay and of the database's server is in it. */
async function migrate(
  stage: Stage,
  source: string,
  chunkSize: string,
  withIndex: boolean,
): Promise<Run> {
  const copy = stage.file("copy");
  const preload = pathToFileURL(`${import.meta.dirname}/without-index.ts`).href;
  const environment = withIndex ? {} : { NODE_OPTIONS: `--import=${preload}` };
  const cpuBefore = othersCpu();
  const { seeder, ticket } = await stage.seed(["--file", source, "--chunk", chunkSize], {
    environment,
  });
  const start = performance.now();
  const leecher = stage.leech(ticket, ["--file", copy]);
  const done = leecher.cameAtMs(await leecher.waitFor("done", undefined, PATIENCE_MS));
  await Promise.all([leecher.expectExit(0), seeder.expectExit(0)]);
  const run = { seconds: (done - start) / 1000, cpuS: othersCpu() - cpuBefore };
  rmSync(copy);
  return run;
}

/** Seconds of this process' children, living and ended. */
function othersCpu(): number {
  const { user, system } = process.cpuUsage();
  return cpuOf(process.pid) - (user + system) / 1e6;
}

function writeNoise(path: string, mib: number): void {
  const file = openSync(path, "w");
  const piece = new Uint8Array(1024 * 1024);
  for (let at = 0; at < mib; at++) {
    for (let from = 0; from < piece.length; from += 65_536) {
      crypto.getRandomValues(piece.subarray(from, from + 65_536));
    }
    writeSync(file, piece);
  }
  closeSync(file);
}

function median(figures: readonly number[]): number {
  const sorted = figures.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
