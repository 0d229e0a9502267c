/** Whole migrations through the exports, under a workload that goes on. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";

import { NbdClient } from "../native/support/nbd-client.ts";
import { eventually, Stage, text } from "../e2e/harness.ts";
import type { Message } from "../e2e/program.ts";
import { compile, startUffdUser } from "../support/export-users.ts";
import { requireFuse, requireLoop, requireTool, skipUnless } from "../support/requires.ts";
import { run } from "./support.ts";

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
  await stage.relay();
});

afterAll(() => stage[Symbol.asyncDispose]());

/** The socket of `nbd+unix:///name?socket=PATH`. */
function socketOf(message: Message | undefined): string {
  const [uri = ""] = (message?.["paths"] ?? []) as string[];
  return decodeURI(new URL(uri).searchParams.get("socket") ?? "");
}

/** A script for a hook that is known before what it does is. */
async function hook(name: string, command: string): Promise<string> {
  const file = stage.file(name);
  await writeFile(file, command);
  return `sh ${file}`;
}

test("every write that an NBD client was told is done is at the destination, without any hook", async () => {
  const bytes = 32 << 20;
  const [there, here] = [stage.file("there.sock"), stage.file("here.sock")];
  const { seeder, ticket } = await stage.seed([
    "--size",
    `${bytes}`,
    "--region",
    "disk",
    "--export",
    `nbd:unix:${there}`,
  ]);
  const client = await NbdClient.open({ path: socketOf(seeder.last("ticket")) }, "disk");
  const BLOCK = 4096;
  const acknowledged = new Map<number, number>();
  let refusal = 0;
  // Four at a time, so that some are under way whenever the gate shuts.
  const writers = [0, 1, 2, 3].map(async (lane) => {
    for (let n = 1; refusal === 0; n++) {
      const block = lane + 4 * ((n * 2_654_435_761) % (bytes / BLOCK / 4));
      const error = await client
        .write(block * BLOCK, Buffer.alloc(BLOCK, (n % 255) + 1))
        // The source ends when it is done, and its server with it.
        .catch(() => -1);
      if (error === 0) acknowledged.set(block, (n % 255) + 1);
      else refusal = error;
    }
  });
  const leecher = stage.leech(ticket, [
    "--file",
    stage.file("disk.img"),
    "--export",
    `nbd:unix:${here}`,
  ]);
  await leecher.waitFor("serving");
  await Promise.all(writers);
  client.end();
  await seeder.expectExit(0);
  expect([-1, 108]).toContain(refusal);
  expect(acknowledged.size).toBeGreaterThan(100);
  const after = await NbdClient.open({ path: here }, "disk");
  for (const [block, value] of acknowledged) {
    expect((await after.read(block * BLOCK, BLOCK)).equals(Buffer.alloc(BLOCK, value))).toBe(true);
  }
  after.end();
  leecher.kill("SIGINT");
  await leecher.expectExit(0);
});

/** A Redis client that says `SET k v` and counts what was answered. */
async function setKeys(socketPath: string, onSet: (key: number) => void): Promise<void> {
  const socket = createConnection(socketPath);
  onTestFinished(() => void socket.destroy());
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  let next = 0;
  let answered = 0;
  const send = (): void => {
    const key = `k${next++}`;
    const value = `value of ${key}`;
    socket.write(`*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${value.length}\r\n${value}\r\n`);
  };
  await new Promise<void>((resolve) => {
    socket.on("data", (data: Buffer) => {
      for (const answer of data.toString().split("\r\n")) {
        if (answer !== "+OK") continue;
        onSet(answered++);
        send();
      }
    });
    socket.on("error", () => undefined); // "close" follows
    socket.once("close", () => resolve());
    for (let i = 0; i < 16; i++) send();
  });
}

