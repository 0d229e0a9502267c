/**
 * Serves a region as an NBD device until it is told to end: `server.ts FILE SESSION WANTED HAVE`. `HAVE` is `all`,
 * or `none`: then chunks come when a line is written to standard input. `WANTED` may be `ioctl`: the older way.
 */
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { loadNative } from "../../native/index.ts";
import { NbdKernelPlace } from "../../peer/export/nbd-kernel.ts";

const CHUNK = 64 << 10;
const BYTES = 16 << 20;
const KEY = new Uint8Array(32);
const [file = "", session = "", wanted = "", have = ""] = process.argv.slice(2);

const native = loadNative();
const region = native.openRegion({
  store: { kind: "file", path: file, create: true, reserve: false },
  bytes: BYTES,
  chunkBytes: CHUNK,
  hashKey: KEY,
  present: have === "all" ? "all" : "none",
  gate: "open",
});
const shown = await show();
console.log(`attached ${shown.path}`);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "fill") {
    // Every chunk: its number in every byte.
    for (let index = 0; index < region.chunkCount; index++) {
      const bytes = Buffer.alloc(CHUNK, index);
      await region.store({
        indexes: Uint32Array.of(index),
        offsets: Uint32Array.of(0),
        bytes,
        hashes: native.blake3(bytes, KEY),
        ifAbsent: true,
      });
    }
    console.log("filled");
  } else if (line === "stats") {
    console.log(`stats ${JSON.stringify(region.stats())}`);
  } else {
    break;
  }
}
await shown.close();
await region.close();
console.log("closed");
process.stdout.end();
await once(process.stdout, "finish");
process.exit(0);

async function show(): Promise<{ path: string; close: () => Promise<void> }> {
  if (wanted === "ioctl") {
    const device = await native.attachNbd(region, { identifier: "", via: "ioctl" });
    return { path: device.path, close: () => device.detach() };
  }
  const place = new NbdKernelPlace(wanted, session);
  place.add("disk", region);
  await place.attach();
  return { path: place.pathOf("disk"), close: () => place.close() };
}
