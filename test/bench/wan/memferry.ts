/**
 * A whole migration, from the start of `memferry leech` to its end.
 *
 * @module
 */
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, statSync } from "node:fs";

import type { TestRelay } from "../../e2e/harness.ts";
import type { Message, Program } from "../../e2e/program.ts";
import { figures, type Figures, type Job } from "./row.ts";
import type { Scene } from "./scene.ts";

const POLL_MS = 2;
/** Of /proc/PID/stat. */
const TICKS_PER_SECOND = 100;

export const LINKS = ["auto", "websocket", "webtransport", "direct"] as const;
export type BenchLink = (typeof LINKS)[number];

/** Whether this memferry knows the link. @returns why not, if it does not */
export async function unknownLink(scene: Scene, link: BenchLink): Promise<string | undefined> {
  const { stdout, stderr } = await scene.stage.run(["leech", "--help"]);
  const line = `${stdout}${stderr}`.split("\n").find((each) => each.includes("--link KIND")) ?? "";
  return line.includes(link) ? undefined : `\`memferry leech --link\` has no ${link}`;
}

export async function migrate(
  scene: Scene,
  relay: TestRelay,
  link: BenchLink,
  job: Job,
): Promise<Figures> {
  const copy = scene.file("copy");
  const [seeding, leeching] = [scene.counted("seeder"), scene.counted("leecher")];
  const source = scene.sourceOf(job);
  const { seeder, ticket } = await scene.stage.seed(["--file", source, "--link", link], {
    within: seeding.within,
  });
  const relayBefore = cpuSecondsOf(relay.program.pid);
  await scene.lab.mark("leecher");
  const startedAtNs = process.hrtime.bigint();
  // Without --sparse all of the file is reserved beforehand, and the first byte would not show.
  const leecher = scene.stage.leech(ticket, ["--file", copy, "--sparse", "--link", link], {
    within: leeching.within,
  });
  try {
    const storedAtNs = await firstBlock(copy, leecher, job.limitMs);
    await leecher.waitFor("done", undefined, job.limitMs);
    const endedAtNs = process.hrtime.bigint();
    const relayCpu = cpuSecondsOf(relay.program.pid) - relayBefore;
    await Promise.all([leecher.expectExit(0), seeder.expectExit(0)]);
    if (spawnSync("cmp", ["-s", source, copy]).status !== 0) {
      throw new Error(`over ${link} the copy is not the source; its events: ${leecher.stdout}`);
    }
    const { firstAtNs } = await scene.lab.statistics("leecher");
    const gib = job.bytes / 2 ** 30;
    return figures(job, Number(endedAtNs - startedAtNs) / 1e9, {
      cpuPerGib: {
        seeder: (await seeding.cpuSeconds()) / gib,
        leecher: (await leeching.cpuSeconds()) / gib,
        relay: relayCpu / gib,
      },
      paths: pathsOf(leecher),
      startMs: (firstAtNs - Number(startedAtNs)) / 1e6,
      firstByteMs: (Number(storedAtNs) - firstAtNs) / 1e6,
    });
  } finally {
    await leecher.stop();
    await seeder.stop();
    rmSync(copy, { force: true });
  }
}

/** The paths that a peer said it used, one after the other. */
export function pathsOf(program: Program): string[] {
  const told = program.messages.map(pathOf).filter((path) => path !== undefined);
  return told.filter((path, i) => path !== told[i - 1]);
}

/** The path that an event of a peer tells of. */
export function pathOf(message: Message): string | undefined {
  const path = message["path"];
  return typeof path === "string" && ["channel", "path", "done"].includes(String(message["event"]))
    ? path
    : undefined;
}

/** When the first block of a file has been written. */
async function firstBlock(file: string, program: Program, limitMs: number): Promise<bigint> {
  const until = performance.now() + limitMs;
  while ((statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) === 0) {
    if (program.exit !== undefined || performance.now() > until) {
      await program.waitFor("done", undefined, 1); // throws with what it said
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return process.hrtime.bigint();
}

function cpuSecondsOf(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
