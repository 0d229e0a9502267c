/**
 * How a child ended.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process";
import { readFile } from "node:fs/promises";
import { constants } from "node:os";

/** A killed process whose last thread waits for the mount that it served never ends by itself: looked for this often. */
const LOOK_INTERVAL_MS = 100;

export interface Ending {
  /** `null` if a signal ended it. */
  readonly code: number | null;
  readonly signal: string | null;
}

/**
 * Resolves when a child is over. One that was killed while a thread of it waited for the mount that it served itself
 * stays as a zombie until its successor answers, so that it is a zombie is enough.
 */
export async function ended(child: ChildProcess): Promise<Ending> {
  let looking: ReturnType<typeof setInterval> | undefined;
  try {
    return await new Promise<Ending>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code, signal) => resolve({ code, signal }));
      looking = setInterval(() => {
        void zombieEnding(child.pid ?? 0).then((ending) => {
          // `exit` comes first where nothing holds the process back. On a busy host it may come later all the same.
          if (ending !== undefined) setTimeout(() => resolve(ending), LOOK_INTERVAL_MS);
        });
      }, LOOK_INTERVAL_MS);
    });
  } finally {
    clearInterval(looking);
  }
}

/** @returns How a process ended that nobody has waited for yet; `undefined` if it is none. */
export async function zombieEnding(pid: number): Promise<Ending | undefined> {
  const line = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The name before it may hold anything.
  const fields = line
    .slice(line.lastIndexOf(")") + 2)
    .trim()
    .split(" ");
  if (fields[0] !== "Z") return undefined;
  // The last one, as `waitpid` tells it.
  const status = Number(fields.at(-1));
  const killedBy = status & 0x7f;
  if (killedBy === 0) return { code: status >> 8, signal: null };
  const signal = Object.entries(constants.signals).find(([, number]) => number === killedBy);
  return { code: null, signal: signal?.[0] ?? `signal ${killedBy}` };
}
