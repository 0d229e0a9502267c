/**
 * What a user of `--export file:PATH` has to know, on either side.
 *
 * @module
 */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { NativeRegion } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import type { Look, ScannedWrites } from "../export/scanned-writes.ts";
import { usage } from "./command-line.ts";
import type { Output } from "./output.ts";
import { formatBytes, formatDuration } from "./size.ts";

/** Hashed to tell in advance what a look takes. */
const SAMPLE_BYTES = 32 * 1024 * 1024;

/** Tells what a look costs and what is not seen. */
export async function warnOfScans(
  output: Output,
  file: {
    readonly path: string;
    readonly region: NativeRegion;
    readonly writes: ScannedWrites;
    readonly suspended: boolean;
  },
): Promise<void> {
  const { path, region, writes, suspended } = file;
  const lookMs = await estimateMs(region);
  const { sharedBy } = writes.fileSystem;
  const lines = [
    `${path}: each look for writes reads and hashes up to ${formatBytes(region.bytes)}, about ${formatDuration(lookMs)}, in every round and while the workload stands still; reads are not caught`,
    suspended
      ? "what is written after --on-suspend has ended is lost"
      : "what is written after the last look is lost: add --on-suspend CMD that stops the programs that write",
    ...(sharedBy === undefined
      ? []
      : [
          `it is on ${sharedBy}: what another host writes there may not be seen here; stop those too`,
        ]),
  ];
  warn(output, lines.join("; "), { path, lookBytes: region.bytes, lookMs });
}

/** Told after each look. */
export function showLook(output: Output, path: string, look: Look): void {
  output.event({ event: "look", path, ...look });
}

export function warnOfReceiving(output: Output, path: string, bytes: number): void {
  const text = `${path} is written in place, ${formatBytes(bytes)}: who reads or maps it sees it change, and nothing holds them back until the migration is done`;
  warn(output, text, { path });
}

/** Before the ticket is used up. @throws MigrationError `USAGE`: what keeps a region from being received there */
export async function requireReceivable(path: string): Promise<void> {
  const option = `--export file:${path}`;
  const found = await stat(path).catch(() => undefined);
  if (found !== undefined && !found.isFile()) throw usage(notPlain(option, found));
  const [target, what] = found === undefined ? [dirname(path), "its folder"] : [path, "it"];
  const rights =
    found === undefined ? constants.W_OK | constants.X_OK : constants.R_OK | constants.W_OK;
  await access(target, rights).catch((cause: unknown) => {
    throw usage(
      `${option}: ${messageOf(cause)}: make ${what} first, with the right to read and write it, or give another path`,
    );
  });
}

/** Why something cannot be a region, and what can. */
export function notPlain(option: string, found: { isBlockDevice(): boolean }): string {
  return found.isBlockDevice()
    ? `${option} is a block device and not a file: copy it into one, and show that as a device with --export nbd:auto or loop:auto`
    : `${option} is not a file: give the path of one`;
}

function warn(output: Output, message: string, details: Readonly<Record<string, unknown>>): void {
  output.event({ event: "warning", code: "FILE_EXPORT", message, ...details });
  output.note(`warning: ${message}`);
}

/** Milliseconds of a look, by hashing chunks from all over the region. */
async function estimateMs(region: NativeRegion): Promise<number> {
  const { chunkBytes, chunkCount } = region;
  const count = Math.min(chunkCount, Math.max(1, Math.floor(SAMPLE_BYTES / chunkBytes)));
  const startedAtMs = performance.now();
  await region.hash(
    Uint32Array.from({ length: count }, (_, i) => Math.floor((i * chunkCount) / count)),
  );
  return ((performance.now() - startedAtMs) * chunkCount) / count;
}
