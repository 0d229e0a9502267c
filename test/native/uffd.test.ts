/** userfaultfd: a region in this process's memory, and in that of programs that hand theirs over. */
import { connect } from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";

import { beforeEach, describe, expect, onTestFinished, test } from "vitest";

import type { NativeRegion, RegionMapping, UffdServer } from "../../native/index.ts";
import { compile, startUffdUser, type ProgramUser } from "../support/export-users.ts";
import { filledRegion, image } from "../support/regions.ts";
import { requireUffd, skipUnless } from "../support/requires.ts";
import {
  CHUNK,
  indexesOf,
  native,
  openRegion,
  readAll,
  storeChunks,
  temporaryFolder,
  until,
} from "./support/exports.ts";

const PAGE = 4096;

beforeEach((ctx) => skipUnless(ctx, requireUffd()));

describe.each(["auto", "sync"] as const)("mapRegion with tracking %s", (tracking) => {
  function map(region: NativeRegion): { mapping: RegionMapping; bytes: Uint8Array } {
    const mapping = native().mapRegion(region, { tracking });
    onTestFinished(() => mapping.unmap());
    return { mapping, bytes: new Uint8Array(mapping.memory) };
  }

  test("memory has the region's bytes and length, and what is written there is in the region", async () => {
    const content = image(5 * CHUNK + 1234);
    const region = openRegion({ bytes: content.length, present: "none" });
    for (let index = 0; index < region.chunkCount; index++) {
      await storeChunks(
        region,
        [[index, content.subarray(index * CHUNK, (index + 1) * CHUNK)]],
        true,
      );
    }
    const { mapping, bytes } = map(region);
    if (tracking === "sync") expect(mapping.tracking).toBe("sync");
    expect(bytes.length).toBe(content.length);
    expect(Buffer.from(bytes).equals(content)).toBe(true);
    await mapping.flush();
    expect(indexesOf(region.takeDirty())).toEqual([]);
    bytes[2 * CHUNK + 17] = 77;
    bytes[content.length - 1] = 78;
    content[2 * CHUNK + 17] = 77;
    content[content.length - 1] = 78;
    await mapping.flush();
    expect(indexesOf(region.takeDirty())).toEqual([2, 5]);
    await mapping.flush();
    expect(indexesOf(region.takeDirty())).toEqual([]);
    expect(Buffer.from(await readAll(region)).equals(content)).toBe(true);
  });

  test("a write into a hole is found by every way of reading", async () => {
    const region = openRegion({ bytes: 4 * CHUNK });
    const { bytes, mapping } = map(region);
    bytes[3 * CHUNK + 5] = 9;
    expect((await readAll(region))[3 * CHUNK + 5]).toBe(9);
    await mapping.flush();
    expect(indexesOf(region.takeDirty())).toEqual([3]);
  });

  test("unmap takes the memory back, and says what was written", async () => {
    const region = openRegion({ bytes: 2 * CHUNK });
    const mapping = native().mapRegion(region, { tracking });
    const bytes = new Uint8Array(mapping.memory);
    bytes[CHUNK] = 1;
    await expect(region.close()).rejects.toThrow(/EBUSY|exported/);
    await mapping.unmap();
    await mapping.unmap();
    expect(bytes.length).toBe(0);
    expect(indexesOf(region.takeDirty())).toEqual([1]);
    await expect(mapping.flush()).rejects.toThrow(/not mapped any more/);
  });
});

test("mapRegion refuses a file on a disk and a region that is closed", async () => {
  const region = openRegion({ bytes: CHUNK });
  await region.close();
  expect(() => native().mapRegion(region)).toThrow(/closed/);
  const file = openRegion({
    bytes: CHUNK,
    store: { kind: "file", path: path.join(temporaryFolder(), "r"), create: true, reserve: false },
  });
  const onTmpfs = (() => {
    try {
      return native().mapRegion(file);
    } catch (error) {
      expect(String(error)).toMatch(/in memory, or in a file on tmpfs/);
      return undefined;
    }
  })();
  await onTmpfs?.unmap();
});

