/**
 * The sizes of the real thing.
 */
import { expect, test } from "vitest";

import { makeFile, sameContent } from "../e2e/files.ts";
import { number, Stage, text } from "../e2e/harness.ts";
import { feedSlowReader } from "../e2e/slow-reader.ts";

const MIB = 1024 * 1024;
const MINUTES_MS = 300_000;

test.for([
  ["64KiB", "auto"],
  ["4KiB", "auto"],
  ["1MiB", "auto"],
  ["64KiB", "websocket"],
] as const)("300 MiB of odd size, in chunks of %s, over %s", async ([chunk, link]) => {
  await using stage = await Stage.open();
  await stage.relay();
  const from = stage.file("source");
  const to = stage.file("destination");
  await makeFile(from, 300 * MIB + 54_321);
  const { seeder, ticket } = await stage.seed(["--file", from, "--chunk", chunk, "--link", link]);
  const leecher = stage.leech(ticket, ["--file", to, "--link", link]);
  await Promise.all([seeder.expectExit(0, MINUTES_MS), leecher.expectExit(0, MINUTES_MS)]);
  expect(await sameContent(from, to)).toBe(true);
  const done = leecher.last("done");
  expect(text(done, "rootHash")).toBe(text(seeder.last("done"), "rootHash"));
  const seconds = number(done, "totalMs") / 1_000;
  console.log(
    `${chunk} over ${text(done, "path")}: ${seconds.toFixed(1)} s, ` +
      `${(300 / seconds).toFixed(0)} MiB/s, downtime ${number(done, "downtimeMs").toFixed(0)} ms`,
  );
});

test.for(["websocket", "webtransport"])(
  "the relay and its embedded database stay within 150 MB of their idle size while 1 GiB passes to a slow leecher over %s",
  async (link) => {
    const { idleBytes, peakBytes, seconds } = await feedSlowReader(1024 * MIB, link);
    const grownMb = (peakBytes - idleBytes) / 1e6;
    console.log(
      `${link}: relay idle ${Math.round(idleBytes / 1e6)} MB, ${grownMb.toFixed(0)} MB more at most, ` +
        `1 GiB in ${seconds.toFixed(1)} s`,
    );
    expect(grownMb).toBeLessThan(150);
  },
);
