/**
 * The export as programs see it: what a file must be able to do, and what it must refuse.
 *
 * Every access comes from another process; see `support/client.c`.
 */
import { mkdirSync, rmdirSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { beforeEach, expect, onTestFinished, test } from "vitest";

import { NativeError } from "../../native/index.ts";
import { skipUnless } from "../support/requires.ts";
import {
  CHUNK,
  exportRegion,
  indexesOf,
  mountedAt,
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

const shell = async (script: string): Promise<string> =>
  (await promisify(execFile)("/bin/sh", ["-c", `${script} 2>&1 || true`])).stdout.trim();

test("a write through the mount is in the store, and its chunk is dirty once", async () => {
  const region = openRegion({ bytes: 8 * CHUNK + 100 });
  const { file } = exportRegion(region);
  expect(await run("write", file, 3 * CHUNK - 2, 4, 7)).toBe("wrote 4");
  const all = await readAll(region);
  expect([...all.subarray(3 * CHUNK - 3, 3 * CHUNK + 3)]).toEqual([0, 7, 7, 7, 7, 0]);
  expect(indexesOf(region.takeDirty())).toEqual([2, 3]);
  expect(indexesOf(region.takeDirty())).toEqual([]);
  expect(await run("read", file, 3 * CHUNK - 10, 20)).toBe("read 20 28");
});

test("the directory lists the file, with its size and owner, for its owner alone", async () => {
  const region = openRegion({ bytes: 8 * CHUNK + 100 });
  const { mount, file } = exportRegion(region);
  expect(await shell(`ls -A ${mount.directory}`)).toBe("region");
  expect(await shell(`stat -c '%s %a %F' ${file}`)).toBe(`${8 * CHUNK + 100} 600 regular file`);
  expect(await shell(`find ${mount.directory} -type f | wc -l`)).toBe("1");
});

test("a mount shows several regions", async () => {
  const regions = [1, 2, 3].map((count) => openRegion({ bytes: count * CHUNK }));
  const { mount } = exportRegion(openRegion({ bytes: CHUNK }));
  for (const [position, region] of regions.entries()) mount.add(`extra-${position}`, region);
  expect(await shell(`cd ${mount.directory} && wc -c extra-*| tr -s ' '`)).toContain(
    `${3 * CHUNK} extra-2`,
  );
  const [first] = regions;
  expect(() => first && mount.add("extra-0", first)).toThrow(
    expect.objectContaining({ code: "EEXIST" }),
  );
  expect(() => first && mount.add("a/b", first)).toThrow(
    expect.objectContaining({ code: "EINVAL" }),
  );
});

test("a shared mapping reaches the store by msync, and a file by fsync", async () => {
  const region = openRegion({ bytes: 4 * CHUNK });
  const { file } = exportRegion(region);
  expect(await run("map-write", file, CHUNK, CHUNK, 5)).toBe("synced");
  expect((await readAll(region)).subarray(CHUNK, 2 * CHUNK).every((byte) => byte === 5)).toBe(true);
  expect(indexesOf(region.takeDirty())).toEqual([1]);
  expect(await run("write", file, 0, 10, 1)).toBe("wrote 10");
  expect(await run("fsync", file)).toBe("synced");
});

test("flush() brings in what a live mapping holds dirty", async () => {
  const region = openRegion({ bytes: 4 * CHUNK });
  const { mount, file } = exportRegion(region);
  const writer = start("map-dirty", file, 2 * CHUNK, 5000, 6);
  await writer.line("dirty");
  expect(indexesOf(region.takeDirty())).toEqual([]);
  await mount.flush("region");
  expect(indexesOf(region.takeDirty())).toEqual([2]);
  expect(
    (await readAll(region)).subarray(2 * CHUNK, 2 * CHUNK + 5000).every((byte) => byte === 6),
  ).toBe(true);
});

test("flush() of a name that is not there is ENOENT", async () => {
  const { mount } = exportRegion(openRegion({ bytes: CHUNK }));
  await expect(mount.flush("other")).rejects.toMatchObject({ code: "ENOENT" });
});

test("the size is fixed: truncation, growth and writes past the end are refused", async () => {
  const region = openRegion({ bytes: 2 * CHUNK + 100 });
  const { file } = exportRegion(region);
  expect(await run("truncate", file, 0)).toBe("error ftruncate EPERM");
  expect(await run("truncate", file, 3 * CHUNK)).toBe("error ftruncate EPERM");
  expect(await run("truncate", file, 2 * CHUNK + 100)).toBe("truncated");
  expect(await run("write", file, 2 * CHUNK, 4096, 1)).toBe("wrote 100");
  expect(await run("write", file, 2 * CHUNK + 100, 1, 1)).toBe("error pwrite ENOSPC");
  expect(await run("read", file, 2 * CHUNK, 4096)).toBe("read 100 100");
  expect(await run("read", file, 2 * CHUNK + 100, 4096)).toBe("read 0 0");
  expect(await run("fallocate", file, 0, 0, 3 * CHUNK)).toBe("error fallocate EPERM");
});

test("files cannot be made, renamed or removed", async () => {
  const { mount, file } = exportRegion(openRegion({ bytes: CHUNK }));
  for (const attempt of [
    `touch ${mount.directory}/new`,
    `mkdir ${mount.directory}/new`,
    `rm ${file}`,
    `mv ${file} ${file}2`,
  ]) {
    expect(await shell(attempt)).toMatch(/not permitted/);
  }
});

test("punching and zeroing make zeros, mark dirty and stay inside", async () => {
  const region = openRegion({ bytes: 8 * CHUNK });
  const { file } = exportRegion(region);
  await run("write", file, 0, CHUNK, 1);
  await run("write", file, CHUNK, CHUNK, 1);
  region.takeDirty();
  const keepSize = 1,
    punch = 2,
    zeroRange = 16;
  expect(await run("fallocate", file, punch | keepSize, 100, 200)).toBe("done");
  expect(await run("fallocate", file, zeroRange, CHUNK, 50)).toBe("done");
  expect(await run("fallocate", file, 0, 0, CHUNK)).toBe("done");
  expect(await run("fallocate", file, punch | keepSize, 7 * CHUNK, 5 * CHUNK)).toBe("done");
  expect(indexesOf(region.takeDirty())).toEqual([0, 1, 7]);
  expect(await run("read", file, 0, CHUNK)).toBe(`read ${CHUNK} ${CHUNK - 200}`);
  const all = await readAll(region);
  expect(all.subarray(0, 2 * CHUNK).reduce((sum, byte) => sum + byte, 0)).toBe(2 * CHUNK - 250);
});

test("a read-only file refuses writers", async () => {
  const { file } = exportRegion(openRegion({ bytes: CHUNK }), true);
  expect(await run("write", file, 0, 1, 1)).toBe("error open EROFS");
  expect(await run("read", file, 0, 10)).toBe("read 10 0");
});

test("a store that shrinks is EIO for the reader", async () => {
  const store = path.join(temporaryFolder(), "store");
  const region = openRegion({
    bytes: 4 * CHUNK,
    store: { kind: "file", path: store, create: true, reserve: false },
  });
  const { file } = exportRegion(region);
  truncateSync(store, CHUNK);
  expect(await run("direct-read", file, 2 * CHUNK, 4096)).toBe("error pread EIO");
  expect(await run("direct-read", file, 0, 4096)).toBe("read 4096 0");
});

// A mark lost between take and read is silent corruption at the other side, so: copy what is marked,
// round after round, while writers write, and compare at the end.
test("a copy made of dirty chunks alone becomes the region", async () => {
  const region = openRegion({ bytes: 32 * 4096 + 500, chunkBytes: 4096, threads: 2 });
  const { mount, file } = exportRegion(region);
  const copy = await readAll(region);
  const writers = [1, 2, 3].map((seed) => start("scribble", file, seed, 4000));
  let writing = true;
  const ended = Promise.all(writers.map((writer) => writer.ended)).then((codes) => {
    writing = false;
    return codes;
  });
  const round = async (): Promise<void> => {
    const indexes = Uint32Array.from(indexesOf(region.takeDirty()));
    const into = new Uint8Array(indexes.length * 4096);
    await region.read(indexes, into);
    for (const [position, index] of indexes.entries()) {
      const end = Math.min(region.bytes, (index + 1) * 4096);
      copy.set(into.subarray(position * 4096, position * 4096 + end - index * 4096), index * 4096);
    }
  };
  while (writing) await round();
  expect(await ended).toEqual([0, 0, 0]);
  await mount.flush("region");
  region.setGate("closed");
  await region.quiesce();
  await round();
  expect(Buffer.compare(copy, await readAll(region))).toBe(0);
});

test("mountFuse() wants an empty directory, and makes one that is absent", async () => {
  const folder = temporaryFolder();
  const full = path.join(folder, "full");
  mkdirSync(full);
  writeFileSync(path.join(full, "file"), "");
  expect(() => native().mountFuse({ directory: full })).toThrow(
    expect.objectContaining({ code: "ENOTEMPTY" }),
  );
  expect(() => native().mountFuse({ directory: path.join(folder, "a/b") })).toThrow(NativeError);

  const made = path.join(folder, "made here");
  const mount = native().mountFuse({ directory: made });
  onTestFinished(() => mount.unmount());
  expect(mountedAt(made.replace(" ", "\\040"))).toBe(true);
  expect(() => native().mountFuse({ directory: made })).toThrow(
    expect.objectContaining({ code: "EBUSY" }),
  );
  await Promise.all([mount.unmount(), mount.unmount()]);
  await mount.unmount();
  expect(() => rmdirSync(made)).toThrow(expect.objectContaining({ code: "ENOENT" }));
});

test("a region cannot be closed while a mount shows it", async () => {
  const region = openRegion({ bytes: CHUNK });
  const { mount } = exportRegion(region);
  await expect(region.close()).rejects.toMatchObject({ code: "EBUSY" });
  await mount.unmount();
  await region.close();
});

test("unmount() keeps what mappings hold dirty, also while they are there", async () => {
  const region = openRegion({ bytes: 4 * CHUNK });
  const { mount, file } = exportRegion(region);
  const writer = start("map-dirty", file, 0, 100, 9);
  await writer.line("dirty");
  await mount.unmount();
  expect(mountedAt(mount.directory)).toBe(false);
  expect(indexesOf(region.takeDirty())).toEqual([0]);
  expect((await readAll(region)).subarray(0, 100).every((byte) => byte === 9)).toBe(true);
});

test("unmount() under load ends every client and leaves nothing", async () => {
  const region = openRegion({ bytes: 64 * CHUNK });
  const { mount, file } = exportRegion(region);
  const clients = [
    start("map-scan-read", file),
    start("map-count", file, 8),
    start("direct-bench-random-read", file, 60),
  ];
  await Promise.all(clients.map((client) => client.line("open")));
  await until("requests", () => region.stats().reads > 10);
  await mount.unmount();
  expect(mountedAt(mount.directory)).toBe(false);
  const ends = await Promise.all(
    clients
      .slice(0, 1)
      .concat(clients.slice(2))
      .map((client) => {
        setTimeout(() => client.kill(), 2000);
        return client.ended;
      }),
  );
  expect(ends).toHaveLength(2);
});