test("a thread that touches a missing chunk waits for it, and causes one fetch", async () => {
  const asked: number[] = [];
  const region = openRegion({
    bytes: 8 * CHUNK,
    present: "none",
    onFault: (indexes) => void asked.push(...indexes),
  });
  // The mapping is the worker's: only its thread may be stopped by it.
  const source = `
    const { workerData, parentPort } = require("node:worker_threads");
    import(workerData.index).then(async ({ loadNative }) => {
      const native = loadNative();
      const region = native.shareRegion(workerData.id);
      const mapping = native.mapRegion(region);
      const bytes = new Uint8Array(mapping.memory);
      parentPort.postMessage("ready");
      const value = bytes[5 * ${CHUNK} + 3];
      parentPort.postMessage(value);
      await mapping.unmap();
      await region.close();
      parentPort.close();
    });`;
  const index = path.join(import.meta.dirname, "../../native/index.ts");
  const worker = new Worker(source, { eval: true, workerData: { id: region.id, index } });
  const said: unknown[] = [];
  worker.on("message", (message) => said.push(message));
  const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
  await until("the fault", () => asked.length > 0);
  await sleep(50);
  expect(said).toEqual(["ready"]);
  expect(asked).toEqual([5]);
  await storeChunks(region, [[5, new Uint8Array(CHUNK).fill(42)]], true);
  await until("the byte", () => said.length === 2);
  expect(said).toEqual(["ready", 42]);
  await ended;
  expect(region.stats().presentChunks).toBe(1);
});

test("shareRegion lets go without ending, and knows what is closed", async () => {
  const region = openRegion({ bytes: CHUNK });
  const { id } = region;
  const other = native().shareRegion(id);
  expect(other.bytes).toBe(CHUNK);
  await other.close();
  expect(region.stats().reads).toBe(0);
  await region.close();
  expect(() => native().shareRegion(id)).toThrow(/closed/);
  expect(() => native().shareRegion(-1)).toThrow(TypeError);
});

