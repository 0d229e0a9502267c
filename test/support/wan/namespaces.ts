/**
 * Network namespaces that are gone when the process that made them is.
 *
 * Their names carry that process, so that a later one finds what a killed one left.
 *
 * @module
 */
import { execFile, execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { constants } from "node:os";
import { promisify } from "node:util";

const run = promisify(execFile);
const PREFIX = "mfwan";
const FOLDER = "/run/netns";

let labs = 0;
const own = new Set<Namespaces>();
const cleanUp = (): void => {
  for (const each of own) each.removeNow();
};
/** By `exit`, for which others wait as well: a signal's own end would leave the programs that run on the nodes. */
const leave = (signal: NodeJS.Signals): void => {
  process.exit(128 + constants.signals[signal]);
};

/** The namespaces of one lab. */
export class Namespaces {
  readonly #prefix = `${PREFIX}-${process.pid}-${startTicks(process.pid)}-${labs++}`;
  readonly #names = new Set<string>();

  /** Removes what killed processes left. */
  static async open(): Promise<Namespaces> {
    await removeStale();
    if (own.size === 0) {
      process.once("exit", cleanUp);
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, leave);
    }
    const namespaces = new Namespaces();
    own.add(namespaces);
    return namespaces;
  }

  async add(name: string): Promise<string> {
    const full = `${this.#prefix}-${name}`;
    await run("ip", ["netns", "add", full]);
    this.#names.add(full);
    await batch(full, ["link set lo up"]);
    return full;
  }

  async close(): Promise<void> {
    for (const name of this.#names) await run("ip", ["netns", "del", name]);
    this.#forget();
  }

  /** For the end of the process, which waits for nothing. */
  removeNow(): void {
    for (const name of this.#names) {
      try {
        execFileSync("ip", ["netns", "del", name], { stdio: "ignore" });
      } catch {
        // The next lab looks for it again.
      }
    }
    this.#forget();
  }

  #forget(): void {
    this.#names.clear();
    own.delete(this);
    if (own.size > 0) return;
    process.off("exit", cleanUp);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, leave);
  }
}

/** What `nsenter` must be told. Not `ip netns exec`: that has mounts of its own, which others cannot see. */
export function entering(namespace: string): string[] {
  return [`--net=${FOLDER}/${namespace}`, "--"];
}

export function namespaceFile(namespace: string): string {
  return `${FOLDER}/${namespace}`;
}

/** Commands of `ip`, in this namespace. @throws the first that fails */
export async function batch(namespace: string, lines: readonly string[]): Promise<void> {
  const command = run("ip", ["-n", namespace, "-batch", "-"]);
  command.child.stdin?.end(`${lines.join("\n")}\n`);
  try {
    await command;
  } catch (cause) {
    throw new Error(`ip in ${namespace}: ${lines.join("; ")}`, { cause });
  }
}

async function removeStale(): Promise<void> {
  for (const name of namespaceNames()) {
    const [prefix, pid, ticks] = name.split("-");
    if (prefix !== PREFIX || startTicks(Number(pid)) === ticks) continue;
    // Whatever runs in there was started by the process that is gone.
    const { stdout } = await run("ip", ["netns", "pids", name]).catch(() => ({ stdout: "" }));
    for (const left of stdout.split(/\s+/).filter(Boolean)) killQuietly(Number(left));
    // Another process may be faster.
    await run("ip", ["netns", "del", name]).catch(() => undefined);
  }
}

function namespaceNames(): string[] {
  try {
    return readdirSync(FOLDER);
  } catch {
    return []; // none was ever made
  }
}

/** When a process began; tells it from a later one of the same number. Empty if there is none. */
function startTicks(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended meanwhile.
  }
}
