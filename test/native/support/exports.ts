/**
 * Regions, mounts and client processes for the tests of `native/`.
 *
 * Everything that a test makes is undone when it ends, also when it fails: clients are killed, mounts
 * detached, regions closed and folders removed, in that order.
 *
 * @module
 */
import { execFileSync, spawn } from "node:child_process";
import type { ChildProcessByStdio } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Readable } from "node:stream";

import { afterAll, onTestFinished } from "vitest";

import { loadNative } from "../../../native/index.ts";
import type { FuseMount, NativeAddon, NativeRegion, RegionOptions } from "../../../native/index.ts";
import { isRoot } from "../../support/programs.mjs";
import {
  CHUNK,
  contentOf as readAll,
  indexesOf,
  KEY,
  memoryRegion,
  storeChunks,
} from "../../support/regions.ts";
import type { Requirement } from "../../support/requires.ts";

export { CHUNK, indexesOf, KEY, readAll, storeChunks };

const addon = (() => {
  try {
    return { native: loadNative(), reason: "" };
  } catch (error) {
    return { native: undefined, reason: String(error) };
  }
})();

/** The addon, for tests that have passed `requireNative`. */
export function native(): NativeAddon {
  if (addon.native === undefined) throw new Error(addon.reason);
  return addon.native;
}

export function requireNative(): Requirement {
  return { available: addon.native !== undefined, path: "", skipReason: addon.reason };
}

/** The addon, and the right to mount with it. */
export function requireMount(): Requirement {
  const probe = addon.native?.probeFuse();
  if (probe === undefined) return requireNative();
  return {
    available: probe.available && client() !== undefined,
    path: "/dev/fuse",
    skipReason: probe.available
      ? "the client of these tests needs a C compiler: apt-get install -y gcc libc6-dev"
      : `${probe.reason ?? ""}; ${probe.remedy ?? ""}`,
  };
}

export { isRoot };

let built: string | undefined;
let builtIn: string | undefined;
// Not at the process' exit: a worker of the test runner is stopped before that.
afterAll(() => {
  if (builtIn !== undefined) rmSync(builtIn, { recursive: true, force: true });
});

/** Compiles `client.c`, once; undefined where there is no compiler. */
function client(): string | undefined {
  if (built !== undefined) return built;
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-client-"));
  builtIn = folder;
  const program = path.join(folder, "client");
  try {
    const source = path.join(import.meta.dirname, "client.c");
    execFileSync("cc", ["-O1", "-o", program, source], { stdio: ["ignore", "ignore", "inherit"] });
  } catch {
    return undefined;
  }
  built = program;
  return program;
}

export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-native-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function openRegion(options: Partial<RegionOptions> & { bytes: number }): NativeRegion {
  const region = memoryRegion(options);
  onTestFinished(() => region.close());
  return region;
}

export interface Export {
  readonly mount: FuseMount;
  readonly file: string;
}

/** Shows the region as a file of a new mount. Call after `openRegion`: it is undone before. */
export function exportRegion(region: NativeRegion, readOnly = false): Export {
  const directory = path.join(temporaryFolder(), "mount");
  mkdirSync(directory);
  const mount = native().mountFuse({ directory });
  onTestFinished(() => mount.unmount());
  mount.add("region", region, { readOnly });
  return { mount, file: path.join(directory, "region") };
}

export function mountedAt(directory: string): boolean {
  return readFileSync("/proc/self/mountinfo", "utf8").includes(` ${directory} `);
}

export class Client {
  readonly process: ChildProcessByStdio<null, Readable, null>;
  readonly lines: string[] = [];
  /** The exit code, or the signal's name. */
  readonly ended: Promise<number | string>;
  #wake: (() => void)[] = [];

  /** @param inherited Descriptors that it is to have as 3, 4 and so on. */
  constructor(program: string, args: readonly string[], inherited: readonly number[] = []) {
    const stdio: ["ignore", "pipe", "inherit", ...number[]] = [
      "ignore",
      "pipe",
      "inherit",
      ...inherited,
    ];
    this.process = spawn(program, args, { stdio }) as ChildProcessByStdio<null, Readable, null>;
    let rest = "";
    this.process.stdout.setEncoding("utf8").on("data", (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop() ?? "";
      this.lines.push(...parts);
      for (const wake of this.#wake.splice(0)) wake();
    });
    this.ended = new Promise((resolve) => {
      this.process.once("close", (code, signal) => {
        resolve(code ?? signal ?? -1);
        for (const wake of this.#wake.splice(0)) wake();
      });
    });
  }

  /** Waits for a line that begins so, and returns it. */
  async line(start: string): Promise<string> {
    let over = false;
    void this.ended.then(() => (over = true));
    for (;;) {
      const found = this.lines.find((line) => line.startsWith(start));
      if (found !== undefined) return found;
      if (over) throw new Error(`the client ended without "${start}": ${this.lines.join(" | ")}`);
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  kill(signal: NodeJS.Signals = "SIGKILL"): void {
    this.process.kill(signal);
  }
}

/** Starts `client.c` with these arguments. */
export function start(...args: readonly (string | number)[]): Client {
  const program = client();
  if (program === undefined || !existsSync(program)) throw new Error("no client program");
  const started = new Client(program, args.map(String));
  onTestFinished(() => started.kill());
  return started;
}

/** Runs it to its end and returns the last line. */
export async function run(...args: readonly (string | number)[]): Promise<string> {
  const started = start(...args);
  await started.ended;
  return started.lines.at(-1) ?? "";
}

/** Polls: for what the kernel does in its own time. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited 10 s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function bitmapOf(indexes: Iterable<number>, chunkCount: number): Uint8Array {
  const bitmap = new Uint8Array(Math.ceil(chunkCount / 8));
  for (const index of indexes) bitmap[index >> 3] = (bitmap[index >> 3] ?? 0) | (1 << (index & 7));
  return bitmap;
}
