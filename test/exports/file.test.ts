/** Whole migrations of plain files that programs use without us: `--export file:PATH`. */
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, statSync, truncateSync } from "node:fs";
import { open, writeFile } from "node:fs/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { number, Stage, text } from "../e2e/harness.ts";
import type { Message } from "../e2e/program.ts";
import { requireMount } from "../native/support/exports.ts";
import { folderOn } from "../peer/export/support/poke.ts";
import { findProgram, isRoot } from "../support/programs.mjs";
import { requireRoot, skipUnless, type Requirement } from "../support/requires.ts";
import { CHUNK, image, run } from "./support.ts";

const MIB = 1 << 20;
const WRITER = "test/e2e/mapping-writer.c";
const PAGE = 4096;

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
  await stage.relay();
  // Other users are to reach what is in it.
  chmodSync(stage.path, 0o755);
});

afterAll(() => stage[Symbol.asyncDispose]());

function requireCompiler(): Requirement {
  const cc = findProgram("cc");
  const skipReason = "needs a C compiler: apt-get install -y gcc libc6-dev";
  return { available: cc !== undefined && cc !== "", path: cc ?? "", skipReason };
}

function warnings(messages: readonly Message[]): string[] {
  return messages
    .filter((message) => message["event"] === "warning" && message["code"] === "FILE_EXPORT")
    .map((message) => text(message, "message"));
}

/** What the writer leaves: a number at the start of each page. */
function lastWord(page: number): bigint {
  return BigInt.asUintN(64, BigInt(page) * 0x9e37_79b9_7f4a_7c15n + 1n);
}

describe.each(["disk", "tmpfs"] as const)("on %s", (kind) => {
  test("a file under a live writer through a mapping arrives with the writer's last word", async (ctx) => {
    const folder = await folderOn(kind);
    skipUnless(ctx, requireCompiler(), folder);
    const [source, copy] = [`${folder.path}/heap`, `${folder.path}/copy`];
    const program = stage.file(`writer-${kind}`);
    execFileSync("cc", ["-O1", "-o", program, WRITER]);
    const bytes = 24 * MIB + 1234;
    await writeFile(source, image(bytes));
    const ack = stage.file(`ack-${kind}`);
    const writer = stage.start({
      name: "the writer",
      command: program,
      args: [source, ack],
      environment: stage.environment(),
    });
    await writer.waitFor("writing");
    const suspend = `kill -USR1 ${writer.pid}; while ! test -e ${ack}; do sleep 0.01; done`;
    const { seeder, ticket } = await stage.seed([
      "--export",
      `file:${source}`,
      "--on-suspend",
      suspend,
    ]);
    expect(seeder.last("ticket")?.["paths"]).toEqual([source]);
    const leecher = stage.leech(ticket, ["--export", `file:${copy}`]);
    await leecher.expectExit(0);
    await seeder.expectExit(0);
    const content = readFileSync(copy);
    expect(content.length).toBe(bytes);
    for (let page = 0; page < Math.floor(bytes / PAGE); page++) {
      if (content.readBigUInt64LE(page * PAGE) !== lastWord(page)) expect(page).toBe(-1);
    }
    expect(content.equals(readFileSync(source))).toBe(true);
    const [warning = ""] = warnings(seeder.messages);
    expect(warning).toMatch(/each look .* reads and hashes up to 24\.0 MiB, about \d/);
    expect(warning).toMatch(/after --on-suspend has ended is lost/);
    const look = seeder.last("look");
    expect(number(look, "bytes")).toBe(bytes);
    expect(number(look, "changedChunks")).toBeGreaterThan(0);
    expect(number(look, "elapsedMs")).toBeGreaterThan(0);
    writer.kill("SIGKILL");
    await writer.waitForExit();
  });

  test("a file that is there is brought up to date: only what differs travels", async (ctx) => {
    const folder = await folderOn(kind);
    skipUnless(ctx, folder);
    const [source, copy] = [`${folder.path}/new`, `${folder.path}/old`];
    const bytes = 32 * MIB + 777;
    await writeFile(source, image(bytes));
    copyFileSync(source, copy);
    const other = await open(copy, "r+");
    for (const chunk of [0, 1, 80, Math.floor(bytes / CHUNK)]) {
      await other.write("differs", chunk * CHUNK + 3);
    }
    await other.close();
    const { seeder, ticket } = await stage.seed(["--export", `file:${source}`]);
    const { ino } = statSync(copy);
    const leecher = stage.leech(ticket, ["--export", `file:${copy}`]);
    await leecher.expectExit(0);
    await seeder.expectExit(0);
    expect(readFileSync(copy).equals(readFileSync(source))).toBe(true);
    expect(statSync(copy).ino).toBe(ino);
    // 3 whole chunks and 777 bytes; hashes of all chunks go both ways.
    const wire = number(leecher.last("done"), "bytesWire");
    expect(wire).toBeGreaterThan(3 * CHUNK);
    expect(wire).toBeLessThan(6 * CHUNK);
    expect(warnings(leecher.messages)[0]).toMatch(/written in place.* until the migration is done/);
    expect(warnings(seeder.messages)[0]).toMatch(/add --on-suspend/);
  });

  test("a sparse file stays sparse with --sparse", async (ctx) => {
    const folder = await folderOn(kind);
    skipUnless(ctx, folder);
    const [source, copy] = [`${folder.path}/sparse`, `${folder.path}/copy`];
    const file = await open(source, "w");
    await file.truncate(512 * MIB + 1);
    await file.write("some data", 100 * MIB);
    await file.close();
    const { seeder, ticket } = await stage.seed(["--export", `file:${source}`]);
    const leecher = stage.leech(ticket, ["--export", `file:${copy}`, "--sparse"]);
    await leecher.expectExit(0);
    await seeder.expectExit(0);
    const { size, blocks } = statSync(copy);
    expect(size).toBe(512 * MIB + 1);
    expect(blocks * 512).toBeLessThanOrEqual(2 * CHUNK);
    await run("cmp", [source, copy]);
  });
});

