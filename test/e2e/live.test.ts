/**
 * Migrations under a workload that goes on writing.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { open, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, expect, test } from "vitest";

import { findProgram } from "../support/programs.mjs";
import { requireFuse, skipUnless, type Requirement } from "../support/requires.ts";
import { digest, makeFile, sameContent } from "./files.ts";
import { eventually, number, redirect, Stage, text } from "./harness.ts";
import type { Program } from "./program.ts";
import { startProxy } from "./proxy.ts";

const MIB = 1024 * 1024;
const WRITE_BYTES_PER_S = 20_000_000;

let stage: Stage;
let port = 0;
let runs = 0;

beforeAll(async () => {
  stage = await Stage.open();
  ({ port } = await stage.relay());
});

afterAll(() => stage[Symbol.asyncDispose]());

async function startWriter(path: string): Promise<Program> {
  const script = fileURLToPath(new URL("region-writer.ts", import.meta.url));
  const writer = stage.start({
    name: "the writer",
    command: process.execPath,
    args: [script, path, String(WRITE_BYTES_PER_S)],
    environment: stage.environment(),
  });
  await writer.waitFor("writing");
  return writer;
}

/** For `/bin/sh`: ends a process and waits until it is gone. */
function ending(writer: Program): string {
  return `kill -TERM ${writer.pid}; while kill -0 ${writer.pid} 2>/dev/null; do sleep 0.005; done`;
}

/** The suspend hook must be known before the writer is: it runs this script, which is written later. */
async function hookScript(
  name: string,
): Promise<{ args: string[]; set(command: string): Promise<void> }> {
  const path = stage.file(name);
  return {
    args: ["--on-suspend", `sh ${path}`],
    set: (command) => writeFile(path, command),
  };
}

test("20 MB/s of writes through the export go on while it migrates, and all arrive", async (ctx) => {
  skipUnless(ctx, requireFuse());
  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const to = stage.file(`destination-${run}`);
  const [here, there] = [await stage.folder(`here-${run}`), await stage.folder(`there-${run}`)];
  await makeFile(from, 64 * MIB + 777);
  const hook = await hookScript(`suspend-${run}`);
  const seedArgs = ["--file", from, "--region", "region", "--export", `fuse:${here}`];
  const { seeder, ticket } = await stage.seed([...seedArgs, ...hook.args]);
  const writer = await startWriter(`${here}/region`);
  await hook.set(ending(writer));

  const leecher = stage.leech(ticket, [
    "--file",
    to,
    "--export",
    `fuse:${there}`,
    "--on-resume",
    'head -c 4096 "$MEMFERRY_PATH" > /dev/null',
  ]);
  await leecher.waitFor("serving");
  await seeder.expectExit(0);
  const stopped = writer.last("stopped");
  expect(await digest(`${there}/region`)).toBe(text(stopped, "sha256"));
  leecher.kill("SIGINT");
  await leecher.expectExit(0);
  expect(await digest(to)).toBe(text(stopped, "sha256"));

  const done = leecher.last("done");
  const downtimeMs = number(done, "downtimeMs");
  expect(number(done, "rounds")).toBeGreaterThan(1);
  expect(downtimeMs).toBeGreaterThan(0);
  expect(number(leecher.last("resumed"), "downtimeMs")).toBeCloseTo(downtimeMs);
  console.log(
    `writer ${(number(stopped, "bytesPerS") / 1e6).toFixed(1)} MB/s, ${number(done, "rounds")} rounds, ` +
      `downtime ${downtimeMs.toFixed(0)} ms, total ${number(done, "totalMs").toFixed(0)} ms`,
  );
});

