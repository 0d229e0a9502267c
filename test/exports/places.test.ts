/** One suite over every place where a program finds a region by a path: a file or a block device. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { beforeEach, describe, expect, onTestFinished, test } from "vitest";

import type { NativeRegion } from "../../native/index.ts";
import { Exports } from "../../peer/export/exports.ts";
import { ExportedWrites } from "../../peer/export/exported-writes.ts";
import type { ExportPlace } from "../../peer/export/place.ts";
import { parseExport } from "../../peer/export/spec.ts";
import { indexesOf, requireMount, run as client } from "../native/support/exports.ts";
import {
  requireFuse,
  requireLoop,
  requireTool,
  skipUnless,
  type Requirement,
} from "../support/requires.ts";
import { CHUNK, contentOf, farRegion, image, nearRegion, run, temporaryFolder } from "./support.ts";

const MIB = 1 << 20;
const HOLDINGS = { stores: {}, mounts: {} };

interface Kind {
  readonly name: string;
  readonly spec: () => string;
  readonly needs: () => Requirement[];
}

const kinds: readonly Kind[] = [
  {
    name: "fuse",
    spec: () => {
      const directory = path.join(temporaryFolder(), "mount");
      mkdirSync(directory);
      return `fuse:${directory}`;
    },
    needs: () => [requireMount()],
  },
  { name: "loop", spec: () => "loop:auto", needs: () => [requireMount(), requireLoop()] },
];

async function show(spec: string, region: NativeRegion): Promise<[string, ExportPlace]> {
  const exports = new Exports();
  onTestFinished(() => exports.close());
  const parsed = parseExport(spec);
  exports.open([parsed], { holdings: HOLDINGS, session: temporaryFolder() });
  const place = exports.add(parsed, "disk", region);
  exports.serve();
  await exports.attach();
  return [place.pathOf("disk"), place];
}

function fio(file: string, ...args: readonly string[]): Promise<string> {
  return run("fio", [
    "--name=verify",
    `--filename=${file}`,
    "--verify=crc32c",
    "--verify_fatal=1",
    "--verify_state_save=0",
    "--allow_mounted_write=0",
    ...args,
  ]);
}

describe.each(kinds)("$name", ({ spec, needs }) => {
  beforeEach((ctx) => skipUnless(ctx, ...needs(), requireTool("fio")));

  test.each([
    ["near", nearRegion],
    ["far", (content: Buffer) => Promise.resolve(farRegion(content).region)],
  ])("a %s region is read as it is, byte for byte", async (_, make) => {
    const content = image(24 * MIB + 512);
    const [file] = await show(spec(), await make(content));
    const copy = path.join(temporaryFolder(), "copy");
    await run("dd", [`if=${file}`, `of=${copy}`, "bs=1M", "status=none"]);
    expect(readFileSync(copy).equals(content)).toBe(true);
    await run("dd", [`if=${file}`, `of=${copy}`, "bs=512", "skip=777", "count=99", "status=none"]);
    expect(readFileSync(copy).equals(content.subarray(777 * 512, (777 + 99) * 512))).toBe(true);
  });

  test.each([
    ["psync", "randwrite", "4k", 1],
    ["psync", "write", "1m", 1],
    ["libaio", "randwrite", "16k", 32],
  ])("fio verifies what it wrote: %s %s of %s at depth %i", async (engine, rw, bs, depth) => {
    const [file] = await show(spec(), await nearRegion(image(32 * MIB)));
    const direct = engine === "libaio" ? 1 : 0;
    const output = await fio(
      file,
      `--ioengine=${engine}`,
      `--rw=${rw}`,
      `--bs=${bs}`,
      `--iodepth=${depth}`,
      `--direct=${direct}`,
      "--size=32M",
      "--end_fsync=1",
    );
    expect(output).toMatch(/err= 0/);
  });

  // Not by fio: its mmap engine fails on any block device, ours or not.
  test("what is written through a mapping is in the region", async () => {
    const { region } = farRegion(image(8 * MIB));
    const [file] = await show(spec(), region);
    await client("map-rounds", file, 3 * CHUNK + 100, 2 * CHUNK, 7);
    const content = image(8 * MIB);
    content.fill(7, 3 * CHUNK + 100, 5 * CHUNK + 100);
    const copy = path.join(temporaryFolder(), "copy");
    await run("dd", [`if=${file}`, `of=${copy}`, "bs=1M", "status=none"]);
    expect(readFileSync(copy).equals(content)).toBe(true);
    expect((await contentOf(region)).equals(content)).toBe(true);
  });

  test("several writers at once, into chunks that are still elsewhere", async () => {
    const { region, fetched } = farRegion(image(32 * MIB));
    const [file] = await show(spec(), region);
    const output = await fio(
      file,
      "--ioengine=psync",
      "--rw=randwrite",
      "--bs=4k",
      "--numjobs=4",
      "--size=8M",
      "--offset_increment=8M",
      "--end_fsync=1",
    );
    expect(output.match(/err= 0/g)).toHaveLength(4);
    expect(new Set(fetched).size).toBe(fetched.length);
  });

  test("what was synced is in the region and marked", async () => {
    const region = await nearRegion(Buffer.alloc(8 * MIB));
    const [file] = await show(spec(), region);
    const source = path.join(temporaryFolder(), "source");
    await writeFile(source, image(2 * CHUNK));
    const dd = ["bs=64k", "seek=5", "conv=notrunc,fsync", "status=none"];
    await run("dd", [`if=${source}`, `of=${file}`, ...dd]);
    expect(indexesOf(region.takeDirty())).toEqual([5, 6]);
    const content = await contentOf(region);
    expect(content.subarray(5 * CHUNK, 7 * CHUNK).equals(image(2 * CHUNK))).toBe(true);
  });

  test("freezing finds what nobody has synced", async () => {
    const region = await nearRegion(Buffer.alloc(8 * MIB));
    const [file, place] = await show(spec(), region);
    const writes = new ExportedWrites(region, place, "disk");
    await writes.begin();
    const source = path.join(temporaryFolder(), "source");
    await writeFile(source, image(CHUNK));
    await run("dd", [
      `if=${source}`,
      `of=${file}`,
      "bs=64k",
      "seek=9",
      "conv=notrunc",
      "status=none",
    ]);
    await writes.freeze();
    expect(indexesOf(await writes.collect())).toContain(9);
    expect((await contentOf(region)).subarray(9 * CHUNK, 10 * CHUNK).equals(image(CHUNK))).toBe(
      true,
    );
    writes.thaw();
  });

  test("zeroing a range leaves a hole, and the rest as it was", async () => {
    const content = image(4 * MIB);
    const region = await nearRegion(content);
    const [file] = await show(spec(), region);
    await run("fallocate", [
      "--punch-hole",
      "--offset",
      `${CHUNK}`,
      "--length",
      `${2 * CHUNK}`,
      file,
    ]);
    content.fill(0, CHUNK, 3 * CHUNK);
    await run("sync", [file]);
    expect((await contentOf(region)).equals(content)).toBe(true);
  });
});

describe("loop", () => {
  beforeEach((ctx) => {
    skipUnless(ctx, requireFuse(), requireLoop(), requireTool("mkfs.ext4"), requireTool("sqlite3"));
  });

  test("ext4 with a SQLite database in WAL mode passes its integrity check, here and in the region", async () => {
    const region = await nearRegion(Buffer.alloc(64 * MIB));
    const [device, place] = await show("loop:auto", region);
    const at = path.join(temporaryFolder(), "ext4");
    mkdirSync(at);
    await run("mkfs.ext4", ["-q", device]);
    execFileSync("mount", [device, at]);
    onTestFinished(() => void execFileSync("umount", ["-q", at]));
    const database = path.join(at, "app.db");
    const sql = (text: string, file = database): Promise<string> => run("sqlite3", [file, text]);
    await sql("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)");
    for (let i = 0; i < 20; i++) {
      await sql(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<200) INSERT INTO t(x) SELECT randomblob(900) FROM c",
      );
    }
    expect(await sql("PRAGMA integrity_check; SELECT count(*) FROM t")).toBe("ok\n4000\n");
    // The region as a migration would find it: a file system that was not unmounted.
    await place.flush("disk");
    const copy = path.join(temporaryFolder(), "image");
    await writeFile(copy, await contentOf(region));
    const other = path.join(temporaryFolder(), "ext4");
    mkdirSync(other);
    execFileSync("mount", ["-o", "loop", copy, other]);
    onTestFinished(() => void execFileSync("umount", ["-q", other]));
    const read = "PRAGMA integrity_check; SELECT count(*) FROM t";
    expect(await sql(read, path.join(other, "app.db"))).toBe("ok\n4000\n");
  });

  test("what cannot be a block device is said", async () => {
    const odd = await nearRegion(image(CHUNK + 1));
    await expect(show("loop:auto", odd)).rejects.toThrow(/whole sectors/);
    await expect(show("loop:/dev/null", odd)).rejects.toThrow(/loop:auto or loop:\/dev\/loopN/);
    const region = await nearRegion(image(CHUNK));
    const [device] = await show("loop:auto", region);
    await expect(show(`loop:${device}`, region)).rejects.toThrow(/in use/);
  });

  test("nothing is left behind", async () => {
    // Runs last: what was registered later is undone before.
    onTestFinished(async () => {
      expect(await run("losetup", ["--noheadings", "--output", "BACK-FILE"])).not.toContain(
        "memferry-loop",
      );
      expect(readdirSync(tmpdir()).filter((name) => name.startsWith("memferry-loop"))).toEqual([]);
    });
    const [device] = await show("loop:auto", await nearRegion(image(CHUNK)));
    expect(device).toMatch(/^\/dev\/loop\d+$/);
  });
});