test("on somebody's FUSE the warning says that other hosts are not seen", async (ctx) => {
  skipUnless(ctx, requireMount());
  const mount = await stage.folder("mount");
  const served = await stage.seed(["--size", "1MiB", "--export", `fuse:${mount}`, "--once"]);
  const { seeder } = await stage.seed(["--export", `file:${mount}/region`]);
  expect(warnings(seeder.messages)[0]).toMatch(/it is on FUSE: what another host writes/);
  for (const each of [seeder, served.seeder]) {
    each.kill("SIGINT");
    await each.expectExit(1);
  }
});

test("a group: each region is its own file, at both ends", async () => {
  const names = ["ram", "disk"] as const;
  for (const name of names) await writeFile(stage.file(name), image(MIB + name.length));
  const at = (suffix: string): string[] =>
    names.flatMap((name) => ["--export", `${name}=file:${stage.file(name)}${suffix}`]);
  const { seeder, ticket } = await stage.seed(at(""));
  expect(seeder.last("ticket")?.["paths"]).toEqual(names.map((name) => stage.file(name)));
  const leecher = stage.leech(ticket, at(".copy"));
  await leecher.expectExit(0);
  await seeder.expectExit(0);
  for (const name of names) {
    const file = stage.file(name);
    expect(readFileSync(`${file}.copy`).equals(readFileSync(file))).toBe(true);
  }
});

test("a file of another length at the destination is refused, and left as it is", async () => {
  const [source, copy] = [stage.file("long"), stage.file("short")];
  await writeFile(source, image(3 * CHUNK));
  await writeFile(copy, image(2 * CHUNK));
  const { seeder, ticket } = await stage.seed(["--export", `file:${source}`]);
  const leecher = stage.leech(ticket, ["--export", `file:${copy}`]);
  await leecher.expectExit(1);
  await seeder.expectExit(1);
  const error = leecher.last("error");
  expect(text(error, "code")).toBe("REGION_MISMATCH");
  expect(text(error, "message")).toMatch(
    /131072 bytes and the region 196608.*\(truncate --size 196608\)/,
  );
  expect(readFileSync(copy).equals(image(2 * CHUNK))).toBe(true);
});

