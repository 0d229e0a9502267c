/**
 * Keeps a second relay out of a data directory.
 *
 * A file names the process that has it, by its id and the moment it started, so that one which was killed
 * does not lock its successor out, even if its id was given to somebody else. Who may not ask after a process, as on
 * Deno without the right to run programs, asks at a socket that the holder listens at.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { link, readFile, rename, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import process from "node:process";

import { RelayError, systemCode } from "../errors.ts";

const LOCK_FILE = "relay.lock";
const LOCK_SOCKET = "relay.lock.socket";
/** What an address of a socket may hold. */
const SOCKET_PATH_BYTES_MAX = 100;
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
        const silence = await answerAt(join(directory, LOCK_SOCKET));
        return async () => {
          await silence();
          if ((await readFile(path, "utf8").catch(() => "")) === mine)
            await rm(path, { force: true });
        };
      } catch (error) {
        if (systemCode(error) !== "EEXIST") throw error;
      }
      const text = await readFile(path, "utf8").catch(() => "");
      if (text === "") continue;
      const [pid = "", start = ""] = text.trim().split(" ");
      if (await isRunning(directory, Number(pid), start)) {
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
  return text !== "" && (await isRunning(directory, Number(pid), start)) ? Number(pid) : undefined;
}

async function isRunning(directory: string, pid: number, start: string): Promise<boolean> {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    const code = systemCode(error);
    if (code === "ESRCH") return false;
    // Somebody else's process is one we may not signal, but we are told that it is there.
    if (code !== "EPERM") return await isAnswered(join(directory, LOCK_SOCKET));
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

/** Listens for those who ask whether this process is there. @returns Stops it. */
async function answerAt(path: string): Promise<() => Promise<void>> {
  // Too long a path has no socket; those who need it then take the directory for held, which loses nothing.
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) return async () => {};
  await rm(path, { force: true });
  const server = createServer((socket) => socket.on("error", () => {}).destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  server.unref();
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
    });
}

async function isAnswered(path: string): Promise<boolean> {
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) return true;
  return await new Promise((resolve) => {
    const socket = connect(path);
    const answer = (is: boolean) => (): void => {
      socket.destroy();
      resolve(is);
    };
    socket.once("connect", answer(true));
    socket.once("error", answer(false));
  });
}
