/**
 * Keeps a second relay out of a data directory.
 *
 * A file names the process that has it, by its id and the moment it started, so that one which was killed
 * does not lock its successor out, even if its id was given to somebody else.
 *
 * @module
 */
import { link, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";

import { RelayError, systemCode } from "../errors.ts";

const LOCK_FILE = "relay.lock";
const ATTEMPTS = 5;

/** @returns Gives the directory back. @throws RelayError `DATA_DIRECTORY_IN_USE` */
export async function lockDirectory(directory: string): Promise<() => Promise<void>> {
  const path = join(directory, LOCK_FILE);
  const mine = `${process.pid} ${await startOf(process.pid)}\n`;
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, mine, { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      try {
        // Appears whole or not at all, and only if nothing is there.
        await link(draft, path);
        return async () => {
          if ((await readFile(path, "utf8").catch(() => "")) === mine)
            await rm(path, { force: true });
        };
      } catch (error) {
        if (systemCode(error) !== "EEXIST") throw error;
      }
      const text = await readFile(path, "utf8").catch(() => "");
      if (text === "") continue;
      const [pid = "", start = ""] = text.trim().split(" ");
      if (await isRunning(Number(pid), start)) {
        throw new RelayError(
          "DATA_DIRECTORY_IN_USE",
          `${directory} is in use by another relay, process ${pid}: stop it, or give --data another directory`,
        );
      }
      // Moved away by name and looked at again: another newcomer may have put its own there meanwhile.
      const stale = `${draft}.stale`;
      await rename(path, stale).catch(() => {});
      const moved = await readFile(stale, "utf8").catch(() => "");
      if (moved !== "" && moved !== text) await link(stale, path).catch(() => {});
      await rm(stale, { force: true });
    }
    throw new RelayError(
      "DATA_DIRECTORY_IN_USE",
      `${directory} is being taken by another relay: give --data another directory`,
    );
  } finally {
    await rm(draft, { force: true });
  }
}

/** The process that has the directory; undefined if none has. */
export async function holderOf(directory: string): Promise<number | undefined> {
  const text = await readFile(join(directory, LOCK_FILE), "utf8").catch(() => "");
  const [pid = "", start = ""] = text.trim().split(" ");
  return text !== "" && (await isRunning(Number(pid), start)) ? Number(pid) : undefined;
}

async function isRunning(pid: number, start: string): Promise<boolean> {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    // Somebody else's process is one we may not signal.
    if (systemCode(error) !== "EPERM") return false;
  }
  const now = await startOf(pid);
  return now === "?" || start === "?" || start === "" ? pid !== process.pid : now === start;
}

/** When a process started, in ticks since boot; `?` where that cannot be known. */
async function startOf(pid: number): Promise<string> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; the start is the 22nd field, the 20th after it.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "?";
  } catch {
    return "?";
  }
}