test("a source that is renamed over is SOURCE_CHANGED, and the copy that was made is gone", async () => {
  const [source, copy] = [stage.file("replaced"), stage.file("replaced.copy")];
  await writeFile(source, image(3 * CHUNK));
  await writeFile(`${source}.new`, image(3 * CHUNK));
  const { seeder, ticket } = await stage.seed([
    "--export",
    `file:${source}`,
    "--on-suspend",
    `mv ${source}.new ${source}`,
  ]);
  const leecher = stage.leech(ticket, ["--export", `file:${copy}`]);
  await seeder.expectExit(1);
  await leecher.expectExit(1);
  expect(text(seeder.last("error"), "code")).toBe("SOURCE_CHANGED");
  expect(text(seeder.last("error"), "message")).toMatch(/renamed over .* start again/);
  expect(() => statSync(copy)).toThrow(/ENOENT/);
});

describe("bad input says what to do, and exits with 2", () => {
  // Refused before the ticket is looked at by anybody.
  let ticket = "";

  beforeAll(async () => {
    await writeFile(stage.file("plain"), image(CHUNK));
    await writeFile(stage.file("secret"), image(CHUNK), { mode: 0o000 });
    await writeFile(stage.file("empty"), "");
    mkdirSync(stage.file("folder"));
    truncateSync(stage.file("empty"), 0);
    ({ ticket } = await stage.seed(["--export", `file:${stage.file("plain")}`]));
  });

  const here = (name: string): string => (name.startsWith("/") ? name : stage.file(name));

  test.each([
    ["seed", ["absent"], /give the path of a file that is there/],
    ["seed", ["folder"], /is not a file: give the path of one/],
    ["seed", ["empty"], /is empty: there is nothing to migrate/],
    ["seed", ["/dev/null"], /is not a file: give the path of one/],
    ["seed", ["plain", "--file", "other"], /leave out --file .* or give the same path/],
    ["seed", ["plain", "--size", "1MiB"], /leave one of them out/],
    ["leech", ["folder"], /is not a file: give the path of one/],
    ["leech", ["/dev/null"], /is not a file: give the path of one/],
    ["leech", ["nowhere/file"], /ENOENT.*make its folder first/],
    ["leech", ["plain", "--file", "other"], /leave out --file .* or give the same path/],
    ["leech", ["plain", "--mode", "postcopy"], /nothing can hold back.* use --mode precopy/],
    ["leech", ["plain", "--mode", "hybrid"], /nothing can hold back.* use --mode precopy/],
    ["leech", ["plain", "--directory", "folder"], /NAME=file:PATH for each region/],
  ])("%s %j", async (command, [name = "", ...more], pattern) => {
    const args = [command, ...(command === "leech" ? [ticket] : [])];
    const { code, stderr } = await stage.run([...args, "--export", `file:${here(name)}`, ...more]);
    expect(stderr).toMatch(pattern);
    expect(code).toBe(2);
  });

  test.each(["seed", "leech"])("%s without the right to the file", async (command) => {
    // A configuration and a state that this user may read.
    const home = stage.file(`home-${command}`);
    mkdirSync(`${home}/memferry`, { recursive: true });
    copyFileSync(stage.file("config/memferry/config.json"), `${home}/memferry/config.json`);
    if (isRoot()) execFileSync("chown", ["-R", "65534:65534", home]);
    const args = [command, ...(command === "leech" ? [ticket] : [])];
    const { code, stderr } = await stage.run([...args, "--export", `file:${here("secret")}`], {
      environment: { XDG_CONFIG_HOME: home, XDG_STATE_HOME: home },
      asNobody: true,
    });
    expect(stderr).toMatch(/EACCES.*(run memferry as a user who may read it|the right to read)/);
    expect(code).toBe(2);
  });

  test("a block device is told as one", async (ctx) => {
    skipUnless(ctx, requireRoot());
    expect(isRoot()).toBe(true);
    const node = stage.file("block");
    execFileSync("mknod", [node, "b", "7", "250"]);
    const { code, stderr } = await stage.run(["seed", "--export", `file:${node}`]);
    expect(stderr).toMatch(/is a block device and not a file: copy it into one/);
    expect(code).toBe(2);
  });
});
