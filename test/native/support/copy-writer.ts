/**
 * Writes to chunks 1, 3 and 5 of a region in the folder that is named, settles 1 and 3, writes 3 once more, and waits to
 * be killed.
 *
 * @module
 */
import path from "node:path";

import { loadNative } from "../../../native/index.ts";
import { CHUNK, KEY } from "../../support/regions.ts";
import { NbdClient } from "./nbd-client.ts";

const CHUNKS = 8;
/** Of 1, 3 and 5; and of 1 and 3. */
const [WRITTEN, SETTLED] = [Uint8Array.of(0b10_1010), Uint8Array.of(0b1010)];
const [, , folder = ""] = process.argv;
const region = loadNative().openRegion({
  store: { kind: "file", path: path.join(folder, "bytes"), create: true, reserve: false },
  state: { path: path.join(folder, "state"), mode: "create", writes: true },
  bytes: CHUNKS * CHUNK,
  chunkBytes: CHUNK,
  hashKey: KEY,
  present: "none",
  gate: "open",
  onSync: () => undefined,
});
region.setPresent(WRITTEN);
const server = loadNative().serveNbd({ listen: { path: path.join(folder, "sock") } });
server.add("r", region);
const client = await NbdClient.open(server.address, "r");
for (const chunk of [1, 3, 5]) await client.write(chunk * CHUNK, Buffer.alloc(4096, chunk));
region.takeDirty();
await client.write(3 * CHUNK, Buffer.alloc(4096, 33));
region.settleWritten(SETTLED);
process.send?.("written");
setInterval(() => undefined, 1_000);
