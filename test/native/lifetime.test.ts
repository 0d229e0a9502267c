/**
 * Beginnings and ends: a process that exits, is killed, or runs the addon in a worker or on Deno.
 *
 * Each test runs a process of its own, since it is the process that is being tested.
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import path from "node:path";

import { beforeEach, expect, onTestFinished, test } from "vitest";

import { skipUnless } from "../support/requires.ts";
import { Client, mountedAt, native, requireMount, temporaryFolder } from "./support/exports.ts";

beforeEach((ctx) => skipUnless(ctx, requireMount()));

const server = path.join(import.meta.dirname, "support/server.ts");
const deno = path.join(import.meta.dirname, "../../node_modules/.bin/deno");

/** A process that mounts a region at `directory` and then does as `mode` says. */
function serve(mode: string, directory: string, runtime: "node" | "deno" = "node"): Client {
  const started =
    runtime === "node"
      ? new Client(process.execPath, [server, mode, directory])
      : new Client(deno, ["run", "-A", server, mode, directory]);
  onTestFinished(() => {
    started.kill();
    detach(directory);
  });
  return started;
}

/** Whatever a test leaves behind if it fails. */
function detach(directory: string): void {
  if (mountedAt(directory)) execFileSync("umount", ["-l", directory]);
}

function mountPoint(): string {
  const directory = path.join(temporaryFolder(), "mount");
  mkdirSync(directory);
  return directory;
}

test("a process with nothing pending ends by itself, and its mount with it", async () => {
  const directory = mountPoint();
  const started = serve("idle", directory);
  await started.line("mounted");
  expect(await started.ended).toBe(0);
  expect(mountedAt(directory)).toBe(false);
});

test.each(["exit", "throw"])("a process that ends by %s leaves nothing mounted", async (mode) => {
  const directory = mountPoint();
  const started = serve(mode, directory);
  expect(await started.ended).toBe(mode === "exit" ? 3 : 1);
  expect(started.lines).toContain("mounted");
  expect(mountedAt(directory)).toBe(false);
});

test("a process that exits while clients and its own jobs are under way leaves nothing mounted", async () => {
  const directory = mountPoint();
  const started = serve("busy", directory);
  expect(await started.ended).toBe(3);
  expect(mountedAt(directory)).toBe(false);
});

test("a pending promise keeps the process alive", async () => {
  const directory = mountPoint();
  const started = serve("pending", directory);
  expect(await started.ended).toBe(0);
  expect(started.lines.at(-1)).toBe("settled");
});

test("the mount of a killed process is cleared away by the next one", async () => {
  const directory = mountPoint();
  const killed = serve("stay", directory);
  await killed.line("mounted");
  killed.kill("SIGKILL");
  await killed.ended;
  expect(mountedAt(directory)).toBe(true);
  expect(() => readdirSync(directory)).toThrow(expect.objectContaining({ code: "ENOTCONN" }));
  const mount = native().mountFuse({ directory });
  expect(mountedAt(directory)).toBe(true);
  await mount.unmount();
  expect(mountedAt(directory)).toBe(false);
});

test("a worker thread can serve, and its end unmounts", async () => {
  const directory = mountPoint();
  const started = serve("worker", directory);
  expect(await started.ended).toBe(0);
  expect(started.lines).toEqual(["mounted", "read 65536", "terminated", "unmounted"]);
});

// An environment that is being terminated refuses every call; that must not take the process along.
test("workers may be terminated while results are on their way", async () => {
  const directory = mountPoint();
  const started = serve("workers", directory);
  expect(await started.ended).toBe(0);
  expect(started.lines).toEqual(["terminated"]);
  expect(mountedAt(directory)).toBe(false);
});

test("the addon serves faults on Deno", async (ctx) => {
  skipUnless(ctx, { available: existsSync(deno), path: deno, skipReason: "no deno here: npm ci" });
  const directory = mountPoint();
  const started = serve("faults", directory, "deno");
  expect(await started.ended).toBe(0);
  expect(started.lines).toEqual(["mounted", "read 262144", "unmounted"]);
});

test("a Deno process that ends leaves nothing mounted", async (ctx) => {
  skipUnless(ctx, { available: existsSync(deno), path: deno, skipReason: "no deno here: npm ci" });
  const directory = mountPoint();
  const started = serve("exit", directory, "deno");
  expect(await started.ended).toBe(3);
  expect(mountedAt(directory)).toBe(false);
});

test("spawning a helper does not hand it our channel", () => {
  const directory = mountPoint();
  const mount = native().mountFuse({ directory });
  onTestFinished(() => mount.unmount());
  const child = spawn("/bin/sh", ["-c", "ls -l /proc/self/fd"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (data) => (text += String(data)));
  return new Promise<void>((resolve) => {
    child.once("close", () => {
      expect(text).not.toContain("/dev/fuse");
      resolve();
    });
  });
});
