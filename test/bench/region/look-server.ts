/** A region of memory as a FUSE file; for each line on standard input it takes what is dirty: `look-server.ts MIB DIRECTORY`. */
import process from "node:process";
import { createInterface } from "node:readline";
import { loadNative } from "../../../native/index.ts";

const [mib = "", directory = ""] = process.argv.slice(2);
const region = loadNative().openRegion({
  store: { kind: "memory" },
  bytes: Number(mib) << 20,
  chunkBytes: 64 << 10,
  hashKey: new Uint8Array(32),
  present: "all",
  gate: "open",
});
const mount = loadNative().mountFuse({ directory });
mount.add("region", region);
console.log("ready");
for await (const _ of createInterface({ input: process.stdin })) {
  const begin = performance.now();
  await mount.flush("region");
  const bitmap = region.takeDirty();
  const ms = performance.now() - begin;
  let chunks = 0;
  for (const byte of bitmap) for (let bits = byte; bits > 0; bits &= bits - 1) chunks++;
  console.log(JSON.stringify({ ms, chunks }));
}
await mount.unmount();
await region.close();
process.exit(0);
