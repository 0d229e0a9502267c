/** The programs that a benchmark runs, and their end. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { FarOptions } from "./far-server.ts";

const run = promisify(execFile);

export class Processes implements AsyncDisposable {
  readonly #children: ChildProcess[] = [];
  /** Those that end by themselves, with their mounts; the others are told. */
  readonly #ending = new Set<ChildProcess>();

  /** Starts our server and waits until it answers. */
  async server(mib: number, kind: "nbd" | "fuse", place: string): Promise<void> {
    await this.#untilReady(process.execPath, [
      `${import.meta.dirname}/server.ts`,
      String(mib),
      kind,
      place,
    ]);
  }

  /** Starts a server of a region whose chunks are, or were, elsewhere; see `far-server.ts`. */
  async farServer(mib: number, directory: string, options: FarOptions): Promise<void> {
    const script = `${import.meta.dirname}/far-server.ts`;
    await this.#untilReady(process.execPath, [
      script,
      String(mib),
      directory,
      JSON.stringify(options),
    ]);
  }

  /** Compiles and starts the least server of its kind. */
  async ceiling(mib: number, kind: "nbd" | "fuse", folder: string, place: string): Promise<void> {
    const program = join(folder, `ceiling-${kind}`);
    const source = `${import.meta.dirname}/ceiling/${kind}.c`;
    await run("cc", ["-O2", "-pthread", "-o", program, source]);
    await this.#untilReady(program, [place, String(mib)]);
  }

  /** Ends when its standard input does. */
  async #untilReady(program: string, args: readonly string[]): Promise<void> {
    const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#children.push(child);
    const [line] = (await Promise.race([once(child.stdout, "data"), once(child, "exit")])) as [
      unknown,
    ];
    if (!Buffer.isBuffer(line)) throw new Error(`${program} did not start`);
    this.#ending.add(child);
  }

  /** Starts a program that makes a socket. */
  async socketServer(program: string, args: readonly string[], socket: string): Promise<void> {
    const child = spawn(program, args, { stdio: ["pipe", "ignore", "inherit"] });
    this.#children.push(child);
    for (let i = 0; !existsSync(socket); i++) {
      if (i > 500) throw new Error(`${program} made no ${socket}`);
      await sleep(10);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children.splice(0)) {
      if (child.exitCode !== null) continue;
      const gone = once(child, "exit");
      child.stdin?.end();
      if (!this.#ending.has(child)) child.kill("SIGTERM");
      await gone;
    }
  }
}

export interface FioJob {
  readonly rw: "read" | "write" | "randread" | "randwrite";
  readonly bs: string;
  readonly iodepth?: number;
  readonly mib: number;
  /** Without it, one pass over everything. */
  readonly seconds?: number;
  /** Random offsets, each of them once. */
  readonly once?: boolean;
  /** An option each, as fio has them. */
  readonly more: readonly string[];
}

export interface FioFigures {
  readonly iops: number;
  readonly bytesPerSecond: number;
}

export async function fio({
  rw,
  bs,
  iodepth = 1,
  mib,
  seconds,
  once = false,
  more,
}: FioJob): Promise<FioFigures> {
  const timed = seconds === undefined ? [] : ["--time_based", `--runtime=${seconds}`];
  const random = rw.startsWith("rand") && !once ? ["--norandommap"] : [];
  const { stdout } = await run(
    "fio",
    [
      "--name=x",
      "--output-format=json",
      `--rw=${rw}`,
      `--bs=${bs}`,
      `--iodepth=${iodepth}`,
      `--size=${mib}M`,
      ...timed,
      ...random,
      ...more,
    ],
    { maxBuffer: 16 << 20 },
  );
  // The nbd engine says something before.
  const { jobs } = JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
    jobs: { read: { iops: number; bw_bytes: number }; write: { iops: number; bw_bytes: number } }[];
  };
  const job = jobs[0];
  if (job === undefined) throw new Error("fio ran no job");
  const side = rw.endsWith("read") ? job.read : job.write;
  return { iops: side.iops, bytesPerSecond: side.bw_bytes };
}

/** Seconds that a program takes. */
export async function timed(program: string, args: readonly string[]): Promise<number> {
  const begin = performance.now();
  await run(program, args, { maxBuffer: 16 << 20 });
  return (performance.now() - begin) / 1000;
}
