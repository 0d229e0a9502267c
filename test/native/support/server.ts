/**
 * A process that serves a mount, for the tests of how such a process ends: `server.ts MODE DIRECTORY`.
 *
 * Runs on Node and on Deno. Prints a line per step.
 */
import { execFile, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import { promisify } from "node:util";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

import { loadNative } from "../../../native/index.ts";

const CHUNK = 65_536;
const [mode = "", directory = ""] = isMainThread ? process.argv.slice(2) : (workerData as string[]);
const say = (line: string): void => console.log(line);

/** Reads the whole export in a process of its own and returns how much there was. */
async function readByChild(): Promise<number> {
  const { stdout } = await promisify(execFile)("/bin/sh", [
    "-c",
    `wc -c < ${directory}/region && cat ${directory}/region | wc -c`,
  ]);
  const [size, read] = stdout.trim().split(/\s+/).map(Number);
  if (size !== read) throw new Error(`the file has ${size} bytes, ${read} were read`);
  return read ?? 0;
}

function open(chunkCount: number, present: "all" | "none") {
  const native = loadNative();
  const key = new Uint8Array(32).fill(1);
  const bytes = new Uint8Array(CHUNK).fill(7);
  const hash = native.blake3(bytes, key);
  const region = native.openRegion({
    store: { kind: "memory" },
    bytes: chunkCount * CHUNK,
    chunkBytes: CHUNK,
    hashKey: key,
    present,
    gate: "open",
    onFault: (indexes) => {
      void region.store({
        indexes,
        offsets: new Uint32Array(indexes.length),
        bytes,
        hashes: Uint8Array.from({ length: indexes.length * 32 }, (_, at) => hash[at % 32] ?? 0),
        ifAbsent: true,
      });
    },
  });
  const mount = native.mountFuse({ directory });
  mount.add("region", region);
  return { region, mount };
}

if (!isMainThread) {
  const { region } = open(1, "all");
  parentPort?.postMessage("mounted");
  setInterval(() => void region.hash(Uint32Array.of(0)), 1);
} else if (mode === "workers") {
  // Terminated at any moment: also while results are being delivered.
  for (let turn = 0; turn < 20; turn++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: [mode, directory] });
    await new Promise((resolve) => worker.once("message", resolve));
    await new Promise((resolve) => setTimeout(resolve, turn % 5));
    await worker.terminate();
  }
  say("terminated");
} else if (mode === "worker") {
  const worker = new Worker(new URL(import.meta.url), { workerData: [mode, directory] });
  await new Promise((resolve) => worker.once("message", resolve));
  say("mounted");
  say(`read ${await readByChild()}`);
  await worker.terminate();
  say("terminated");
  const still = readFileSync("/proc/self/mountinfo", "utf8").includes(directory);
  say(still ? "still mounted" : "unmounted");
} else {
  const { region, mount } = open(4, mode === "faults" ? "none" : "all");
  say("mounted");
  switch (mode) {
    case "idle":
      break;
    case "stay":
      setInterval(() => {}, 1000);
      break;
    case "exit":
      process.exit(3);
      break;
    case "throw":
      throw new Error("on purpose");
    case "pending":
      void region
        .quiesce()
        .then(() => region.sync())
        .then(() => mount.flush("region"))
        .then(() => say("settled"));
      break;
    case "busy": {
      const child = spawn("/bin/sh", ["-c", `while cat ${directory}/region; do :; done`], {
        stdio: "ignore",
      });
      child.unref();
      for (let call = 0; call < 200; call++)
        void region.hash(Uint32Array.of(0, 1, 2, 3)).catch(() => {});
      void mount.invalidate("region");
      setTimeout(() => process.exit(3), 100);
      break;
    }
    case "faults":
      say(`read ${await readByChild()}`);
      await mount.unmount();
      await region.close();
      say("unmounted");
      break;
    default:
      throw new Error(`no mode ${mode}`);
  }
}
