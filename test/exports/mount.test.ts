/** Regions that stay in a store: `memferry mount`. */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { eventually, number, Stage, text } from "../e2e/harness.ts";
import type { Program } from "../e2e/program.ts";
import { requireMount } from "../native/support/exports.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { image, run } from "./support.ts";

const MIB = 1 << 20;
const BYTES = 8 * MIB + 12_345;

let stage: Stage;
beforeEach(async () => void (stage = await Stage.open()));
afterEach(() => stage[Symbol.asyncDispose]());

/** Shows a store, and waits until it is there. */
async function mounted(
  store: string,
  args: readonly string[],
): Promise<{ program: Program; path: string }> {
  const program = stage.memferry("the mount", ["mount", store, ...args, "--json"]);
  return { program, path: text(await program.waitFor("mounted"), "path") };
}

async function unmounted(program: Program): Promise<void> {
  program.kill("SIGINT");
  await program.expectExit(0);
}

/** Another process, since ours must never touch what it serves. */
function write(path: string, offset: number, bytes: Uint8Array): void {
  const { status, stderr } = spawnSync(
    "dd",
    [
      `of=${path}`,
      "bs=1M",
      "oflag=seek_bytes",
      `seek=${offset}`,
      "conv=notrunc,fsync",
      "status=none",
    ],
    { input: bytes },
  );
  expect(stderr.toString()).toBe("");
  expect(status).toBe(0);
}

async function contentOf(path: string): Promise<Buffer> {
  await run("cp", [path, stage.file("read")]);
  return readFileSync(stage.file("read"));
}

/** Waits until something is here that is not at the store. */
async function heldBytes(program: Program): Promise<void> {
  const held = (): number => Number(program.last("progress")?.["bytesHeld"] ?? 0);
  await eventually(() => held() > 0, 60_000);
}

describe.each(["managed", "direct"])("mode %s", (mode) => {
  test("what stands in the store is read, and what is written stands there after fsync", async (ctx) => {
    skipUnless(ctx, requireMount());
    const disk = stage.file("disk");
    const content = image(BYTES);
    writeFileSync(disk, content);
    const { program, path } = await mounted(`file:${disk}`, [
      "--export",
      `fuse:${stage.file("at")}`,
      "--mode",
      mode,
    ]);
    expect(Buffer.compare(await contentOf(path), content)).toBe(0);
    const bytes = Buffer.alloc(100_000, 0x5a);
    content.set(bytes, 70_000);
    write(path, 70_000, bytes);
    expect(Buffer.compare(readFileSync(disk), content)).toBe(0);
    await unmounted(program);
    expect(Buffer.compare(readFileSync(disk), content)).toBe(0);
  });
});

test("a directory is made with a size, and holds what is not zeros", async (ctx) => {
  skipUnless(ctx, requireMount());
  const store = `directory:${stage.file("store")}`;
  const args = ["--export", `fuse:${stage.file("at")}`];
  const { program, path } = await mounted(store, [...args, "--size", "1TiB"]);
  write(path, 500 * 2 ** 30, Buffer.from("far out"));
  await unmounted(program);
  const folders = readdirSync(stage.file("store")).filter((name) => !name.endsWith(".json"));
  expect(folders.flatMap((name) => readdirSync(stage.file(`store/${name}`)))).toHaveLength(1);
  const again = await mounted(store, [...args, "--pull", "0"]);
  expect(
    await run("dd", [
      `if=${again.path}`,
      "bs=7",
      "count=1",
      "iflag=skip_bytes",
      `skip=${500 * 2 ** 30}`,
      "status=none",
    ]),
  ).toBe("far out");
  await unmounted(again.program);
});

test("a cache file keeps what was pulled, and what a killed mount had not pushed", async (ctx) => {
  skipUnless(ctx, requireMount());
  const disk = stage.file("disk");
  const content = image(BYTES);
  writeFileSync(disk, content);
  const args = [
    "--export",
    `fuse:${stage.file("at")}`,
    "--cache",
    `file:${stage.file("cache")}`,
    "--push-interval",
    "1h",
  ];
  const first = await mounted(`file:${disk}`, args);
  await first.program.waitFor("pulled");
  // Written back by the kernel, and not asked to be durable: it stays here.
  const bytes = Buffer.alloc(300_000, 0x77);
  writeFileSync(stage.file("bytes"), bytes);
  await run("dd", [
    `if=${stage.file("bytes")}`,
    `of=${first.path}`,
    "bs=300000",
    "conv=notrunc",
    "oflag=direct",
    "status=none",
  ]);
  await heldBytes(first.program);
  first.program.kill("SIGKILL");
  await first.program.waitForExit();
  await run("umount", ["-l", stage.file("at")]);
  expect(Buffer.compare(readFileSync(disk), content)).toBe(0);
  const again = await mounted(`file:${disk}`, args);
  expect(number(await again.program.waitFor("progress"), "bytesPulled")).toBeLessThan(MIB);
  content.set(bytes, 0);
  expect(Buffer.compare(await contentOf(again.path), content)).toBe(0);
  await unmounted(again.program);
  expect(Buffer.compare(readFileSync(disk), content)).toBe(0);
});

test("a bounded cache stays bounded, and nothing is lost by it", async (ctx) => {
  skipUnless(ctx, requireMount());
  const disk = stage.file("disk");
  const content = image(32 * MIB);
  writeFileSync(disk, content);
  const { program, path } = await mounted(`file:${disk}`, [
    "--export",
    `fuse:${stage.file("at")}`,
    "--cache-size",
    "4MiB",
    "--push-interval",
    "200ms",
  ]);
  const bytes = Buffer.alloc(5 * MIB, 0x33);
  content.set(bytes, 9 * MIB);
  write(path, 9 * MIB, bytes);
  expect(Buffer.compare(await contentOf(path), content)).toBe(0);
  await eventually(
    () => Number(program.last("progress")?.["bytesPresent"] ?? BYTES * 9) <= 8 * MIB,
    60_000,
  );
  expect(Buffer.compare(await contentOf(path), content)).toBe(0);
  await unmounted(program);
  expect(Buffer.compare(readFileSync(disk), content)).toBe(0);
});

