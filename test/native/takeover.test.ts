/** A killed server's mount, region and presence go on in another process; who waits notices only time. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { expect, onTestFinished, test } from "vitest";

import {
  CHUNK,
  Client,
  KEY,
  mountedAt,
  native,
  requireMount,
  requireNative,
  run,
  start,
  until,
} from "./support/exports.ts";
import type { Plan, Serving } from "./support/takeover.ts";
import { findProgram } from "../support/programs.mjs";
import { requireRoot, skipUnless } from "../support/requires.ts";

const PROGRAM = path.join(import.meta.dirname, "support/takeover.ts");
const SUM_OF_CHUNK_PAGE = 7 * 4096;

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

/** What the supervisor of these tests holds of a server. */
interface Held {
  readonly store: number;
  readonly channels: readonly number[];
}

interface Server {
  readonly program: Client;
  readonly pid: number;
  readonly serving: Serving;
}

function launch(place: Place, options: Partial<Plan>, held?: Held): Client {
  const inherited = held === undefined ? [] : [held.store, ...held.channels];
  const plan: Plan = {
    ...place,
    mode: held === undefined ? "create" : "resume",
    ...(held === undefined ? {} : { store: 3, channels: held.channels.map((_, at) => 4 + at) }),
    withheld: [],
    gate: "open",
    ...options,
  };
  const program = new Client(process.execPath, [PROGRAM, JSON.stringify(plan)], inherited);
  onTestFinished(() => program.kill());
  return program;
}

async function serve(place: Place, options: Partial<Plan> = {}, held?: Held): Promise<Server> {
  const program = launch(place, options, held);
  const serving = JSON.parse(await program.line("{")) as Serving;
  return { program, pid: program.process.pid ?? 0, serving };
}

/** As a supervisor does: copies of everything that must outlive the server. */
function hold({ pid, serving }: Server): Held {
  const adopt = (fd: number): number => native().adoptDescriptor(pid, fd);
  const held = { store: adopt(serving.store), channels: serving.channels.map(adopt) };
  onTestFinished(() => {
    for (const fd of [held.store, ...held.channels]) native().closeDescriptor(fd);
  });
  return held;
}

/** A killed server with a thread that waits for its own mount stays a zombie until somebody answers. */
async function kill({ program, pid }: Server): Promise<void> {
  program.kill();
  await until("the server's end", () => {
    if (program.process.signalCode !== null) return true;
    const line = readFileSync(`/proc/${pid}/stat`, "utf8");
    return line.slice(line.lastIndexOf(")") + 2).startsWith("Z");
  });
}

/** How many requests that is depends on what the page cache had locked: some wait in the kernel for another's. */
async function allParked({ program }: Server): Promise<void> {
  await program.line("parked");
  await new Promise((resolve) => setTimeout(resolve, 200));
}

async function end({ program }: Server, place: Place): Promise<void> {
  program.kill("SIGTERM");
  expect(await program.ended).toBe(0);
  expect(mountedAt(place.directory)).toBe(false);
}

test("a killed server's mount is taken over, with who waits", async (ctx) => {
  skipUnless(ctx, requireMount());
  const place = makePlace();
  const file = `${place.directory}/region`;
  let server = await serve(place, { withheld: [3] });
  expect(server.serving).toMatchObject({ restored: "none", present: 0 });
  const held = hold(server);
  expect(held.channels).toHaveLength(2);
  expect(await run("read", file, 0, 4096)).toBe(`read 4096 ${SUM_OF_CHUNK_PAGE}`);
  const waiting = [
    run("map-sum-read", file, 3 * CHUNK, 4096),
    run("read", file, 3 * CHUNK + 8192, 4096),
    run("direct-read", file, 3 * CHUNK + 16_384, 4096),
  ];
  await allParked(server);
  // Killed more than once while they wait: what was sent again is sent again.
  for (let turn = 0; turn < 3; turn++) {
    await kill(server);
    server = await serve(place, { withheld: [3] }, held);
    expect(server.serving).toMatchObject({ restored: "exact", resent: true });
    expect(server.serving.present).toBeGreaterThan(0);
    await allParked(server);
  }
  await kill(server);
  server = await serve(place, {}, held);
  expect(await Promise.all(waiting)).toEqual([
    `sum ${SUM_OF_CHUNK_PAGE}`,
    `read 4096 ${SUM_OF_CHUNK_PAGE}`,
    `read 4096 ${SUM_OF_CHUNK_PAGE}`,
  ]);
  await end(server, place);
  expect(existsSync(place.directory)).toBe(true);
});

