/**
 * Peers that are killed: a mount that is taken over, and sessions that are gone on with.
 */
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";

import { expect, onTestFinished, test } from "vitest";

import { requireFuse, skipUnless } from "../support/requires.ts";
import { makeFile, sameContent } from "./files.ts";
import { eventually, redirect, Stage, text } from "./harness.ts";
import { startProxy } from "./proxy.ts";

const MIB = 1024 * 1024;
const BYTES = 12 * MIB + 5;

/** Another process reads the last byte through a mapping. @returns What it printed */
function readLastByte(file: string): Promise<string> {
  const script =
    "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); print(m[len(m)-1])";
  const child = spawn("python3", ["-c", script, file], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  let printed = "";
  child.stdout.on("data", (data: Buffer) => (printed += data.toString()));
  return new Promise((resolve) => child.once("close", () => resolve(printed.trim())));
}

test("kill -9 of a leecher in post-copy: a blocked read of a mapping returns the right byte", async (ctx) => {
  skipUnless(ctx, requireFuse());
  await using stage = await Stage.open();
  const relay = await stage.relay();
  await using proxy = await startProxy({ port: relay.port, delayMs: 20, bytesPerS: 3 * MIB });
  const [source, copy] = [stage.file("source"), stage.file("copy")];
  await makeFile(source, BYTES);
  const last = (await readFile(source)).at(-1);
  const mount = await stage.folder("mount");
  const { ticket } = await stage.seed(["--file", source, "--link", "websocket"]);
  const leecher = stage.leech(redirect(ticket, proxy.url), [
    "--file",
    copy,
    "--export",
    `fuse:${mount}`,
    "--mode",
    "postcopy",
    "--link",
    "websocket",
  ]);
  await leecher.waitForPhase("postcopy");
  proxy.blackhole(true);
  const reading = readLastByte(`${mount}/source`);
  await new Promise((resolve) => setTimeout(resolve, 400));
  process.kill(leecher.workerPid, "SIGKILL");
  await leecher.waitFor("restarted");
  proxy.blackhole(false);
  expect(await reading).toBe(String(last));
  await leecher.waitFor("done");
  leecher.kill("SIGTERM");
  await leecher.expectExit(0);
  expect(await sameContent(source, copy)).toBe(true);
});

test("both peers and both supervisors are killed: `memferry resume` goes on, and nothing is lost", async (ctx) => {
  skipUnless(ctx, requireFuse());
  await using stage = await Stage.open();
  const relay = await stage.relay();
  await using proxy = await startProxy({ port: relay.port, delayMs: 5, bytesPerS: 4 * MIB });
  await stage.useRelay(relay, proxy.url);
  const [source, copy] = [stage.file("source"), stage.file("copy")];
  await makeFile(source, BYTES);
  const mount = await stage.folder("mount");
  const { seeder, ticket, sessionId } = await stage.seed(["--file", source, "--link", "websocket"]);
  const state = (name: string): NodeJS.ProcessEnv => ({ MEMFERRY_STATE_DIR: stage.file(name) });
  const leechArgs = ["--file", copy, "--export", `fuse:${mount}`, "--mode", "postcopy"];
  const leecher = stage.leech(ticket, [...leechArgs, "--link", "websocket"], {
    environment: state("destination"),
  });
  await leecher.waitForPhase("postcopy");
  for (const program of [leecher, seeder]) {
    program.kill("SIGKILL");
    await program.exited;
  }
  const listed = await stage.run(["resume"], { environment: state("destination") });
  expect(listed.stdout).toContain(sessionId);
  const known = await stage.run(["recover", sessionId, "--json"], {
    environment: state("destination"),
  });
  expect(known.stdout).toContain('"owner":"here"');
  const again = stage.memferry("the seeder again", ["resume", sessionId, "--json"]);
  const resumed = stage.memferry("the leecher again", ["resume", sessionId, "--json"], {
    environment: state("destination"),
  });
  await resumed.waitFor("done");
  await again.expectExit(0);
  resumed.kill("SIGTERM");
  await resumed.expectExit(0);
  expect(await sameContent(source, copy)).toBe(true);
  const verified = await stage.run(["verify", copy, "--session", sessionId], {
    environment: state("destination"),
  });
  expect(verified).toMatchObject({ code: 0 });
  await writeFile(copy, "x", { flag: "r+" });
  const different = await stage.run(["verify", source, copy]);
  expect(different.code).toBe(1);
  expect(different.stdout).toContain("1 of ");
});

test("a journal that is cut short, flipped or of another session is refused, and the error says what to do", async () => {
  await using stage = await Stage.open();
  await stage.relay();
  const source = stage.file("source");
  await makeFile(source, 70_000);
  const { seeder, sessionId } = await stage.seed(["--file", source]);
  const sessions = stage.file("state/memferry/sessions");
  const [name = ""] = readdirSync(sessions);
  const journal = path.join(sessions, name, "journal");
  await eventually(() => existsSync(journal));
  seeder.kill("SIGKILL");
  await seeder.exited;
  const whole = await readFile(journal);
  const flipped = Buffer.from(whole);
  flipped[whole.length - 3] = (flipped[whole.length - 3] ?? 0) ^ 1;
  const foreign = Buffer.from(whole);
  foreign[20] = (foreign[20] ?? 0) ^ 1;
  for (const damaged of [whole.subarray(0, whole.length - 1), flipped, foreign]) {
    await writeFile(journal, damaged);
    const { code, stderr } = await stage.run(["resume", sessionId]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/journal .*memferry recover/);
  }
});

test("memory and a file migrate together", async (ctx) => {
  skipUnless(ctx, requireFuse());
  await using stage = await Stage.open();
  await stage.relay();
  const disk = stage.file("disk.img");
  await makeFile(disk, 3 * MIB + 1);
  const [mount, directory] = [await stage.folder("mount"), await stage.folder("received")];
  const { seeder, ticket } = await stage.seed([
    "--region",
    "mem=size:2MiB",
    "--region",
    `disk=file:${disk}`,
    "--export",
    `fuse:${mount}`,
  ]);
  // Not by this process: it does not serve the mount, and yet the mount may make it wait.
  const written = await new Promise((resolve) => {
    spawn("sh", ["-c", `printf hello | dd of=${mount}/mem bs=1 seek=1000000 conv=notrunc`], {
      stdio: "ignore",
    }).once("close", resolve);
  });
  expect(written).toBe(0);
  const leecher = stage.leech(ticket, ["--directory", directory]);
  await leecher.expectExit(0);
  await seeder.expectExit(0);
  const channel = leecher.last("channel");
  expect(channel?.["regions"]).toEqual([
    { name: "mem", bytes: 2 * MIB },
    { name: "disk", bytes: 3 * MIB + 1 },
  ]);
  expect(await sameContent(disk, path.join(directory, "disk"))).toBe(true);
  const memory = await readFile(path.join(directory, "mem"));
  expect(memory.subarray(1_000_000, 1_000_005).toString()).toBe("hello");
  expect(text(leecher.last("done"), "rootHash")).toBe(text(seeder.last("done"), "rootHash"));
});
