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
import { NAT_KINDS } from "../../support/wan/nat.ts";
import { makeRandomFile } from "../files.ts";
import { Stage } from "../harness.ts";
import { EXPECTED, type Way } from "./expected.ts";
import { FAULT_PAIRS, FAULTS, MODES } from "./faults.ts";
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
  readonly expected: Way;
  readonly pair: Attempt;
  readonly stallLimitMs?: number;
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
  console.log(`${results.length - failed.length} passed, ${failed.length} failed, 0 skipped`);
  return failed.length === 0 && results.length > 0 ? 0 : 1;
}

async function runAll(family: Family, source: string): Promise<Result[]> {
  const link = { delayMs: PEER_DELAY_MS, upMbit: MBIT, downMbit: MBIT };
  const relay = { link: { delayMs: RELAY_DELAY_MS, upMbit: 0, downMbit: 0 } };
  const hosts = NAT_KINDS.flatMap((nat) => [
    [`a-${nat}`, { nat }] as const,
    [`b-${nat}`, { nat }] as const,
  ]);
  // What changes its network has hosts of its own.
  const faultHosts = faultCases().flatMap(({ pair, nat }) => [
    [pair.seeder, { nat }] as const,
    [pair.leecher, { nat }] as const,
  ]);
  await using lab = await Lab.create({
    nodes: { relay, ...Object.fromEntries([...hosts, ...faultHosts]) },
    link,
    families: [family],
  });
  await using stage = await Stage.open();
  const site = await openSite(lab, stage, family, source, BYTES);
  const queue = [...matrixCases(family), ...faultCases(lab)].filter(
    (each) => each.family === family && each.name.includes(values.filter),
  );
  const results: Result[] = [];
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const result = await judge(site, next);
        results.push(result);
        if (!values.json) tell(result);
      }
    }),
  );
  return results;
}

function matrixCases(family: Family): Case[] {
  if (values.only === "faults") return [];
  return NAT_KINDS.flatMap((seeder) =>
    NAT_KINDS.map((leecher) => ({
      name: `IP${family} ${seeder} to ${leecher}`,
      family,
      expected: EXPECTED[seeder][leecher],
      pair: { seeder: `a-${seeder}`, leecher: `b-${leecher}` },
    })),
  );
}

function faultCases(lab?: Lab): (Case & { nat: (typeof FAULT_PAIRS)[number]["nat"] })[] {
  if (values.only === "matrix") return [];
  let hosts = 0;
  return FAULT_PAIRS.flatMap(({ family, nat }) =>
    MODES.flatMap((mode) =>
      FAULTS.map(({ name, happen }) => {
        const [seeder, leecher] = [`s${hosts}`, `l${hosts++}`];
        return {
          name: `IP${family} ${nat}, ${mode}: ${name}`,
          family,
          nat,
          // On what it ends depends on when: the path is shown, and is no reason to fail.
          expected: EXPECTED[nat][nat],
          stallLimitMs: STALL_LIMIT_MS,
          pair: {
            seeder,
            leecher,
            mode,
            disturb: async (): Promise<void> => {
              if (lab !== undefined) await happen(lab, seeder, leecher);
            },
          },
        };
      }),
    ),
  );
}

async function judge(site: Site, { name, expected, pair, stallLimitMs }: Case): Promise<Result> {
  let outcome: Outcome;
  try {
    outcome = await attempt(site, {
      ...pair,
      args: ["--link", values.link, "--path", values.path],
    });
  } catch (error) {
    return { name, problem: error instanceof Error ? error.message : String(error) };
  }
  const due = values.path === "relay" ? "relayed" : expected;
  const settledOn = outcome.before?.at(-1) ?? outcome.way;
  const way = settledOn === "direct" ? "direct" : settledOn === "differ" ? "differ" : "relayed";
  const problems = [
    way === due ? "" : `the path is ${way} (${outcome.paths.join(", ")}) and should be ${due}`,
    outcome.longestStallMs > (stallLimitMs ?? Infinity)
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