test("writes and their fsync go on while the server is killed again and again", async (ctx) => {
  skipUnless(ctx, requireMount());
  const place = makePlace();
  let server = await serve(place);
  const held = hold(server);
  const rounds = 600;
  const writer = start("write-rounds", `${place.directory}/region`, 0, 200, rounds);
  const mapper = start("map-rounds", `${place.directory}/region`, 2 * CHUNK, 200, rounds);
  await Promise.all([writer.line("round 1"), mapper.line("round 1")]);
  for (let turn = 0; turn < 5; turn++) {
    await kill(server);
    server = await serve(place, {}, held);
    expect(server.serving).toMatchObject({ restored: "exact", resent: true });
    await new Promise((resolve) => setTimeout(resolve, 30 * turn));
  }
  expect(await Promise.all([writer.ended, mapper.ended])).toEqual([0, 0]);
  await end(server, place);
  const kept = readFileSync(place.file);
  for (const from of [0, 2 * CHUNK])
    expect(kept.subarray(from, from + 200).every((byte) => byte === rounds % 256)).toBe(true);
});

test("a client that waits across a takeover can be killed", async (ctx) => {
  skipUnless(ctx, requireMount());
  const place = makePlace();
  let server = await serve(place, { withheld: [3] });
  const held = hold(server);
  const client = start("read", `${place.directory}/region`, 3 * CHUNK, 4096);
  const before = start("read", `${place.directory}/region`, 3 * CHUNK, 4096);
  await server.program.line("parked");
  await kill(server);
  // The interrupt of this one is on its way when there is no server.
  before.kill();
  server = await serve(place, { withheld: [3] }, held);
  expect(await before.ended).toBe("SIGKILL");
  await server.program.line("parked 1");
  client.kill();
  expect(await client.ended).toBe("SIGKILL");
  await end(server, place);
});

test("what a killed server was flushing is taken over too, and its own wait ends", async (ctx) => {
  skipUnless(ctx, requireMount());
  const place = makePlace();
  let server = await serve(place);
  const held = hold(server);
  const client = start("map-dirty", `${place.directory}/region`, CHUNK, 4096, 5);
  await client.line("dirty");
  await kill(server);
  // Behind a shut gate the write-back of the dirty page waits, and the flush for it.
  const stuck = await serve(place, { gate: "closed" }, held);
  stuck.program.kill("SIGUSR1");
  await stuck.program.line("parked");
  await kill(stuck);
  server = await serve(place, {}, held);
  expect(await stuck.program.ended).toBe("SIGKILL");
  server.program.kill("SIGUSR1");
  await server.program.line("flushed");
  expect(readFileSync(place.file)[CHUNK]).toBe(5);
  client.kill();
  await end(server, place);
});

test("a mount that was taken over and is not served comes down at once", async (ctx) => {
  skipUnless(ctx, requireMount());
  for (const before of ["unmount", "exit"] as const) {
    const place = makePlace();
    const server = await serve(place, { withheld: [3] });
    const held = hold(server);
    const client = start("read", `${place.directory}/region`, 3 * CHUNK, 4096);
    await server.program.line("parked");
    await kill(server);
    expect(await launch(place, { before }, held).ended).toBe(before === "exit" ? 3 : 0);
    expect(await client.ended).toBe(1);
    expect(client.lines.at(-1)).toMatch(/^error pread (ENOTCONN|ECONNABORTED)$/);
    expect(mountedAt(place.directory)).toBe(false);
  }
});