test("stores into a shared mapping up to the suspend arrive, without any msync", async (ctx) => {
  const compiler = requireCompiler();
  skipUnless(ctx, requireFuse(), compiler);
  const program = stage.file("mapping-writer");
  const source = fileURLToPath(new URL("mapping-writer.c", import.meta.url));
  const built = spawnSync(compiler.path, ["-O1", "-o", program, source], { encoding: "utf8" });
  expect(built.stderr).toBe("");

  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const to = stage.file(`destination-${run}`);
  const here = await stage.folder(`here-${run}`);
  const ack = stage.file(`ack-${run}`);
  const pages = (24 * MIB) / 4_096;
  await makeFile(from, pages * 4_096);
  const hook = await hookScript(`suspend-${run}`);
  const seedArgs = ["--file", from, "--region", "region", "--export", `fuse:${here}`];
  const { seeder, ticket } = await stage.seed([...seedArgs, ...hook.args]);
  const writer = stage.start({
    name: "the mapping's writer",
    command: program,
    args: [`${here}/region`, ack],
    environment: stage.environment(),
  });
  await writer.waitFor("writing");
  await hook.set(`kill -USR1 ${writer.pid}; while ! test -e ${ack}; do sleep 0.005; done`);

  const leecher = stage.leech(ticket, ["--file", to]);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  writer.kill("SIGKILL");
  const content = await readFile(to);
  let wrong = 0;
  for (let page = 0n; page < BigInt(pages); page++) {
    const wanted = BigInt.asUintN(64, page * 0x9e3779b97f4a7c15n + 1n);
    if (content.readBigUInt64LE(Number(page) * 4_096) !== wanted) wrong++;
  }
  expect(wrong).toBe(0);
  console.log(`mapping: ${number(leecher.last("done"), "rounds")} rounds`);
});

test("a file that is written beside us is read again until it is the same", async () => {
  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const to = stage.file(`destination-${run}`);
  await makeFile(from, 40 * MIB + 321);
  const hook = await hookScript(`suspend-${run}`);
  const { seeder, ticket } = await stage.seed(["--file", from, ...hook.args]);
  const writer = await startWriter(from);
  await hook.set(ending(writer));
  const leecher = stage.leech(ticket, ["--file", to]);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  const { sha256, rounds } = {
    sha256: text(writer.last("stopped"), "sha256"),
    rounds: number(leecher.last("done"), "rounds"),
  };
  expect(await digest(to)).toBe(sha256);
  expect(await digest(from), "the source has what its writer wrote, no more").toBe(sha256);
  expect(rounds).toBeGreaterThan(1);
});

test("--mode postcopy: a read of a chunk that is still away takes about one round trip", async (ctx) => {
  skipUnless(ctx, requireFuse());
  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const there = await stage.folder(`there-${run}`);
  const bytes = 40 * MIB;
  const rttMs = 40;
  await makeFile(from, bytes);
  await using proxy = await startProxy({ port, delayMs: rttMs / 2, bytesPerS: 5_000_000 });
  const { seeder, ticket } = await stage.seed([
    "--file",
    from,
    "--link",
    "websocket",
    "--chunk",
    "16KiB",
  ]);
  const args = ["--file", stage.file(`destination-${run}`), "--link", "websocket"];
  args.push("--mode", "postcopy", "--export", `fuse:${there}`);
  const leecher = stage.leech(redirect(ticket, proxy.url), args);
  await leecher.waitFor("committed");
  const samples: number[] = [];
  await using original = await open(from, "r");
  const exported = `${there}/source-${run}`;
  await eventually(() => existsSync(exported));
  const region = await open(exported, "r");
  const [got, wanted] = [Buffer.alloc(4_096), Buffer.alloc(4_096)];
  // Backwards from the end, far apart: what is pulled in order comes last there, and reading ahead helps nobody.
  for (let at = bytes - 256 * 1_024; samples.length < 24; at -= 320 * 1_024) {
    const startedAtMs = performance.now();
    await region.read(got, 0, got.length, at);
    samples.push(performance.now() - startedAtMs);
    await original.read(wanted, 0, wanted.length, at);
    expect(got.equals(wanted)).toBe(true);
  }
  await region.close();
  expect(leecher.last("done"), "read while chunks were missing").toBeUndefined();
  const sorted = samples.toSorted((a, b) => a - b);
  const median = sorted[sorted.length >> 1] ?? 0;
  console.log(
    `fault latency over a round trip of ${rttMs} ms: median ${median.toFixed(1)} ms ` +
      `(${(median / rttMs).toFixed(2)} round trips), slowest ${(sorted.at(-1) ?? 0).toFixed(1)} ms`,
  );
  expect(median).toBeGreaterThan(rttMs * 0.9);
  expect(median).toBeLessThan(rttMs * 3);
  await leecher.waitFor("serving");
  await seeder.expectExit(0);
  expect(await sameContent(from, exported)).toBe(true);
  leecher.kill("SIGINT");
  await leecher.expectExit(0);
});

