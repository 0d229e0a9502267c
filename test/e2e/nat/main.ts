/**
 * `npm run test:nat`: real processes behind every kind of router, and what happens to their network meanwhile.
 *
 *     npm run -s test:nat -- [--only matrix|faults] [--filter TEXT] [--families v4,v6] [--link KIND]
 *         [--path auto|relay] [--json]
 *
 * Prints a line per pair, and at last `N passed, N failed, N skipped`. A pair fails if the region does not arrive as
 * it was, if the peers end on another path than `expected.ts` says (`--path relay`: on a direct one), or if after a
 * fault nothing arrived for six seconds.
 *
 * @module
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

import { requireWan } from "../../support/requires.ts";
import { type Family, Lab } from "../../support/wan/lab.ts";
import { NAT_KINDS, type NatKind } from "../../support/wan/nat.ts";
import { makeRandomFile } from "../files.ts";
import { Stage } from "../harness.ts";
import { EXPECTED, type Way } from "./expected.ts";
import { type Fault, FAULT_PAIRS, FAULTS, MODES } from "./faults.ts";
import { attempt, openSite, type Attempt, type Outcome, type Site } from "./pair.ts";

const MIB = 1024 * 1024;
/** The region takes some ten seconds at this rate: time for an upgrade, and for a fault in its middle. */
const BYTES = 40 * MIB;
const MBIT = 32;
const PEER_DELAY_MS = 8;
const RELAY_DELAY_MS = 4;
const STALL_LIMIT_MS = 6_000;
const PROBLEM_LINES_MAX = 12;
const CONCURRENCY = Math.min(3, availableParallelism());

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    filter: { type: "string", default: "" },
    families: { type: "string", default: "v4,v6" },
    link: { type: "string", default: "auto" },
    path: { type: "string", default: "auto" },
    json: { type: "boolean", default: false },
  },
});

interface Case {
  readonly name: string;
  readonly family: Family;
  /** Of hosts that this case has for itself: the seeder's and the leecher's. */
  readonly nats: readonly [NatKind, NatKind];
  readonly expected: Way;
  readonly mode?: Attempt["mode"];
  readonly fault?: Fault;
}

interface Result {
  readonly name: string;
  readonly outcome?: Outcome;
  readonly problem?: string;
}

process.exit(await main());

async function main(): Promise<number> {
  const needed = requireWan();
  if (!needed.available) {
    console.log(`skipped: test:nat: ${needed.skipReason}\n0 passed, 0 failed, 1 skipped`);
    return 0;
  }
  await using stage = await Stage.open();
  const source = stage.file("source");
  await makeRandomFile(source, BYTES);
  const results: Result[] = [];
  if (!values.json) console.log(columns(["", "path", "first byte", "direct", "stall", "total"]));
  for (const family of ["v4", "v6"] as const) {
    if (!values.families.split(",").includes(family)) continue;
    results.push(...(await runAll(family, source)));
  }
  const failed = results.filter(({ problem }) => problem !== undefined);
  if (values.json) console.log(JSON.stringify({ results }));
  const summary = `${results.length - failed.length} passed, ${failed.length} failed, 0 skipped`;
  if (values.json) console.error(summary);
  else console.log(summary);
  return failed.length === 0 && results.length > 0 ? 0 : 1;
}