test("a server that was killed before it had shaken hands is taken over", async (ctx) => {
  skipUnless(ctx, requireMount());
  const python = findProgram("python3");
  if (python === undefined)
    return ctx.skip("no python3 here; install it: apt-get install -y python3");
  skipUnless(ctx, requireRoot());
  // The kernel's INIT still waits to be read, or was read and never answered.
  for (const read of ["", "os.read(fd, 1 << 20)"]) {
    const place = makePlace();
    mkdirSync(place.directory);
    const mounter = new Client(python, ["-c", mountOnly(read), place.directory]);
    onTestFinished(() => mounter.kill());
    const channel = native().adoptDescriptor(
      mounter.process.pid ?? 0,
      Number((await mounter.line("fd ")).slice(3)),
    );
    onTestFinished(() => native().closeDescriptor(channel));
    const client = start("read", `${place.directory}/region`, 0, 4096);
    mounter.kill();
    await mounter.ended;
    const store = openSync(place.file, "w+");
    onTestFinished(() => closeSync(store));
    ftruncateSync(store, 4 * CHUNK);
    const held = { store, channels: [channel] };
    const server = await serve(place, { mode: "create" }, held);
    await client.ended;
    expect(client.lines.at(-1)).toBe(`read 4096 ${SUM_OF_CHUNK_PAGE}`);
    await end(server, place);
  }
});

/** Mounts as the addon does, and stops there. */
function mountOnly(then: string): string {
  return `
import ctypes, os, sys, time
fd = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other".encode()
if libc.mount(b"memferry", sys.argv[1].encode(), b"fuse.memferry", 6, data) != 0: sys.exit(os.strerror(ctypes.get_errno()))
${then}
print("fd", fd, flush=True)
time.sleep(1000)
`;
}

test("what is no channel of that mount is not taken over", async (ctx) => {
  skipUnless(ctx, requireMount());
  const place = makePlace();
  const other = makePlace();
  const server = await serve(place);
  const another = await serve(other);
  const held = hold(server);
  const directory = other.directory;
  const take = (channels: readonly number[]) => native().mountFuse({ directory, channels });
  expect(() => take([held.store])).toThrow(expect.objectContaining({ code: "EINVAL" }));
  expect(() => take([1_000_000])).toThrow(expect.objectContaining({ code: "EBADF" }));
  expect(() => take([])).toThrow(TypeError);
  expect(() => native().mountFuse({ directory: place.file, channels: held.channels })).toThrow(
    expect.objectContaining({ code: "ENOTCONN" }),
  );
  // Where the kernel names a channel's connection, that of another mount is told from this one's.
  if (tellsConnections(held.channels[0] ?? 0))
    expect(() => take(held.channels)).toThrow(expect.objectContaining({ code: "ENOTCONN" }));
  expect(await run("read", `${other.directory}/region`, 0, 4096)).toMatch(/^read 4096/);
  await end(server, place);
  await end(another, other);
});

function tellsConnections(channel: number): boolean {
  return readFileSync(`/proc/self/fdinfo/${channel}`, "utf8").includes("fuse_connection:");
}

test("adoptDescriptor() copies a descriptor, or says why not", async (ctx) => {
  skipUnless(ctx, requireNative());
  const { file } = makePlace();
  writeFileSync(file, "here");
  const child = spawn("sleep", ["100"], { stdio: ["ignore", openSync(file, "r"), "ignore"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const pid = child.pid ?? 0;
  const copy = native().adoptDescriptor(pid, 1);
  expect(readFileSync(copy, "utf8")).toBe("here");
  native().closeDescriptor(copy);
  expect(() => readFileSync(copy)).toThrow(expect.objectContaining({ code: "EBADF" }));
  expect(() => native().adoptDescriptor(pid, 999)).toThrow(
    expect.objectContaining({ code: "EBADF" }),
  );
  child.kill("SIGKILL");
  await once(child, "close");
  expect(() => native().adoptDescriptor(pid, 1)).toThrow(
    expect.objectContaining({ code: "ESRCH" }),
  );
  expect(() => native().adoptDescriptor(0, 1)).toThrow(TypeError);
  expect(() => native().closeDescriptor(1)).toThrow(TypeError);
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
