/**
 * The demo, as a person starts it, over each link and on each runtime.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { afterEach, beforeEach, expect, test } from "vitest";

import { requireFuse, skipUnless } from "../support/requires.ts";

const DEMO = path.join(import.meta.dirname, "../../peer/demo/main.ts");
const DEMO_LIMIT_MS = 110_000;

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

let directory = "";
const running = new Set<ChildProcess>();

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), "memferry-test-demo-"));
});

afterEach(async () => {
  for (const child of running) child.kill("SIGTERM");
  while (running.size > 0) await sleep(50);
  rmSync(directory, { recursive: true, force: true });
});

function start(...args: string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [DEMO, "--dir", directory, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  const text = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (data: string) => (text.stdout += data));
  child.stderr.setEncoding("utf8").on("data", (data: string) => (text.stderr += data));
  // It cleans up when it is told to stop, so a demo that hangs is one failure and nothing more.
  const limit = setTimeout(() => child.kill("SIGTERM"), DEMO_LIMIT_MS);
  const ended = new Promise<Ended>((resolve) => {
    child.once("close", (status) => {
      clearTimeout(limit);
      running.delete(child);
      resolve({ status, ...text });
    });
  });
  return { child, ended };
}

/** Processes with our folder in their command line, and mounts below it. */
function remains(): string[] {
  const processes = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map(commandLine)
    .filter((line) => line.includes(directory));
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(directory));
  return [...processes, ...mounts, ...readdirSync(directory)];
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    // It ended while we looked.
    return "";
  }
}

const FLAWLESS = {
  identical: true,
  integrity: "ok",
  rowsLost: 0,
  rowsDuplicated: 0,
  rowsDamaged: 0,
  rowsStale: 0,
  rowsUnacknowledged: 0,
};

const variants = [
  { name: "by default", args: [], expected: { path: "websocket", export: "fuse" } },
  {
    name: "over WebTransport",
    args: ["--link", "webtransport"],
    expected: { path: "webtransport", export: "fuse" },
  },
  {
    name: "with the relay on Deno",
    args: ["--relay-runtime", "deno"],
    expected: { relayRuntime: "deno", export: "fuse" },
  },
  {
    name: "without an export",
    args: ["--no-export"],
    expected: { path: "websocket", export: "none" },
  },
] as const;

for (const { name, args, expected } of variants) {
  test(`the demo loses nothing and leaves nothing behind, ${name}`, async (ctx) => {
    if (expected.export === "fuse") skipUnless(ctx, requireFuse());
    const { status, stdout, stderr } = await start("--json", "--size", "32MiB", ...args).ended;
    // One object, whatever happened, and nothing else: what went wrong is in it.
    const outcome = JSON.parse(stdout) as Record<string, unknown>;
    expect(outcome).toMatchObject({ ...FLAWLESS, ...expected });
    expect(outcome["rootHash"]).toMatch(/^[0-9a-f]{64}$/);
    const figures = ["downtimeMs", "writerPauseMs", "totalMs", "rounds", "bytesWire", "rowsPrior"];
    const rows = ["rowsBefore", "rowsDuring", "rowsAfter", "rowsRewritten"];
    expect([...figures, ...rows].filter((field) => !(Number(outcome[field]) > 0))).toEqual([]);
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(remains()).toEqual([]);
  });
}

test("the demo cleans up when it is interrupted in the middle", async (ctx) => {
  skipUnless(ctx, requireFuse());
  const { child, ended } = start("--size", "32MiB", "--rows-per-second", "100");
  let seen = "";
  child.stdout?.on("data", (data: string) => (seen += data));
  while (running.has(child) && !seen.includes("exports the region")) await sleep(50);
  child.kill("SIGINT");
  const { status, stderr } = await ended;
  expect(stderr).toMatch(/stopped, and cleaned up/);
  expect(status).toBe(130);
  expect(remains()).toEqual([]);
});

test("the demo says in one line what is wrong with its options", async () => {
  const { status, stdout, stderr } = await start("--size", "lots").ended;
  expect(stderr).toMatch(/^memferry demo: --size lots .*256MiB.*\n$/);
  expect(stdout).toBe("");
  expect(status).toBe(2);

  const asked = await start("--json", "--size", "1000TiB").ended;
  // What the room suffices for is the machine's business; that this is too much is certain.
  expect(JSON.parse(asked.stdout)).toEqual({ error: expect.stringMatching(/--dir.*--size/) });
  expect(asked.status).toBe(1);
  expect(remains()).toEqual([]);
});
