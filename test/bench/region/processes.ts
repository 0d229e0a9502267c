/** The programs that a benchmark runs, and their end. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

export class Processes implements AsyncDisposable {
  readonly #children: ChildProcess[] = [];

  /** Starts our server and waits until it answers. */
  async server(mib: number, kind: "nbd" | "fuse", place: string): Promise<void> {
    const script = `${import.meta.dirname}/server.ts`;
    const child = spawn(process.execPath, [script, String(mib), kind, place], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#children.push(child);
    await once(child.stdout, "data");
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
      // Ours ends by itself, with its mount; others are told.
      if (child.spawnfile !== process.execPath) child.kill("SIGTERM");
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
  more,
}: FioJob): Promise<FioFigures> {
  const timed = seconds === undefined ? [] : ["--time_based", `--runtime=${seconds}`];
  const random = rw.startsWith("rand") ? ["--norandommap"] : [];
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
