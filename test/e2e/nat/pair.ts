/**
 * One migration between two hosts of the emulated network, and what became of it.
 *
 * @module
 */
import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import type { Family, Lab } from "../../support/wan/lab.ts";
import { Arrivals, pathOf, pathsOf } from "../../support/wan/observe.ts";
import { digest } from "../files.ts";
import { eventually, type Stage } from "../harness.ts";
import type { Program } from "../program.ts";
import type { Way } from "./expected.ts";

const LIMIT_MS = 90_000;
/** How long a pair that may go direct is given to do so before anything happens to it. */
const SETTLE_MS = 3_000;
const DISTURB_AT_RATIO = 0.25;

/** A relay on its node, and the file that is moved. */
export interface Site {
  readonly lab: Lab;
  readonly stage: Stage;
  readonly source: string;
  readonly sourceDigest: string;
  readonly bytes: number;
}

export interface Attempt {
  readonly seeder: string;
  readonly leecher: string;
  readonly mode?: "precopy" | "postcopy" | undefined;
  /** More for both commands. */
  readonly args?: readonly string[];
  /** Happens when the path has settled, a part of the region has come and most of it has not. */
  readonly disturb?: (() => Promise<void>) | undefined;
}

export interface Outcome {
  /** Of the leecher, in order. */
  readonly paths: readonly string[];
  /** What both ended on. */
  readonly way: Way | "differ";
  /** From the start of `leech`. */
  readonly firstByteMs: number;
  readonly directMs?: number;
  readonly longestStallMs: number;
  readonly totalMs: number;
  /** Paths when it was disturbed. */
  readonly before?: readonly string[];
}

let copies = 0;

/** @throws unless both peers end well and the copy is the source */
export async function attempt(site: Site, pair: Attempt): Promise<Outcome> {
  const { lab, stage, source } = site;
  const copy = stage.file(`copy-${copies++}`);
  const more = pair.args ?? [];
  const { seeder, ticket } = await stage.seed(["--file", source, ...more], {
    within: lab.inside(pair.seeder),
  });
  const startedAtMs = performance.now();
  using arrivals = new Arrivals(copy);
  const mode = pair.mode === undefined ? [] : ["--mode", pair.mode];
  const leecher = stage.leech(ticket, ["--file", copy, "--sparse", ...mode, ...more], {
    within: lab.inside(pair.leecher),
  });
  try {
    const before =
      pair.disturb === undefined ? undefined : await settled(site, leecher, arrivals, pair.mode);
    await pair.disturb?.();
    const done = await leecher.waitFor("done", undefined, LIMIT_MS);
    await Promise.all([leecher.expectExit(0), seeder.expectExit(0)]);
    if ((await digest(copy)) !== site.sourceDigest) {
      throw new Error(`the copy is not the source; the leecher said: ${leecher.stdout}`);
    }
    const direct = leecher.messages.find((message) => pathOf(message) === "direct");
    return {
      paths: pathsOf(leecher),
      way: wayOf(seeder, leecher),
      firstByteMs: (arrivals.firstAtMs ?? NaN) - startedAtMs,
      ...(direct === undefined ? {} : { directMs: leecher.cameAtMs(direct) - startedAtMs }),
      longestStallMs: arrivals.longestStallMs,
      totalMs: leecher.cameAtMs(done) - startedAtMs,
      ...(before === undefined ? {} : { before }),
    };
  } finally {
    await leecher.stop();
    await seeder.stop();
    rmSync(copy, { force: true });
  }
}

async function settled(
  { bytes }: Site,
  leecher: Program,
  arrivals: Arrivals,
  mode: Attempt["mode"],
): Promise<string[]> {
  const alive = (): boolean => leecher.exit !== undefined;
  if (mode === "postcopy") await leecher.waitForPhase("postcopy");
  await eventually(() => alive() || arrivals.bytes > bytes * DISTURB_AT_RATIO, LIMIT_MS);
  const until = performance.now() + SETTLE_MS;
  const maySettle = (): boolean => performance.now() < until && arrivals.bytes < bytes / 2;
  while (maySettle() && !pathsOf(leecher).includes("direct")) await sleep(20);
  if (arrivals.bytes > bytes * 0.8) throw new Error("too fast to be disturbed: lower the rate");
  return pathsOf(leecher);
}

function wayOf(seeder: Program, leecher: Program): Outcome["way"] {
  const [one, other] = [seeder, leecher].map((peer) =>
    pathsOf(peer).at(-1) === "direct" ? "direct" : "relayed",
  );
  return one === other && one !== undefined ? one : "differ";
}

/** `relay` is the name of its node. */
export async function openSite(
  lab: Lab,
  stage: Stage,
  family: Family,
  source: string,
  bytes: number,
): Promise<Site> {
  const host = lab.address("relay")[family];
  const listen = family === "v6" ? `[${host}]:0` : `${host}:0`;
  await stage.relay({ within: lab.inside("relay"), args: ["--listen", listen] });
  return { lab, stage, source, sourceDigest: await digest(source), bytes };
}