test("a region that nobody writes is handed over although one round trip is longer than the downtime budget", async () => {
  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const to = stage.file(`destination-${run}`);
  await makeFile(from, MIB);
  await using proxy = await startProxy({ port, delayMs: 40 });
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", "websocket"]);
  const args = ["--file", to, "--link", "websocket", "--downtime-budget", "20ms"];
  const leecher = stage.leech(redirect(ticket, proxy.url), args);
  await Promise.all([seeder.expectExit(0, 20_000), leecher.expectExit(0, 20_000)]);
  expect(await sameContent(from, to)).toBe(true);
});

test("--finalize manual waits for `memferry sessions finalize`", async () => {
  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const to = stage.file(`destination-${run}`);
  await makeFile(from, 8 * MIB + 1);
  const { seeder, ticket, sessionId } = await stage.seed(["--file", from]);
  const leecher = stage.leech(ticket, ["--file", to, "--finalize", "manual"]);
  await leecher.waitFor("round");
  await leecher.waitFor("progress", (message) => message["bytesReady"] === message["bytesTotal"]);
  expect(leecher.last("suspended")).toBeUndefined();
  const shown = await stage.run(["sessions", "list"]);
  expect(shown.stdout).toMatch(new RegExp(`^${sessionId} +precopy +source +100 % of 8`, "m"));
  expect((await stage.run(["sessions", "finalize", sessionId])).code).toBe(0);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  expect(await sameContent(from, to)).toBe(true);
  const after = await stage.run(["sessions", "show", sessionId, "--json"]);
  expect(JSON.parse(after.stdout)).toMatchObject({
    state: "done",
    authority: { holder: "leecher" },
  });
});

test("--finalize 50 hands over when half is there", async () => {
  const run = ++runs;
  const from = stage.file(`source-${run}`);
  const to = stage.file(`destination-${run}`);
  await makeFile(from, 16 * MIB + 1);
  await using proxy = await startProxy({ port, bytesPerS: 8_000_000 });
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", "websocket"]);
  const args = ["--file", to, "--finalize", "50", "--link", "websocket"];
  const leecher = stage.leech(redirect(ticket, proxy.url), args);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  expect(await sameContent(from, to)).toBe(true);
  // Handed over at half, so the other half took its time afterwards: 8 MiB at 8 MB/s.
  const done = leecher.last("done");
  expect(number(done, "totalMs") - number(leecher.last("resumed"), "downtimeMs")).toBeGreaterThan(
    500,
  );
  const names = leecher.messages.map(({ event }) => event);
  const committedAt = names.indexOf("committed");
  const before = leecher.messages
    .slice(0, committedAt)
    .findLast(({ event }) => event === "progress");
  expect(number(before, "bytesReady")).toBeLessThan(number(before, "bytesTotal"));
});

function requireCompiler(): Requirement {
  const path = ["cc", "gcc", "clang"].map((name) => findProgram(name)).find((found) => found);
  return path === undefined
    ? { available: false, path: "", skipReason: "no C compiler here: apt-get install -y gcc" }
    : { available: true, path, skipReason: "" };
}
