/**
 * Serves one region over FUSE whose chunks are on the other side of a path that is made up here, until its parent
 * goes: `far-server.ts MIB DIRECTORY OPTIONS`.
 *
 * @module
 */
import process from "node:process";
import { loadNative } from "../../../native/index.ts";
import { readAheadBytes, ReadAhead, type PeerPath } from "../../../peer/export/read-ahead.ts";

export interface FarOptions {
  /** Chunks come when somebody asks. Without it all have come before anybody is let in. */
  readonly path?: PeerPath;
  /** The kernel reads ahead as far as that path is long. */
  readonly follows?: boolean;
  /** What comes goes into the page cache. */
  readonly warm: boolean;
}

const CHUNK_BYTES = 64 << 10;
const MIB = 1024 * 1024;
const [mib = "", directory = "", text = "{}"] = process.argv.slice(2);
const { path, follows = false, warm } = JSON.parse(text) as FarOptions;
const native = loadNative();
const hashKey = new Uint8Array(32);
const chunk = new Uint8Array(CHUNK_BYTES).fill(0x66);
const hash = native.blake3(chunk, hashKey);
/** When the path has carried all that was asked of it. */
let freeAtMs = 0;

const region = native.openRegion({
  store: { kind: "memory" },
  bytes: Number(mib) * MIB,
  chunkBytes: CHUNK_BYTES,
  hashKey,
  present: "none",
  gate: "open",
  onFault: (indexes) => {
    if (path === undefined) return;
    for (let start = 0; start < indexes.length; start += 16) {
      const some = indexes.slice(start, start + 16);
      const nowMs = performance.now();
      freeAtMs = Math.max(freeAtMs, nowMs) + (some.length * CHUNK_BYTES * 1000) / path.bytesPerS;
      setTimeout(() => void bring(some), freeAtMs - nowMs + path.rttMs);
    }
  },
});
const mount = native.mountFuse({ directory, warm });
mount.add("region", region);
if (path !== undefined && follows) {
  new ReadAhead(readAheadBytes({ rttMs: 0, bytesPerS: 0 }, MIB), (bytes) => {
    if (!mount.setReadAhead(bytes)) throw new Error("the read-ahead cannot be set: run as root");
  }).follow(path);
}
if (path === undefined) {
  for (let start = 0; start < region.chunkCount; start += 64) {
    await bring(Uint32Array.from({ length: 64 }, (_, i) => start + i));
  }
  // All of it is in the cache, or nothing ever will be.
  while (warm && region.stats().bytesRead < region.bytes) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
console.log("ready");
process.stdin.resume();
process.stdin.once("end", () => {
  void mount
    .unmount()
    .then(() => region.close())
    .then(() => process.exit(0));
});

async function bring(indexes: Uint32Array): Promise<void> {
  const hashes = new Uint8Array(indexes.length * 32);
  for (let i = 0; i < indexes.length; i++) hashes.set(hash, i * 32);
  await region.store({
    indexes,
    offsets: new Uint32Array(indexes.length),
    bytes: chunk,
    hashes,
    ifAbsent: true,
  });
}
