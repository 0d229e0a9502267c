/** Serves one region of memory, filled, until its parent goes: `server.ts MIB nbd SOCKET` or `server.ts MIB fuse DIRECTORY`. */
import process from "node:process";
import { loadNative } from "../../../native/index.ts";

const [mib = "", kind = "", place = ""] = process.argv.slice(2);
const native = loadNative();
const region = native.openRegion({
  store: { kind: "memory" },
  bytes: Number(mib) << 20,
  chunkBytes: 64 << 10,
  hashKey: new Uint8Array(32),
  present: "all",
  gate: "open",
});
let stop: () => Promise<void>;
if (kind === "nbd") {
  const server = native.serveNbd({ listen: { path: place } });
  server.add("region", region);
  stop = () => server.stop();
} else {
  const mount = native.mountFuse({ directory: place });
  mount.add("region", region);
  stop = () => mount.unmount();
}
console.log("ready");
process.stdin.resume();
process.stdin.once("end", () => {
  void stop()
    .then(() => region.close())
    .then(() => process.exit(0));
});
