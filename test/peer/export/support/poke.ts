/** Files on different file systems, and a program that stores into them through a mapping. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { onTestFinished } from "vitest";

import { fileSystemOf } from "../../../../peer/export/file-system.ts";
import type { Requirement } from "../../../support/requires.ts";

const TMPFS_MAGIC = 0x01021994;

/** Where there may be a file system whose times tell of writes through a mapping; the clone's own last. */
const DISKS = [tmpdir(), "/var/tmp", path.join(import.meta.dirname, "../../../../node_modules")];

/** A folder of the test's own, on memory or on a disk. */
export async function folderOn(kind: "tmpfs" | "disk"): Promise<Requirement> {
  for (const place of kind === "tmpfs" ? ["/dev/shm"] : DISKS) {
    const fits =
      kind === "tmpfs"
        ? statfsSync(place).type === TMPFS_MAGIC
        : (await fileSystemOf(place)).timesTell;
    if (!fits) continue;
    const folder = mkdtempSync(path.join(place, "memferry-file-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    return { available: true, path: folder, skipReason: "" };
  }
  const where = kind === "tmpfs" ? "/dev/shm is no tmpfs" : "no ext4, xfs, btrfs or f2fs here";
  return { available: false, path: "", skipReason: `${where}: mount one there` };
}

export interface Poker {
  /** Stores a byte; it has landed when this resolves. */
  readonly poke: (offset: number, byte: number) => Promise<void>;
}

/** A process that maps `file`. */
export function mapFile(file: string): Poker {
  const program = `${file}.poke`;
  execFileSync("cc", ["-O1", "-o", program, path.join(import.meta.dirname, "poke.c")]);
  const child = spawn(program, [file], { stdio: ["pipe", "pipe", "inherit"] });
  onTestFinished(async () => {
    const gone = once(child, "exit");
    child.stdin.end();
    await gone;
    rmSync(program);
  });
  return {
    poke: async (offset, byte) => {
      const done = once(child.stdout, "data");
      child.stdin.write(`${offset} ${byte}\n`);
      await done;
    },
  };
}
