/** A killed server's mount, region and presence go on in another process; who waits notices only time. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

import { expect, onTestFinished, test } from "vitest";

import { CHUNK, KEY, native, requireMount, requireNative } from "./support/exports.ts";
import { skipUnless } from "../support/requires.ts";

const PROGRAM = path.join(import.meta.dirname, "support/takeover.ts");

interface Serving {
  readonly restored: string;
  readonly present: number;
  readonly resent: boolean;
  readonly store: number;
  readonly channels: readonly number[];
}

interface Place {
  readonly directory: string;
  readonly file: string;
  readonly state: string;
}

function makePlace(): Place {
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-takeover-"));
  const place = {
    directory: path.join(folder, "mount"),
    file: path.join(folder, "region.img"),
    state: path.join(folder, "region.state"),
  };
  onTestFinished(() => {
    // Only after a failure is it still there.
    spawnSync("umount", ["--lazy", place.directory], { stdio: "ignore" });
    rmSync(folder, { recursive: true, force: true });
  });
  return place;
}

async function serve(
  place: Place,
  mode: "create" | "resume",
  descriptors: readonly number[],
): Promise<{ readonly child: ChildProcess; readonly serving: Serving }> {
  const numbers = descriptors.map((_, at) => String(3 + at));
  const child = spawn(
    process.execPath,
    [PROGRAM, place.directory, place.file, place.state, mode, ...numbers],
    { stdio: ["ignore", "pipe", "inherit", ...descriptors] },
  );
  onTestFinished(() => void child.kill("SIGKILL"));
  if (child.stdout === null) throw new Error("no standard output");
  const [line] = (await once(createInterface(child.stdout), "line")) as [string];
  return { child, serving: JSON.parse(line) as Serving };
}

/** Another process reads a byte through a mapping, or by pread; resolves with what it printed. */
function read(place: Place, how: "mmap" | "pread", offset: number): Promise<string> {
  const script =
    how === "mmap"
      ? "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); print(m[int(sys.argv[2])])"
      : "import os,sys; f=os.open(sys.argv[1],os.O_RDONLY); print(os.pread(f,1,int(sys.argv[2]))[0])";
  const child = spawn("python3", ["-c", script, `${place.directory}/region`, String(offset)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return new Promise((resolve, reject) => {
    let text = "";
    child.stdout?.on("data", (data: Buffer) => (text += data.toString()));
    child.on("close", (code) =>
      code === 0 ? resolve(text.trim()) : reject(new Error(`the reader ended with ${code}`)),
    );
  });
}

test("a killed server's mount is taken over, with who waits", async (ctx) => {
  skipUnless(ctx, requireMount());
  const place = makePlace();
  let { child, serving } = await serve(place, "create", []);
  const pid = child.pid ?? 0;
  expect(serving).toMatchObject({ restored: "none", present: 0 });
  expect(await read(place, "pread", 0)).toBe("7");
  const held = [serving.store, ...serving.channels].map((fd) => native().adoptDescriptor(pid, fd));
  onTestFinished(() => held.forEach((fd) => native().closeDescriptor(fd)));
  const waiting = [read(place, "mmap", 3 * CHUNK), read(place, "pread", 3 * CHUNK + 100)];
  // Both are parked in the server when its bytes for them are asked for and do not come.
  await new Promise((resolve) => setTimeout(resolve, 300));
  child.kill("SIGKILL");
  ({ child, serving } = await serve(place, "resume", held));
  expect(serving).toMatchObject({ restored: "exact", resent: true });
  expect(serving.present).toBeGreaterThan(0);
  expect(await Promise.all(waiting)).toEqual(["7", "7"]);
  // And again, while writes and their fsync go on.
  for (let turn = 0; turn < 3; turn++) {
    const writer = spawn(
      "python3",
      [
        "-c",
        "import os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\nfor i in range(200):\n os.pwrite(f,bytes([i]),i)\n os.fsync(f)\nprint('ok')",
        `${place.directory}/region`,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    onTestFinished(() => void writer.kill("SIGKILL"));
    const ended = once(writer, "close");
    await new Promise((resolve) => setTimeout(resolve, 60));
    child.kill("SIGKILL");
    ({ child, serving } = await serve(place, "resume", held));
    expect(await ended).toEqual([0, null]);
  }
  const ended = once(child, "close");
  child.kill("SIGTERM");
  expect(await ended).toEqual([0, null]);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(place.directory);
  const kept = readFileSync(place.file);
  expect([...kept.subarray(0, 200)]).toEqual(Array.from({ length: 200 }, (_, i) => i));
  expect(existsSync(place.directory)).toBe(true);
});

const SLOT_BYTES = 4096;
const BOOT_ID_AT = 24;

test("a state file is exact on the same boot, and its last checkpoint after another", async (ctx) => {
  skipUnless(ctx, requireNative());
  const { file, state } = makePlace();
  const bytes = new Uint8Array(CHUNK).fill(9);
  const hash = native().blake3(bytes, KEY);
  const open = (mode: "create" | "resume") =>
    native().openRegion({
      store: { kind: "file", path: file, create: true, reserve: false },
      bytes: 3 * CHUNK,
      chunkBytes: CHUNK,
      hashKey: KEY,
      present: "none",
      gate: "closed",
      state: { path: state, mode },
    });
  const put = async (region: ReturnType<typeof open>, index: number): Promise<void> => {
    await region.store({
      indexes: Uint32Array.of(index),
      offsets: Uint32Array.of(0),
      bytes,
      hashes: hash,
      ifAbsent: true,
    });
  };
  let region = open("create");
  await put(region, 0);
  await region.checkpoint();
  await put(region, 1);
  await region.checkpoint();
  await put(region, 2);
  await region.close();

  region = open("resume");
  expect([region.restored, ...region.presence()]).toEqual(["exact", 0b111]);
  expect(Buffer.compare(region.storedHashes().subarray(64), hash)).toBe(0);
  await region.close();

  const whole = readFileSync(state);
  const otherBoot = Buffer.from(whole);
  otherBoot.write("x", BOOT_ID_AT);
  writeFileSync(state, otherBoot);
  region = open("resume");
  expect([region.restored, ...region.presence()]).toEqual(["checkpoint", 0b011]);
  await region.close();

  // The newest slot is torn: the older one counts. Both: nothing.
  for (const [slots, expected] of [
    [[2], 0b001],
    [[2, 3], 0],
  ] as const) {
    const torn = Buffer.from(otherBoot);
    for (const slot of slots)
      torn[slot * SLOT_BYTES + 64] = (torn[slot * SLOT_BYTES + 64] ?? 0) ^ 4;
    writeFileSync(state, torn);
    region = open("resume");
    expect([region.restored, ...region.presence()]).toEqual(["checkpoint", expected]);
    await region.close();
  }
  for (const damaged of [
    whole.subarray(0, 5000),
    Buffer.from(whole).fill(0, 0, 8),
    Buffer.from(whole).fill(1, 8, 12),
  ]) {
    writeFileSync(state, damaged);
    expect(() => open("resume")).toThrow(expect.objectContaining({ code: "ESTATE" }));
  }
});
