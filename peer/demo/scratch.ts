/**
 * The demo's temporary folder: made, and gone at the end with every mount in it.
 *
 * @module
 */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, statfs } from "node:fs/promises";
import path from "node:path";

import { formatBytes } from "../cli/size.ts";
import { DemoError } from "./errors.ts";

const UNMOUNT_DEADLINE_MS = 10_000;
/** The relay's database, configuration and logs. */
const RELAY_BYTES = 128 * 1024 * 1024;

export interface Pipes {
  readonly control: string;
  readonly answer: string;
}

export class Scratch implements AsyncDisposable {
  readonly path: string;

  private constructor(directory: string) {
    this.path = directory;
  }

  /**
   * @param regionBytes Twice this is needed, and the relay's share.
   * @throws DemoError if there is no such folder, or too little room in it.
   */
  static async create(parent: string, regionBytes: number): Promise<Scratch> {
    let room;
    try {
      room = await statfs(parent);
    } catch (cause) {
      throw new DemoError(`${parent} cannot be used: name another folder by --dir`, { cause });
    }
    const needed = 2 * regionBytes + RELAY_BYTES;
    const free = room.bavail * room.bsize;
    if (free < needed) {
      throw new DemoError(
        `${parent} has ${formatBytes(free)} free and the demo needs ${formatBytes(needed)}: ` +
          "name another folder by --dir, or a smaller --size",
      );
    }
    try {
      return new Scratch(await mkdtemp(path.join(parent, "memferry-demo-")));
    } catch (cause) {
      throw new DemoError(`${parent} cannot be written: name another folder by --dir`, { cause });
    }
  }

  file(name: string): string {
    return path.join(this.path, name);
  }

  async folder(name: string): Promise<string> {
    const folder = this.file(name);
    await mkdir(folder, { recursive: true });
    return folder;
  }

  /** Two named pipes of a program that can be told to start and to stop. */
  pipes(name: string): Pipes {
    const pipes = { control: this.file(`${name}.control`), answer: this.file(`${name}.answer`) };
    execFileSync("mkfifo", ["-m", "600", pipes.control, pipes.answer]);
    return pipes;
  }

  /** Where something is still mounted below this folder. */
  mounts(): string[] {
    const points = readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .map((line) => unescape(line.split(" ")[4] ?? ""));
    return points.filter((point) => point.startsWith(`${this.path}/`));
  }

  /** @throws DemoError if a mount will not go; nothing is deleted then. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const point of this.mounts()) unmount(point);
    const left = this.mounts();
    if (left.length > 0) {
      throw new DemoError(
        `${left.join(", ")} is still mounted: unmount it and delete ${this.path}`,
      );
    }
    await rm(this.path, { recursive: true, force: true });
  }
}

/** Blanks and the like are written in octal in mountinfo. */
function unescape(point: string): string {
  return point.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** In another process: a mount whose server is gone may hold whoever touches it. */
function unmount(point: string): void {
  const ways = [
    ["umount", "-l", point],
    ["fusermount3", "-u", "-z", point],
  ] as const;
  for (const [command, ...args] of ways) {
    const { status } = spawnSync(command, args, { stdio: "ignore", timeout: UNMOUNT_DEADLINE_MS });
    if (status === 0) return;
  }
}