test("Redis with an append-only file, on ext4 on a loop device, has every acknowledged key", async (ctx) => {
  const redis = requireTool("redis-server");
  skipUnless(ctx, requireFuse(), requireLoop(), redis, requireTool("mkfs.ext4"));
  const [there, here] = [stage.file("mnt-there"), stage.file("mnt-here")];
  for (const folder of [there, here]) mkdirSync(folder);
  const unmount = (folder: string): void => {
    try {
      execFileSync("umount", ["-q", folder], { stdio: "ignore" });
    } catch {
      // Not mounted: that is what is wanted.
    }
  };
  onTestFinished(() => [there, here].forEach(unmount));
  const command = (folder: string, socket: string): string =>
    `${redis.path} --dir ${folder} --unixsocket ${socket} --port 0 --appendonly yes --appendfsync everysec --save '' --daemonize no`;
  const [socketThere, socketHere] = [stage.file("r1.sock"), stage.file("r2.sock")];
  const pidFile = stage.file("redis.pid");
  const suspend = await hook(
    "suspend",
    `set -e
     kill -TERM $(cat ${pidFile})
     while kill -0 $(cat ${pidFile}) 2>/dev/null; do sleep 0.01; done
     umount ${there}`,
  );
  const resume = await hook(
    "resume",
    `set -e
     mount $MEMFERRY_PATH ${here}
     ${command(here, socketHere)} > ${stage.file("redis2.log")} 2>&1 &`,
  );
  const { seeder, ticket } = await stage.seed([
    "--size",
    "96MiB",
    "--region",
    "disk",
    "--export",
    "loop:auto",
    "--on-suspend",
    suspend,
  ]);
  const [device = ""] = (seeder.last("ticket")?.["paths"] ?? []) as string[];
  await run("mkfs.ext4", ["-q", device]);
  execFileSync("mount", [device, there]);
  const server = stage.start({
    name: "redis",
    command: "/bin/sh",
    args: ["-c", `echo $$ > ${pidFile}; exec ${command(there, socketThere)}`],
    environment: stage.environment(),
  });
  let keys = 0;
  await eventually(
    () => server.stdout.includes("ready to accept") || server.stdout.includes("Ready to accept"),
  );
  const load = setKeys(socketThere, (key) => (keys = key + 1));
  await eventually(() => keys > 5000);
  const leecher = stage.leech(ticket, [
    "--file",
    stage.file("redis.img"),
    "--export",
    "loop:auto",
    "--on-resume",
    resume,
  ]);
  await load;
  await leecher.waitFor("serving");
  await seeder.expectExit(0);
  const cli = (...args: string[]): Promise<string> => run("redis-cli", ["-s", socketHere, ...args]);
  for (let i = 0; i < 100; i++) {
    if ((await cli("PING").catch(String)).startsWith("PONG")) break;
    await sleep(100);
    if (i === 99) throw new Error(await readFile(stage.file("redis2.log"), "utf8"));
  }
  expect(Number(await cli("DBSIZE"))).toBeGreaterThanOrEqual(keys);
  // Every one of them, a thousand a question.
  for (let first = 0; first < keys; first += 1000) {
    const asked = Array.from({ length: Math.min(1000, keys - first) }, (_, i) => `k${first + i}`);
    const answers = (await cli("MGET", ...asked)).trimEnd().split("\n");
    expect(answers).toEqual(asked.map((key) => `value of ${key}`));
  }
  await cli("SHUTDOWN").catch(() => undefined); // it does not answer that
  await eventually(() => !stage.processes().some((line) => line.includes("redis-server")));
  unmount(here);
  expect(text(leecher.last("serving"), "path")).toMatch(/^\/dev\/loop\d+$/);
  leecher.kill("SIGINT");
  await leecher.expectExit(0);
});

test.each(["hybrid", "postcopy"])(
  "memory of a program under the shim migrates with every write that was made: %s",
  async (mode) => {
    const bytes = 32 << 20;
    const folder = mkdtempSync(path.join(tmpdir(), "memferry-uffd-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const program = compile("uffd-user", folder, "-pthread");
    const [there, here] = [path.join(folder, "there.sock"), path.join(folder, "here.sock")];
    const [stop, stopped] = [path.join(folder, "stop"), path.join(folder, "stopped")];
    const suspend = `touch ${stop}; while [ ! -e ${stopped} ]; do sleep 0.01; done`;
    const { seeder, ticket } = await stage.seed([
      "--size",
      `${bytes}`,
      "--region",
      "heap",
      "--export",
      `uffd:unix:${there}`,
      "--on-suspend",
      suspend,
    ]);
    const writer = startUffdUser(program, there, bytes);
    onTestFinished(() => void writer.process.kill("SIGKILL"));
    const content = Buffer.alloc(bytes);
    let writes = 0;
    const writing = (async () => {
      while (!existsSync(stop)) {
        const offset = (Math.imul(++writes, 2_654_435_761) >>> 0) % (bytes - 64);
        const text = Buffer.from(`write ${writes} at ${offset};`);
        await writer.write(offset, text);
        text.copy(content, offset);
      }
      await writeFile(stopped, "");
    })();
    await eventually(() => writes > 500);
    const leecher = stage.leech(ticket, [
      "--file",
      path.join(folder, "heap"),
      "--mode",
      mode,
      "--export",
      `uffd:unix:${here}`,
    ]);
    await eventually(() => existsSync(here));
    // It comes early, as a machine monitor does that is started ahead of time, and waits for its memory.
    const reader = startUffdUser(program, here, bytes);
    onTestFinished(() => void reader.process.kill("SIGKILL"));
    const first = reader.read(content.indexOf("write 1 at"), 10);
    await writing;
    expect((await first).toString()).toBe("write 1 at");
    expect((await reader.read(0, bytes)).equals(content)).toBe(true);
    await reader.write(7, Buffer.from("goes on here"));
    content.write("goes on here", 7);
    await leecher.waitFor("serving");
    await seeder.expectExit(0);
    await reader.close();
    leecher.kill("SIGINT");
    await leecher.expectExit(0);
    // What it wrote until its end is in the file.
    expect((await readFile(path.join(folder, "heap"))).equals(content)).toBe(true);
    expect(writes).toBeGreaterThan(500);
  },
);
