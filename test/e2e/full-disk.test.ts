/** A destination whose disk is full once the workload is there: it waits for room, and loses nothing. */
import { rm } from "node:fs/promises";
import path from "node:path";

import { expect, test } from "vitest";

import { requireFuse, requireRoot, skipUnless } from "../support/requires.ts";
import { makeFile, sameContent } from "./files.ts";
import { Stage } from "./harness.ts";

const MIB = 1024 * 1024;

test("after the commit a full disk is told and waited for, and the migration ends well once there is room", async (ctx) => {
  skipUnless(ctx, requireRoot(), requireFuse());
  await using stage = await Stage.open();
  await stage.relay();
  const from = stage.file("source");
  await makeFile(from, 256 * MIB);
  const disk = await stage.tmpfs("disk", 300 * MIB);
  const filler = path.join(disk, "filler");
  const to = path.join(disk, "destination");

  const { seeder, ticket } = await stage.seed(["--file", from]);
  // Faster than any region arrives, and only once the workload is here.
  const fill = `dd if=/dev/zero of=${filler} bs=4M; true`;
  const shown = `fuse:${await stage.folder("shown")}`;
  const leecher = stage.leech(ticket, [
    "--file",
    to,
    "--sparse",
    "--export",
    shown,
    "--mode",
    "postcopy",
    "--on-resume",
    fill,
  ]);
  const warning = await leecher.waitFor("warning", ({ code }) => code === "STORE_FULL");
  expect(String(warning["message"])).toMatch(/disk is full.*tried again until there is room/);

  await rm(filler);
  await leecher.waitFor("done");
  leecher.kill("SIGINT");
  await leecher.expectExit(0);
  await seeder.expectExit(0);
  expect(await sameContent(from, to)).toBe(true);
});