test("a file system is copied in by NBD", async (ctx) => {
  skipUnless(ctx, requireTool("qemu-img"));
  const disk = stage.file("disk");
  writeFileSync(disk, Buffer.alloc(0));
  rmSync(disk);
  const socket = stage.file("nbd.sock");
  const { program } = await mounted(`file:${disk}`, [
    "--size",
    "64MiB",
    "--export",
    `nbd:unix:${socket}`,
  ]);
  await run("mke2fs", ["-q", "-t", "ext4", stage.file("image"), "48M"]);
  await run("qemu-img", [
    "convert",
    "-n",
    "-f",
    "raw",
    "-O",
    "raw",
    stage.file("image"),
    `nbd+unix:///region?socket=${socket}`,
  ]);
  await unmounted(program);
  await run("e2fsck", ["-fn", disk]);
});

test("a read-only one is refused to writers", async (ctx) => {
  skipUnless(ctx, requireMount());
  const disk = stage.file("disk");
  const content = image(MIB);
  writeFileSync(disk, content);
  const { program, path } = await mounted(`file:${disk}`, [
    "--export",
    `fuse:${stage.file("at")}`,
    "--read-only",
  ]);
  expect(Buffer.compare(await contentOf(path), content)).toBe(0);
  const { status } = spawnSync("dd", [
    "if=/dev/zero",
    `of=${path}`,
    "bs=4k",
    "count=1",
    "conv=notrunc",
    "status=none",
  ]);
  expect(status).not.toBe(0);
  await unmounted(program);
});

test("what a program asked for is recorded, and pulled first the next time", async (ctx) => {
  skipUnless(ctx, requireMount());
  const disk = stage.file("disk");
  writeFileSync(disk, image(16 * MIB));
  const at = ["--export", `fuse:${stage.file("at")}`];
  const set = stage.file("set");
  const first = await mounted(`file:${disk}`, [...at, "--record", set]);
  for (const mib of [9, 3]) {
    await run("dd", [
      `if=${first.path}`,
      "of=/dev/null",
      "bs=64k",
      "count=1",
      `skip=${mib * 16}`,
      "iflag=direct",
      "status=none",
    ]);
  }
  await unmounted(first.program);
  const [, one = "", two = ""] = readFileSync(set, "utf8").split("\n");
  expect([one.split(" ")[0], two.split(" ")[0]]).toEqual([String(9 * MIB), String(3 * MIB)]);
  const again = await mounted(`file:${disk}`, [...at, "--replay", set]);
  await again.program.waitFor("pulled");
  await unmounted(again.program);
});

describe("bad input", () => {
  test.each([
    [["mount"], "STORE is missing"],
    [["mount", "ftp://x", "--export", "fuse:at"], "no store"],
    [["mount", "redis://u:secret@h/0:x", "--export", "fuse:at"], "write the store as"],
    [["mount", "file:nowhere", "--export", "fuse:at"], "give --size"],
    [["mount", "memory:1MiB"], "--export is missing"],
    [["mount", "memory:1MiB", "--export", "file:x"], "a store is shown by"],
    [["mount", "memory:1MiB", "--export", "fuse:at", "--chunk-size", "5000"], "a power of two"],
    [
      ["mount", "memory:1MiB", "--export", "fuse:at", "--pull", "many"],
      "neither auto nor a number",
    ],
    [["mount", "memory:1MiB", "--export", "fuse:at", "--priority", "x"], "is no range"],
    [
      ["mount", "memory:1MiB", "--export", "fuse:at", "--mode", "direct", "--cache", "file:c"],
      "keeps nothing",
    ],
    [["mount", "memory:1MiB", "--export", "uffd:unix:s", "--mode", "direct"], "taken away"],
    [["mount", "memory:1MiB", "--export", "fuse:at", "--size", "2MiB"], "and not 2097152"],
  ])("%j is refused with what to do", async (args, told) => {
    const { code, stderr } = await stage.run(args);
    expect(stderr).toContain(told);
    expect(stderr).not.toContain("secret");
    expect(code).toBeGreaterThan(0);
  });

  test("a cache with what another store lacks is not used for a third", async (ctx) => {
    skipUnless(ctx, requireMount());
    mkdirSync(stage.file("other"));
    for (const name of ["disk", "other/disk"]) writeFileSync(stage.file(name), image(MIB));
    const args = [
      "--export",
      `fuse:${stage.file("at")}`,
      "--cache",
      `file:${stage.file("cache")}`,
      "--push-interval",
      "1h",
    ];
    const { program, path } = await mounted(`file:${stage.file("disk")}`, args);
    await run("dd", [
      "if=/dev/urandom",
      `of=${path}`,
      "bs=64k",
      "count=1",
      "conv=notrunc",
      "oflag=direct",
      "status=none",
    ]);
    await heldBytes(program);
    program.kill("SIGKILL");
    await program.waitForExit();
    await run("umount", ["-l", stage.file("at")]);
    await sleep(10);
    const { code, stderr } = await stage.run([
      "mount",
      `file:${stage.file("other/disk")}`,
      ...args,
    ]);
    expect(stderr).toContain("mount that once more with this cache");
    expect(code).toBe(1);
  });
});
