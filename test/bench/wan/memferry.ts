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

/** What memferry chooses by itself, what it chooses at the relay, and each way alone. */
export const LINKS = ["auto", "relayed", "websocket", "webtransport", "direct"] as const;
export type BenchLink = (typeof LINKS)[number];

function optionsOf(link: BenchLink): string[] {
  switch (link) {
    case "auto":
      return ["--path", "auto"];
    case "relayed":
      return ["--path", "relay"];
    case "direct":
      return ["--path", "direct"];
    case "websocket":
    case "webtransport":
      return ["--path", "relay", "--link", link];
  }
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
  const { seeder, ticket } = await scene.stage.seed(["--file", source, ...optionsOf(link)], {
    within: seeding.within,
  });
  const relayBefore = cpuSecondsOf(relay.program.pid);
  await scene.lab.mark("leecher");
  const startedAtMs = performance.now();
  // The hub's clock is `hrtime`, which is the same with another zero.
  const zeroMs = Number(process.hrtime.bigint()) / 1e6 - startedAtMs;
  using arrivals = new Arrivals(copy);
  // Without --sparse all of the file is reserved beforehand, and the first byte would not show.
  const leecher = scene.stage.leech(ticket, ["--file", copy, "--sparse", ...optionsOf(link)], {
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
