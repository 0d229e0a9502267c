/**
 * A workload that writes at a rate and knows what must be there at the end.
 *
 * `node region-writer.ts FILE BYTES_PER_SECOND`: most writes fall on a hot spot, the rest anywhere. SIGTERM ends
 * it after the write under way; its last line has the SHA-256 of the whole file as it left it, from a copy that it
 * keeps in memory.
 *
 * @module
 */
import { createHash, randomFillSync, randomInt } from "node:crypto";
import { openSync, readFileSync, writeSync } from "node:fs";

const TICK_MS = 10;
const WRITE_BYTES = 4_096;
const HOT_BYTES = 3 * 1024 * 1024;
const HOT_PERCENT = 80;

const [path = "", rate = ""] = process.argv.slice(2);
const content = readFileSync(path);
const file = openSync(path, "r+");
const bytesPerTick = (Number(rate) * TICK_MS) / 1_000;
const startedAtMs = performance.now();
let written = 0;

const timer = setInterval(() => {
  // A tick that came late is not made up for: the rate is a ceiling.
  for (let bytes = 0; bytes < bytesPerTick; bytes += WRITE_BYTES) write();
}, TICK_MS);

process.on("SIGTERM", () => {
  clearInterval(timer);
  const seconds = (performance.now() - startedAtMs) / 1_000;
  const sha256 = createHash("sha256").update(content).digest("hex");
  console.log(JSON.stringify({ event: "stopped", sha256, written, bytesPerS: written / seconds }));
});

console.log(JSON.stringify({ event: "writing" }));

function write(): void {
  const hot = randomInt(100) < HOT_PERCENT;
  const room = Math.min(content.length, hot ? HOT_BYTES : Infinity) - WRITE_BYTES;
  const at = randomInt(Math.max(1, room));
  randomFillSync(content, at, WRITE_BYTES);
  written += writeSync(file, content, at, WRITE_BYTES, at);
}
