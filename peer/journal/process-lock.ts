/**
 * Keeps a second process away from what one works with: a file that names the process by its id and the moment it began,
 * so that one that was killed keeps nobody out, even if its id was given to another.
 *
 * @module
 */
import { link, open, readFile, rm } from "node:fs/promises";

const ATTEMPTS = 3;

/**
 * @param failure What is thrown: the process that has it, or `undefined` if it cannot be taken for another reason.
 * @returns Gives it back.
 */
export async function takeLock(
  path: string,
  pid: number,
  failure: (holder: string | undefined) => Error,
): Promise<() => Promise<void>> {
  const mine = `${pid} ${await startOf(pid)}\n`;
  const draft = `${path}.${process.pid}`;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    await rm(draft, { force: true });
    const handle = await open(draft, "wx", 0o600);
    try {
      await handle.writeFile(mine);
    } finally {
      await handle.close();
    }
    try {
      // Appears whole or not at all, and only if nothing is there.
      await link(draft, path);
      return async () => {
        if ((await readFile(path, "utf8").catch(() => "")) === mine) await rm(path);
      };
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    } finally {
      await rm(draft, { force: true });
    }
    const found = await readFile(path, "utf8").catch(() => "");
    if (found === mine) return async () => await rm(path, { force: true });
    const holder = await holderOf(path);
    if (holder !== undefined) throw failure(holder);
    await rm(path, { force: true });
  }
  throw failure(undefined);
}

/** The process that lives and has it. */
export async function holderOf(path: string): Promise<string | undefined> {
  const text = await readFile(path, "utf8").catch(() => "");
  const [pid = "0", start = ""] = text.trim().split(" ");
  return start !== "" && (await startOf(Number(pid))) === start ? pid : undefined;
}

/** When a process began, in ticks since boot; empty if there is none, or only what is left of one. */
async function startOf(pid: number): Promise<string> {
  const line = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The name in parentheses may hold anything.
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? "" : (fields[19] ?? "");
}
