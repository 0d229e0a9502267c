/**
 * A whole migration, from the start of `memferry leech` to its end.
 *
 * @module
 */
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";

import type { TestRelay } from "../../e2e/harness.ts";
import { Arrivals, pathsOf } from "../../support/wan/observe.ts";
import { figures, type Figures, type Job } from "./row.ts";
import type { Scene } from "./scene.ts";

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
  const startedAtMs = performance.now();
  // The hub's clock is `hrtime`, which is the same with another zero.
  const zeroMs = Number(process.hrtime.bigint()) / 1e6 - startedAtMs;
  using arrivals = new Arrivals(copy);
  // Without --sparse all of the file is reserved beforehand, and the first byte would not show.
  const leecher = scene.stage.leech(ticket, ["--file", copy, "--sparse", "--link", link], {
    within: leeching.within,
  });
  try {
    const seconds =
      (leecher.cameAtMs(await leecher.waitFor("done", undefined, job.limitMs)) - startedAtMs) /
      1000;
    const relayCpu = cpuSecondsOf(relay.program.pid) - relayBefore;
    await Promise.all([leecher.expectExit(0), seeder.expectExit(0)]);
    if (spawnSync("cmp", ["-s", source, copy]).status !== 0) {
      throw new Error(`over ${link} the copy is not the source; its events: ${leecher.stdout}`);
    }
    const { firstAtNs } = await scene.lab.statistics("leecher");
    const firstPacketMs = firstAtNs / 1e6 - zeroMs;
    const gib = job.bytes / 2 ** 30;
    return figures(job, seconds, {
      cpuPerGib: {
        seeder: (await seeding.cpuSeconds()) / gib,
        leecher: (await leeching.cpuSeconds()) / gib,
        relay: relayCpu / gib,
      },
      paths: pathsOf(leecher),
      startMs: firstPacketMs - startedAtMs,
      firstByteMs: (arrivals.firstAtMs ?? NaN) - firstPacketMs,
    });
  } finally {
    await leecher.stop();
    await seeder.stop();
    rmSync(copy, { force: true });
  }
}

function cpuSecondsOf(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
