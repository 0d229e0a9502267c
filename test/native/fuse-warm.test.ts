/** What arrives in the background, in the kernel's page cache before anybody asks; and how far the kernel reads ahead. */
import { mkdirSync, readFileSync } from "node:fs";
import path from "node:path";

import { beforeEach, expect, onTestFinished, test } from "vitest";

import type { FuseMount, NativeRegion } from "../../native/index.ts";
import { skipUnless } from "../support/requires.ts";
import {
  CHUNK,
  exportRegion,
  isRoot,
  KEY,
  native,
  openRegion,
  readAll,
  requireMount,
  run,
  start,
  temporaryFolder,
  until,
} from "./support/exports.ts";

beforeEach((ctx) => skipUnless(ctx, requireMount()));

/** A chunk comes as after the commit. */
async function bring(region: NativeRegion, index: number, byte: number): Promise<void> {
  const bytes = new Uint8Array(CHUNK).fill(byte);
  const outcomes = await region.store({
    indexes: Uint32Array.of(index),
    offsets: Uint32Array.of(0),
    bytes,
    hashes: native().blake3(bytes, KEY),
    ifAbsent: true,
  });
  expect([...outcomes]).toEqual([0]);
}

test("a chunk that arrived is read once, by us, and who reads it then asks nobody", async () => {
  const region = openRegion({ bytes: 8 * CHUNK, present: "none" });
  const { file } = exportRegion(region);
  for (const index of [0, 1, 2, 6]) await bring(region, index, index + 1);
  await until("the read-ahead", () => region.stats().bytesRead === 4 * CHUNK);
  expect(await run("read", file, 2 * CHUNK, CHUNK)).toBe(`read ${CHUNK} ${3 * CHUNK}`);
  expect(await run("read", file, 6 * CHUNK, 100)).toBe("read 100 700");
  expect(region.stats()).toMatchObject({ bytesRead: 4 * CHUNK, misses: 0 });
});

test("with warm: false a chunk that arrived waits for its first reader", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const directory = path.join(temporaryFolder(), "mount");
  mkdirSync(directory);
  const mount = native().mountFuse({ directory, warm: false });
  onTestFinished(() => mount.unmount());
  mount.add("region", region);
  for (const index of [0, 1, 2, 3]) await bring(region, index, 1);
  expect(region.stats().reads).toBe(0);
  expect(await run("read", path.join(directory, "region"), 0, 10)).toBe("read 10 10");
  expect(region.stats().reads).toBeGreaterThan(0);
});

test("what a workload writes while chunks arrive all around is never overwritten", async () => {
  const chunks = 96;
  const region = openRegion({ bytes: chunks * CHUNK, present: "none" });
  const { mount, file } = exportRegion(region);
  // Both wait for chunks, write, read back what they wrote, and write again.
  const writers = [
    start("write-rounds", file, 3 * CHUNK - 2048, 15 * CHUNK, 8),
    start("map-rounds", file, 40 * CHUNK, 15 * CHUNK, 8),
  ];
  const order = Array.from({ length: chunks }, (_, i) => (i * 37) % chunks);
  for (const index of order) await bring(region, index, 200);
  for (const writer of writers) expect(await writer.ended).toBe(0);
  await mount.flush("region");
  const all = await readAll(region);
  const last = all[4 * CHUNK] ?? 0;
  expect(last).not.toBe(200);
  const expected = new Uint8Array(chunks * CHUNK).fill(200);
  expected.fill(last, 3 * CHUNK - 2048, 18 * CHUNK - 2048);
  expected.fill(all[40 * CHUNK] ?? 0, 40 * CHUNK, 55 * CHUNK);
  expect(Buffer.compare(all, expected)).toBe(0);
});

test("unmount() while chunks arrive leaves nothing mounted", async () => {
  const region = openRegion({ bytes: 64 * CHUNK, present: "none" });
  const { mount } = exportRegion(region);
  const arriving = Array.from({ length: 64 }, (_, index) => bring(region, index, 1));
  await mount.unmount();
  await Promise.all(arriving);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(mount.directory);
});

test("setReadAhead() is what the kernel reads ahead in files opened from now on", (ctx) => {
  skipUnless(ctx, {
    available: isRoot(),
    path: "",
    skipReason: "the kernel lets only root set the read-ahead of a mount",
  });
  const { mount } = exportRegion(openRegion({ bytes: CHUNK }));
  expect(mount.setReadAhead(4 << 20)).toBe(true);
  expect(readAheadKib(mount)).toBe(4096);
  expect(() => mount.setReadAhead(65 << 20)).toThrow(TypeError);
});

function readAheadKib(mount: FuseMount): number {
  const line = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((entry) => entry.includes(` ${mount.directory} `));
  const [, , device = ""] = line?.split(" ") ?? [];
  return Number(readFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, "utf8"));
}