describe("serveUffd", () => {
  const folder = (): string => temporaryFolder();
  let program = "";
  const userProgram = (): string => {
    program ||= compile("uffd-user", process.env["TMPDIR"] ?? "/tmp", "-pthread");
    return program;
  };

  function serve(region: NativeRegion): UffdServer {
    const server = native().serveUffd({ path: path.join(folder(), "uffd.sock") });
    onTestFinished(() => server.stop());
    server.add("region", region);
    return server;
  }

  function start(
    server: UffdServer,
    region: NativeRegion,
    how: Parameters<typeof startUffdUser>[3] = {},
  ): ProgramUser {
    const user = startUffdUser(userProgram(), server.path, region.bytes, how);
    onTestFinished(async () => {
      user.process.kill("SIGKILL");
      await user.close();
    });
    return user;
  }

  /** What the server answers to these bytes. */
  function answer(server: UffdServer, text: string | Buffer): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(server.path);
      let said = "";
      socket.on("data", (bytes: Buffer) => (said += bytes.toString()));
      socket.once("error", reject);
      socket.once("close", () => resolve(said.trim()));
      socket.end(text);
    });
  }

  test.each([
    ["nothing", "", /does not end/],
    ["noise", "\0\0\0garbage]", /no JSON array/],
    ["an object", "{}]", /no JSON array/],
    ["an empty list", "[]", /no JSON object/],
    ["half a mapping", '[{"base_host_virt_addr":4096}]', /lacks/],
    ["a negative number", '[{"base_host_virt_addr":-1,"size":1,"offset":0}]', /whole number/],
    [
      "a number of 65 bits",
      '[{"base_host_virt_addr":36893488147419103232,"size":4096,"offset":0}]',
      /whole number/,
    ],
    ["too much", `[${" ".repeat(70_000)}]`, /longer than 64 KiB/],
    [
      "too many",
      `[${Array.from({ length: 65 }, () => '{"base_host_virt_addr":0,"size":1,"offset":0}').join(",")}]`,
      /more than 64/,
    ],
    [
      "no descriptor",
      '[{"base_host_virt_addr":139700000000000,"size":4096,"offset":0,"page_size":4096}]',
      /no userfaultfd/,
    ],
  ])("refuses %s and says why", async (_, text, why) => {
    const region = openRegion({ bytes: 4 * CHUNK });
    const server = serve(region);
    expect(await answer(server, text)).toMatch(why);
    expect(server.refused).toBe(1);
    const user = start(server, region);
    expect((await user.read(0, 10)).equals(Buffer.alloc(10))).toBe(true);
  });

  test("a mapping that ends beyond the region is refused, and the program's mmap fails", async () => {
    const region = openRegion({ bytes: 4 * CHUNK });
    const server = serve(region);
    const user = startUffdUser(userProgram(), server.path, 5 * CHUNK);
    await expect(user.read(0, 10)).rejects.toThrow(/EIO|ended/);
    await user.close();
    expect(server.refused).toBe(1);
  });

  test("a second program with memory of its own is refused while the first lives", async () => {
    const region = openRegion({ bytes: 4 * CHUNK });
    const server = serve(region);
    const first = start(server, region);
    await first.write(100, Buffer.from("mine"));
    const second = startUffdUser(userProgram(), server.path, region.bytes);
    await expect(second.read(0, 10)).rejects.toThrow(/EIO|ended/);
    await second.close();
    await first.close();
    expect(
      Buffer.from(await readAll(region))
        .subarray(100, 104)
        .toString(),
    ).toBe("mine");
    const third = start(server, region);
    expect((await third.read(100, 4)).toString()).toBe("mine");
  });

  test("two programs that map the region's own file see each other's writes, and both are tracked", async () => {
    const file = `/dev/shm/memferry-uffd-${process.pid}`;
    const region = openRegion({
      bytes: 8 * CHUNK,
      store: { kind: "file", path: file, create: true, reserve: false },
    });
    onTestFinished(async () => (await import("node:fs")).rmSync(file, { force: true }));
    const server = serve(region);
    const how = { shared: true, file };
    const [one, two] = [start(server, region, how), start(server, region, how)];
    await one.write(CHUNK, Buffer.from("from one"));
    expect((await two.read(CHUNK, 8)).toString()).toBe("from one");
    await server.flush();
    region.takeDirty();
    await two.write(6 * CHUNK, Buffer.from("from two"));
    await server.flush();
    expect(indexesOf(region.takeDirty())).toEqual([6]);
    expect((await one.read(6 * CHUNK, 8)).toString()).toBe("from two");
    expect(server.clients).toBe(2);
  });

  test("sixty-four threads that touch one missing chunk cause one fetch", async () => {
    const asked: number[] = [];
    const region: NativeRegion = openRegion({
      bytes: 8 * CHUNK,
      present: "none",
      onFault: (indexes) => void asked.push(...indexes),
    });
    const server = serve(region);
    const user = start(server, region);
    const touched = user.tell("touch", 6 * CHUNK + 77, 64);
    // Who waits is counted a moment before it is told.
    await until("the waiters", () => region.stats().parked === 64 && asked.length > 0);
    expect(asked).toEqual([6]);
    await storeChunks(region, [[6, new Uint8Array(CHUNK).fill(9)]], true);
    expect([...(await touched)]).toEqual([9]);
    expect(asked).toEqual([6]);
  });

  test.each(["async", "sync"] as const)(
    "pages that the program gives back are zeros, there and in the region: %s",
    async (tracking) => {
      const content = image(8 * CHUNK);
      const region = await filledRegion(content);
      onTestFinished(() => region.close());
      const server = serve(region);
      const user = start(server, region, tracking === "sync" ? { tracking } : {});
      expect((await user.read(0, content.length)).equals(content)).toBe(true);
      await user.write(PAGE, Buffer.from("written, then given back"));
      await user.tell("drop", PAGE, 3 * PAGE);
      content.fill(0, PAGE, 4 * PAGE);
      await user.write(2 * PAGE, Buffer.from("and again"));
      content.write("and again", 2 * PAGE);
      await server.flush();
      expect(Buffer.from(await readAll(region)).equals(content)).toBe(true);
      expect((await user.read(0, content.length)).equals(content)).toBe(true);
    },
  );

  test("memory that the kernel moves stays the region", async () => {
    const content = image(8 * CHUNK);
    const region = await filledRegion(content);
    onTestFinished(() => region.close());
    const server = serve(region);
    const user = start(server, region);
    await user.read(0, CHUNK);
    await user.write(10, Buffer.from("before"));
    content.write("before", 10);
    await user.tell("move");
    expect((await user.read(0, content.length)).equals(content)).toBe(true);
    await user.write(7 * CHUNK + 10, Buffer.from("after"));
    content.write("after", 7 * CHUNK + 10);
    await server.flush();
    expect(Buffer.from(await readAll(region)).equals(content)).toBe(true);
  });

  test("a child of the program reads what its parent would, and dies before it reads zeros", async () => {
    const content = image(8 * CHUNK);
    const region = await filledRegion(content);
    onTestFinished(() => region.close());
    const server = serve(region);
    const user = start(server, region);
    await user.write(5, Buffer.from("the parent's"));
    content.write("the parent's", 5);
    // With the right to follow forks it reads all of it; without, the kernel stops it.
    const read = await user
      .tell("fork", 0, content.length)
      .catch((error: unknown) => String(error));
    if (typeof read === "string") expect(read).toMatch(/EFAULT/);
    else expect(read.equals(content)).toBe(true);
    // More of them than are kept at a time.
    for (let i = 0; i < 70 && typeof read !== "string"; i++) {
      expect((await user.tell("fork", 0, 64)).equals(content.subarray(0, 64))).toBe(true);
    }
  });

  test("a server that is gone makes who touches a page wait, and its successor answers", async () => {
    const content = image(8 * CHUNK);
    const region = openRegion({ bytes: content.length, present: "none", gate: "closed" });
    for (let i = 0; i < 8; i++) {
      await storeChunks(region, [[i, content.subarray(i * CHUNK, (i + 1) * CHUNK)]], true);
    }
    const first = native().serveUffd({ path: path.join(folder(), "uffd.sock") });
    first.add("region", region);
    const user = start(first, region);
    const waiting = user.read(3 * CHUNK, 5000);
    await until("the waiter", () => region.stats().parked === 1);
    const { path: socket } = first;
    await first.stop();
    expect(region.stats().parked).toBe(0);
    region.setGate("open");
    let over = false;
    void waiting.then(() => (over = true));
    await sleep(300);
    expect(over).toBe(false);
    const second = native().serveUffd({ path: socket });
    onTestFinished(() => second.stop());
    second.add("region", region);
    expect((await waiting).equals(content.subarray(3 * CHUNK, 3 * CHUNK + 5000))).toBe(true);
    await user.write(0, Buffer.from("to the second"));
    await user.sync();
    expect(
      Buffer.from(await readAll(region))
        .subarray(0, 13)
        .toString(),
    ).toBe("to the second");
  });

  test("a region that ends under a program that waits stops it, and hangs nobody", async () => {
    const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
    const server = serve(region);
    const user = start(server, region);
    const waiting = user.read(CHUNK, 10).then(
      () => "read",
      (error: unknown) => String(error),
    );
    await until("the waiter", () => region.stats().parked === 1);
    region.failParked("EIO");
    expect(await waiting).toMatch(/SIGBUS/);
    await server.stop();
  });

  test("a program that is killed with writes under way leaves the server whole", async () => {
    const region = openRegion({ bytes: 16 * CHUNK });
    const server = serve(region);
    const user = start(server, region);
    await user.write(0, Buffer.alloc(16 * CHUNK, 3));
    user.process.kill("SIGKILL");
    await until("its end", () => server.clients === 0);
    await server.flush();
    const next = start(server, region);
    await next.write(CHUNK, Buffer.from("next"));
    await next.sync();
    expect(
      Buffer.from(await readAll(region))
        .subarray(CHUNK, CHUNK + 4)
        .toString(),
    ).toBe("next");
  });

  test("what is there already, and a socket that cannot be, is said", async () => {
    const region = openRegion({ bytes: CHUNK });
    const server = serve(region);
    expect(() => native().serveUffd({ path: server.path })).toThrow(/EADDRINUSE/);
    expect(() => native().serveUffd({ path: "/nowhere/at/all.sock" })).toThrow(/ENOENT/);
    expect(() => native().serveUffd({ path: `/tmp/${"x".repeat(120)}` })).toThrow(/107 bytes/);
    expect(() => server.add("another", region)).toThrow(/serves one region/);
  });
});
