/**
 * The kernel's NBD client and our devices, in a guest that has both: run by `test/exports/guest.test.ts`.
 *
 * Prints `ok NAME` or `not ok NAME` and why for each case; the exit code is 0 only if all are ok.
 */
import assert from "node:assert/strict";
import { execFile, execFileSync, spawn, type ChildProcessByStdio } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { loadNative } from "../../native/index.ts";
import { contentOf, emptyRegion, image } from "../support/regions.ts";

const run = promisify(execFile);
const CHUNK = 64 << 10;
const BYTES = 16 << 20;
const scratch = mkdtempSync("/dev/shm/memferry-guest-");
let count = 0;

class Server {
  readonly process: ChildProcessByStdio<Writable, Readable, null>;
  #output = "";

  constructor(file: string, session: string, wanted = "auto", have: "all" | "none" = "all") {
    const script = path.join(import.meta.dirname, "server.ts");
    this.process = spawn(process.execPath, [script, file, session, wanted, have], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.process.stdout.setEncoding("utf8").on("data", (text: string) => (this.#output += text));
  }

  async line(start: string): Promise<string> {
    for (let i = 0; i < 600; i++) {
      const found = this.#output.split("\n").findLast((line) => line.startsWith(start));
      if (found !== undefined) return found.slice(start.length).trim();
      if (this.process.exitCode !== null) break;
      await sleep(50);
    }
    throw new Error(`the server did not say "${start}": ${this.#output}`);
  }

  say(line: string): void {
    this.process.stdin.write(`${line}\n`);
  }

  async end(): Promise<void> {
    this.say("end");
    await this.line("closed");
  }
}

function place(): { file: string; session: string } {
  const session = path.join(scratch, `session-${++count}`);
  mkdirSync(session);
  return { file: path.join(scratch, `region-${count}`), session };
}

const sysfs = (device: string, name: string): string =>
  readFileSync(`/sys/block/${path.basename(device)}/${name}`, "utf8").trim();
const attached = (device: string): boolean => existsSync(`/sys/block/${path.basename(device)}/pid`);

const cases: Readonly<Record<string, () => Promise<void>>> = {
  "a device has the region's size, settings and bytes": async () => {
    const { file, session } = place();
    const server = new Server(file, session);
    const device = await server.line("attached");
    assert.match(device, /^\/dev\/nbd\d+$/);
    assert.equal(sysfs(device, "size"), String(BYTES / 512));
    for (let i = 0; i < 50 && sysfs(device, "queue/read_ahead_kb") !== "4096"; i++) await sleep(20);
    assert.equal(sysfs(device, "queue/read_ahead_kb"), "4096");
    assert.equal(sysfs(device, "queue/max_sectors_kb"), "1024");
    assert.equal(sysfs(device, "queue/write_cache"), "write back");
    assert.notEqual(sysfs(device, "queue/discard_max_bytes"), "0");
    writeFileSync(path.join(scratch, "data"), Buffer.alloc(3 * CHUNK, "memferry"));
    await run("dd", [`if=${scratch}/data`, `of=${device}`, "bs=64k", "seek=7", "conv=fsync"]);
    await run("dd", [
      `if=${device}`,
      `of=${scratch}/back`,
      "bs=64k",
      "skip=7",
      "count=3",
      "iflag=direct",
    ]);
    assert.deepEqual(readFileSync(`${scratch}/back`), readFileSync(`${scratch}/data`));
    await server.end();
    assert.deepEqual(
      readFileSync(file).subarray(7 * CHUNK, 10 * CHUNK),
      readFileSync(`${scratch}/data`),
    );
    assert.equal(attached(device), false);
  },

  "ext4, and fsync reaches us as a flush": async () => {
    const { file, session } = place();
    const server = new Server(file, session, "/dev/nbd5");
    const device = await server.line("attached");
    assert.equal(device, "/dev/nbd5");
    await run("mkfs.ext4", ["-q", device]);
    const at = path.join(scratch, "ext4");
    mkdirSync(at);
    execFileSync("mount", [device, at]);
    server.say("stats");
    const before = JSON.parse(await server.line("stats")) as { syncs: number };
    writeFileSync(path.join(at, "file"), Buffer.alloc(CHUNK, 5), { flush: true });
    await sleep(100);
    server.say("stats");
    await sleep(300);
    const after = JSON.parse(await server.line("stats")) as { syncs: number };
    assert.ok(after.syncs > before.syncs, `${before.syncs} and ${after.syncs} flushes`);
    await run("fstrim", [at]);
    execFileSync("umount", [at]);
    execFileSync("mount", [device, at]);
    assert.deepEqual(readFileSync(path.join(at, "file")), Buffer.alloc(CHUNK, 5));
    execFileSync("umount", [at]);
    await run("e2fsck", ["-fn", device]);
    await server.end();
  },

  "a mapping is written and read": async () => {
    const { file, session } = place();
    const server = new Server(file, session);
    const device = await server.line("attached");
    const client = path.join(scratch, "client");
    const source = path.join(import.meta.dirname, "../native/support/client.c");
    await run("cc", ["-O1", "-o", client, source]);
    await run(client, ["map-rounds", device, String(5 * CHUNK), String(CHUNK), "3"]);
    await server.end();
    assert.deepEqual(readFileSync(file).subarray(5 * CHUNK, 6 * CHUNK), Buffer.alloc(CHUNK, 3));
  },

  "a read of a chunk that is elsewhere survives the peer's death": async () => {
    const { file, session } = place();
    const first = new Server(file, session, "auto", "none");
    const device = await first.line("attached");
    const read = run("dd", [
      `if=${device}`,
      `of=${scratch}/back`,
      "bs=4k",
      "skip=160",
      "count=1",
      "iflag=direct",
    ]);
    let over = false;
    void read.finally(() => (over = true)).catch(() => undefined);
    await sleep(500);
    first.process.kill("SIGKILL");
    await sleep(1000);
    assert.equal(over, false, "it was not answered by the death");
    const second = new Server(file, session, "auto", "none");
    assert.equal(await second.line("attached"), device);
    await sleep(300);
    second.say("fill");
    await read;
    assert.deepEqual(readFileSync(`${scratch}/back`), Buffer.alloc(4096, 10));
    await second.end();
    assert.equal(attached(device), false);
  },

  "a read that waits for longer than the kernel's patience gets its bytes": async () => {
    const { file, session } = place();
    const server = new Server(file, session, "auto", "none");
    const device = await server.line("attached");
    const target = `of=${scratch}/back`;
    const read = run("dd", [
      `if=${device}`,
      target,
      "bs=4k",
      "skip=160",
      "count=1",
      "iflag=direct",
    ]);
    // The kernel has taken the connection for dead by then, twice.
    await sleep(25_000);
    server.say("fill");
    await read;
    assert.deepEqual(readFileSync(`${scratch}/back`), Buffer.alloc(4096, 10));
    await server.end();
  },

  "a device whose session is gone is let go by the next peer": async () => {
    const { file, session } = place();
    const dead = new Server(file, session);
    const device = await dead.line("attached");
    dead.process.kill("SIGKILL");
    await sleep(300);
    assert.equal(attached(device), true);
    rmSync(session, { recursive: true });
    const other = place();
    const next = new Server(other.file, other.session, "/dev/nbd9");
    await next.line("attached");
    assert.equal(attached(device), false);
    await next.end();
  },

  "what cannot be attached is said": async () => {
    const one = place();
    const server = new Server(one.file, one.session, "/dev/nbd3");
    await server.line("attached");
    const failure = async (wanted: string): Promise<string> => {
      const { file, session } = place();
      const script = path.join(import.meta.dirname, "server.ts");
      return await run(process.execPath, [script, file, session, wanted, "all"]).then(
        () => "attached",
        (error: unknown) => String(error),
      );
    };
    assert.match(await failure("/dev/nbd3"), /nbd:\/dev\/nbd3: \/dev\/nbd3 is in use/);
    assert.match(await failure("/dev/nbd99"), /no such device: run sudo modprobe nbd nbds_max=64/);
    assert.match(await failure("/dev/null"), /nbd:auto or nbd:\/dev\/nbdN/);
    await server.end();
  },

  "by ioctl, a peer's death is an error for who waits, and the device is free again": async () => {
    const { file, session } = place();
    const dead = new Server(file, session, "ioctl", "none");
    const device = await dead.line("attached");
    const read = run("dd", [
      `if=${device}`,
      "of=/dev/null",
      "bs=4k",
      "skip=160",
      "count=1",
      "iflag=direct",
    ]);
    // It may still be waiting to open the device, whose partitions the kernel looks for first.
    const refused = assert.rejects(read, /error reading|cannot skip|error opening/);
    await sleep(500);
    dead.process.kill("SIGKILL");
    await refused;
    for (let i = 0; i < 100 && attached(device); i++) await sleep(50);
    assert.equal(attached(device), false);
    const other = place();
    const next = new Server(other.file, other.session, "ioctl");
    assert.equal(await next.line("attached"), device);
    await next.end();
  },

  "nbd-client attaches a device to our server": async () => {
    const native = loadNative();
    const content = image(BYTES);
    const { region, fetched } = emptyRegion(content);
    const socket = path.join(scratch, "nbd.sock");
    const server = native.serveNbd({ listen: { path: socket } });
    server.add("disk", region);
    const device = "/dev/nbd11";
    await run("nbd-client", ["-unix", socket, device, "-N", "disk", "-connections", "2"]);
    assert.equal(sysfs(device, "size"), String(BYTES / 512));
    await run("dd", [`if=${device}`, `of=${scratch}/back`, "bs=1M"]);
    assert.ok(readFileSync(`${scratch}/back`).equals(content));
    assert.equal(new Set(fetched).size, fetched.length);
    writeFileSync(path.join(scratch, "data"), Buffer.alloc(CHUNK, "by nbd-client"));
    await run("dd", [`if=${scratch}/data`, `of=${device}`, "bs=64k", "seek=3", "conv=fsync"]);
    assert.ok(region.stats().syncs > 0);
    await run("nbd-client", ["-d", device]);
    assert.ok(
      (await contentOf(region))
        .subarray(3 * CHUNK, 4 * CHUNK)
        .equals(Buffer.alloc(CHUNK, "by nbd-client")),
    );
    await server.stop();
    await region.close();
  },

  "when everything is killed, nobody stays in an uninterruptible sleep": async () => {
    const { file, session } = place();
    const server = new Server(file, session, "auto", "none");
    const device = await server.line("attached");
    const reader = spawn("dd", [`if=${device}`, "of=/dev/null", "bs=4k", "iflag=direct"], {
      stdio: "ignore",
    });
    await sleep(500);
    server.process.kill("SIGKILL");
    reader.kill("SIGKILL");
    rmSync(session, { recursive: true });
    await sleep(300);
    // The next peer finds the device of nobody, and lets it go.
    const other = place();
    const next = new Server(other.file, other.session, "/dev/nbd9");
    await next.line("attached");
    for (let i = 0; i < 100 && reader.exitCode === null && reader.signalCode === null; i++)
      await sleep(100);
    assert.equal(reader.signalCode ?? reader.exitCode, "SIGKILL");
    assert.equal(attached(device), false);
    await next.end();
  },
};

let failed = 0;
const only = process.argv[2];
for (const [name, test] of Object.entries(cases)) {
  if (only !== undefined && !name.includes(only)) continue;
  try {
    await test();
    console.log(`ok ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${name}: ${error instanceof Error ? error.stack : String(error)}`);
  }
}
rmSync(scratch, { recursive: true, force: true });
process.exit(failed === 0 ? 0 : 1);