async function runAll(family: Family, source: string): Promise<Result[]> {
  const link = { delayMs: PEER_DELAY_MS, upMbit: MBIT, downMbit: MBIT };
  const relay = { link: { delayMs: RELAY_DELAY_MS, upMbit: 0, downMbit: 0 } };
  const cases = [...matrixCases(family), ...faultCases(family)].filter(({ name }) =>
    name.includes(values.filter),
  );
  if (cases.length === 0) return [];
  const hosts = cases.flatMap(({ nats: [seeder, leecher] }, i) => [
    [`s${i}`, { nat: seeder }] as const,
    [`l${i}`, { nat: leecher }] as const,
  ]);
  await using lab = await Lab.create({
    nodes: { relay, ...Object.fromEntries(hosts) },
    link,
    families: [family],
  });
  await using stage = await Stage.open();
  const site = await openSite(lab, stage, family, source, BYTES);
  const queue = [...cases.entries()];
  const results: Result[] = [];
  const again: typeof queue = [];
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const result = await judge(site, ...next);
        results.push(result);
        if (!values.json) tell(result);
        if (result.problem !== undefined) again.push(next);
      }
    }),
  );
  // On a machine that is busy with something else a second is soon gone: alone, each gets one more chance, and both are told.
  for (const [number, one] of again) {
    const result = await judge(site, number, one);
    if (!values.json) tell({ ...result, name: `${result.name} (again)` });
    const first = results.findIndex(({ name }) => name === result.name);
    results.splice(first, 1, result);
  }
  return results;
}

function matrixCases(family: Family): Case[] {
  if (values.only === "faults") return [];
  return NAT_KINDS.flatMap((seeder) =>
    NAT_KINDS.map((leecher) => ({
      name: `IP${family} ${seeder} to ${leecher}`,
      family,
      nats: [seeder, leecher] as const,
      expected: EXPECTED[seeder][leecher],
    })),
  );
}

function faultCases(family: Family): Case[] {
  if (values.only === "matrix") return [];
  return FAULT_PAIRS.filter((pair) => pair.family === family).flatMap(({ nat }) =>
    MODES.flatMap((mode) =>
      FAULTS.map((fault) => ({
        name: `IP${family} ${nat}, ${mode}: ${fault.name}`,
        family,
        nats: [nat, nat] as const,
        // Before the fault: on which it ends depends on when that happened.
        expected: EXPECTED[nat][nat],
        mode,
        fault,
      })),
    ),
  );
}

async function judge(
  site: Site,
  number: number,
  { name, expected, mode, fault }: Case,
): Promise<Result> {
  const [seeder, leecher] = [`s${number}`, `l${number}`];
  let outcome: Outcome;
  try {
    outcome = await attempt(site, {
      seeder,
      leecher,
      mode,
      args: ["--link", values.link, "--path", values.path],
      disturb: fault && (async () => void (await fault.happen(site.lab, seeder, leecher))),
    });
  } catch (error) {
    return { name, problem: error instanceof Error ? error.message : String(error) };
  }
  const due = values.path === "relay" ? "relayed" : expected;
  const settledOn = outcome.before?.at(-1) ?? outcome.way;
  const way = settledOn === "direct" ? "direct" : settledOn === "differ" ? "differ" : "relayed";
  const problems = [
    way === due ? "" : `the path is ${way} (${outcome.paths.join(", ")}) and should be ${due}`,
    fault !== undefined && outcome.longestStallMs > STALL_LIMIT_MS
      ? `nothing came for ${seconds(outcome.longestStallMs)}`
      : "",
  ].filter((each) => each !== "");
  return { name, outcome, ...(problems.length > 0 ? { problem: problems.join("; ") } : {}) };
}

function tell(result: Result): void {
  console.log(lineOf(result));
  const why = result.problem?.split("\n").slice(0, PROBLEM_LINES_MAX) ?? [];
  for (const each of why) console.log(`    ${each}`);
}

function lineOf({ name, outcome, problem }: Result): string {
  if (outcome === undefined) return columns([name, "FAILED"]);
  const { paths, firstByteMs, directMs, longestStallMs, totalMs } = outcome;
  return columns([
    name,
    paths.join(", "),
    seconds(firstByteMs),
    directMs === undefined ? "" : seconds(directMs),
    seconds(longestStallMs),
    seconds(totalMs),
    problem === undefined ? "" : "FAILED",
  ]);
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function columns(cells: readonly string[]): string {
  const widths = [58, 32, 10, 9, 9, 9];
  return cells
    .map((cell, i) => cell.padEnd(widths[i] ?? 0))
    .join("  ")
    .trimEnd();
}
