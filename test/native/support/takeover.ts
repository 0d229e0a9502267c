/**
 * A process that serves one file of four chunks until it is killed, for the tests of how another one takes over:
 * `takeover.ts PLAN`, the plan as JSON.
 *
 * Prints what its descriptors are once it serves, then a line per thing that happens.
 */
import process from "node:process";

import { loadNative, type Gate, type NativeRegion } from "../../../native/index.ts";

export interface Plan {
  readonly directory: string;
  readonly file: string;
  readonly state: string;
  readonly mode: "create" | "resume";
  /** Inherited: the region's file, and the mount's channels. */
  readonly store?: number;
  readonly channels?: readonly number[];
  /** Chunks that do not come, whoever waits for them. */
  readonly withheld: readonly number[];
  readonly gate: Gate;
  /** Ends before it serves: `unmount` in order, `exit` at once. */
  readonly before?: "unmount" | "exit";
}

export interface Serving {
  readonly restored: string;
  readonly present: number;
  readonly resent: boolean;
  readonly store: number;
  readonly channels: readonly number[];
}

const CHUNK = 65_536;
const CHUNKS = 4;
const plan = JSON.parse(process.argv[2] ?? "") as Plan;
const native = loadNative();
const key = new Uint8Array(32).fill(1);
const bytes = new Uint8Array(CHUNK).fill(7);
const hash = native.blake3(bytes, key);

let stopping = false;

const region: NativeRegion = native.openRegion({
  store:
    plan.store === undefined
      ? { kind: "file", path: plan.file, create: true, reserve: true }
      : { kind: "descriptor", fd: plan.store },
  bytes: CHUNKS * CHUNK,
  chunkBytes: CHUNK,
  hashKey: key,
  present: "none",
  gate: "open",
  state: { path: plan.state, mode: plan.mode },
  onFault: (indexes) => {
    for (const index of indexes) console.log(`fault ${index}`);
    fill(indexes.filter((index) => !plan.withheld.includes(index))).catch((error: unknown) => {
      // What the kernel reads ahead of somebody who is gone may be asked for to the last.
      if (!stopping) throw error;
    });
  },
});
region.setGate(plan.gate);

async function fill(indexes: Uint32Array): Promise<void> {
  await region.store({
    indexes,
    offsets: new Uint32Array(indexes.length),
    bytes,
    hashes: Uint8Array.from({ length: indexes.length * 32 }, (_, at) => hash[at % 32] ?? 0),
    ifAbsent: true,
  });
}

const { directory, channels } = plan;
const mount = native.mountFuse({ directory, ...(channels === undefined ? {} : { channels }) });
mount.add("region", region);
if (plan.before === "exit") process.exit(3);
if (plan.before === "unmount") {
  await mount.unmount();
  await region.close();
  process.exit(0);
}
const resent = mount.serve();
const serving: Serving = {
  restored: region.restored,
  present: region.stats().presentChunks,
  resent,
  store: region.descriptor,
  channels: mount.channels(),
};
process.on("SIGTERM", () => {
  stopping = true;
  void mount
    .unmount()
    .then(() => region.close())
    .then(() => process.exit(0));
});
process.on("SIGUSR1", () => {
  console.log("flushing");
  void mount.flush("region").then(() => console.log("flushed"));
});
setInterval(() => {
  if (!stopping && region.stats().parked > 0) console.log(`parked ${region.stats().parked}`);
}, 20);
// Last: from here on signals may come.
console.log(JSON.stringify(serving));
