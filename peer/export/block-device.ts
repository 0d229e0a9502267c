/**
 * What every block device needs from us, whoever drives it.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { open, readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The kernel's 128 KiB are a tenth of what a link with a long round trip carries. */
export const DEVICE_READ_AHEAD_BYTES = 4096 * 1024;
const REQUEST_KIB = 1024;

/** How long a workload waits for its device to be as fast as it can be. */
const TUNE_PATIENCE_MS = 100;

const SECTOR_BYTES = 512;

/** Why a region cannot be shown as a block device, `shown` being there already; `undefined` if it can. */
export function unfitForDevice(
  { name, bytes, shown }: { readonly name: string; readonly bytes: number; readonly shown: number },
  kind: "nbd" | "loop",
  wanted: string,
): string | undefined {
  if (wanted !== "auto" && shown > 0) {
    return `it is one device: give ${kind}:auto, or NAME=${kind}:/dev/${kind}N for each region`;
  }
  if (bytes % SECTOR_BYTES === 0) return undefined;
  return `region ${name} has ${bytes} bytes, and a block device whole sectors of ${SECTOR_BYTES}: use fuse:DIR`;
}

/**
 * Best effort: without the right to, the device is only slower. Waited for a moment only: the kernel lets what is
 * under way on the device end first, and that may be a read of a chunk that is still elsewhere. So this is for a new
 * device, and not for one in use.
 */
export async function tune(device: string, readAheadBytes: number): Promise<void> {
  await Promise.race([applySettings(device, readAheadBytes), sleep(TUNE_PATIENCE_MS)]);
}

async function applySettings(device: string, readAheadBytes: number): Promise<void> {
  const queue = `/sys/block/${basename(device)}/queue`;
  for (const [setting, value] of [
    ["max_sectors_kb", REQUEST_KIB],
    ["read_ahead_kb", Math.floor(readAheadBytes / 1024)],
  ] as const) {
    await writeFile(`${queue}/${setting}`, `${value}`).catch(() => undefined);
  }
}

/** What the kernel and the file systems on a device hold back has been written when this resolves. */
export async function writeBack(device: string): Promise<void> {
  for (const place of await mountedFrom(device)) await run("sync", ["--file-system", place]);
  const handle = await open(device, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Mount points of the file systems on a block device. */
async function mountedFrom(device: string): Promise<string[]> {
  const number = (await readFile(`/sys/class/block/${basename(device)}/dev`, "utf8")).trim();
  const places: string[] = [];
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const [, , at, , place] = line.split(" ");
    if (at === number && place !== undefined) places.push(unescapeOctal(place));
  }
  return places;
}

function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCodePoint(Number.parseInt(digits, 8)),
  );
}
