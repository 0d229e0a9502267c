/**
 * A process that serves one file of four chunks at DIRECTORY until it is killed, for the tests of how another one
 * takes over: `takeover.ts DIRECTORY FILE STATE create|resume [STORE CHANNEL...]`.
 *
 * The last chunk comes only to the process that resumes. Prints what its descriptors are, and when it serves.
 */
import process from "node:process";

import { loadNative, type NativeRegion } from "../../../native/index.ts";

const CHUNK = 65_536;
const CHUNKS = 4;
const [directory = "", file = "", state = "", mode = "", ...descriptors] = process.argv.slice(2);
const [store, ...channels] = descriptors.map(Number);
const native = loadNative();
const key = new Uint8Array(32).fill(1);
const bytes = new Uint8Array(CHUNK).fill(7);
const hash = native.blake3(bytes, key);

const region: NativeRegion = native.openRegion({
  store:
    store === undefined
      ? { kind: "file", path: file, create: true, reserve: true }
      : { kind: "descriptor", fd: store },
  bytes: CHUNKS * CHUNK,
  chunkBytes: CHUNK,
  hashKey: key,
  present: "none",
  gate: "open",
  state: { path: state, mode: mode === "create" ? "create" : "resume" },
  onFault: (indexes) => void fill(indexes.filter((index) => index < 3 || mode === "resume")),
});

async function fill(indexes: Uint32Array): Promise<void> {
  await region.store({
    indexes,
    offsets: new Uint32Array(indexes.length),
    bytes,
    hashes: Uint8Array.from({ length: indexes.length * 32 }, (_, at) => hash[at % 32] ?? 0),
    ifAbsent: true,
  });
}

const mount = native.mountFuse(channels.length === 0 ? { directory } : { directory, channels });
mount.add("region", region);
const resent = mount.serve();
console.log(
  JSON.stringify({
    restored: region.restored,
    present: region.stats().presentChunks,
    resent,
    store: region.descriptor,
    channels: mount.channels(),
  }),
);
process.on("SIGTERM", () => {
  void mount
    .unmount()
    .then(() => region.close())
    .then(() => process.exit(0));
});
setInterval(() => undefined, 1000);
