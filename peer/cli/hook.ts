/**
 * Hooks: the user's own commands that stop and start the workload.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { hookEnvironment } from "../config.ts";
import { MigrationError } from "../errors.ts";

/** What of a failing hook's output is told. */
const OUTPUT_BYTES_MAX = 400;

/**
 * Runs a command with `/bin/sh -c`, with the region's facts in its environment.
 *
 * Its standard output goes to our standard error, so that ours stays what it promises. Nothing of it passes
 * Node's event loop but the exit: a hook is on the path of the downtime.
 *
 * @throws MigrationError `HOOK_FAILED`
 */
export async function runHook(
  option: string,
  command: string,
  environment: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<void> {
  const child = spawn("/bin/sh", ["-c", command], {
    env: hookEnvironment(environment),
    stdio: ["ignore", 2, "pipe"],
    // Its own group, so that what it started is stopped with it and a Ctrl-C is ours to handle.
    detached: true,
  });
  const { stderr } = child;
  if (stderr === null) throw new Error("the hook's standard error is a pipe");
  let tail = "";
  stderr.on("data", (data: Buffer) => {
    tail = (tail + data.toString()).slice(-OUTPUT_BYTES_MAX);
    process.stderr.write(data);
  });
  const onAbort = (): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    } catch {
      // It ended by itself in the same moment.
    }
  };
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      child.once("error", (cause) => {
        reject(
          new MigrationError("HOOK_FAILED", `${option} cannot be run: ${cause.message}`, { cause }),
        );
      });
      // `exit` and not `close`: a service that the hook left running keeps the pipe.
      child.once("exit", (code, killedBy) => {
        if (code === 0) {
          resolve();
          return;
        }
        const how = signal.aborted
          ? "took too long and was killed"
          : code === null
            ? `was killed by ${killedBy ?? "a signal"}`
            : `failed with status ${code}`;
        const last = tail.trim().split("\n").at(-1);
        const said = last === undefined || last === "" ? "" : ` (${last})`;
        reject(new MigrationError("HOOK_FAILED", `${option} ${how}${said}`));
      });
    });
  } finally {
    signal.removeEventListener("abort", onAbort);
    stderr.destroy();
    child.unref();
  }
}
