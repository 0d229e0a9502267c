/**
 * `memferry verify`: are two regions the same, or is one what a session's manifest says?
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { loadNative, type NativeRegion } from "../../native/index.ts";
import { toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { MigrationError } from "../errors.ts";
import { Manifest } from "../migration/manifest.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { findSession, STATE_OPTIONS } from "./resumption.ts";

const CHUNK_BYTES_DEFAULT = 64 * 1024;
const HASH_BATCH_CHUNKS = 256;
const RANGES_MAX = 20;

export const verifySpec: CommandSpec = {
  name: "verify",
  usage: "FILE (OTHER | --session SESSION [--region NAME]) [options]",
  summary: "Compares two regions, or a region with the manifest that its migration left here.",
  positionalsMax: 2,
  options: {
    session: { value: "SESSION", help: "compare with what this session received, chunk by chunk" },
    region: { value: "NAME", help: "which of the session's regions (default: the first)" },
    chunk: { value: "SIZE", help: "unit of the comparison of two files (default 64KiB)" },
    "state-dir": STATE_OPTIONS["state-dir"],
  },
  examples: [
    ["memferry verify disk.img copy.img", "two files"],
    ["memferry verify disk.img --session 3f9a", "a received file that nobody has written since"],
  ],
  notes: ["Exit status: 0 equal; 1 different; 2 usage."],
};

interface Comparison {
  readonly chunkBytes: number;
  readonly here: Manifest;
  readonly there: Manifest;
}

export async function verify(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [file, other] = args.positionals;
  const session = args.text("session");
  if (file === undefined || (other === undefined) === (session === undefined)) {
    throw usage("give two files, or one and --session SESSION");
  }
  const comparison =
    other === undefined
      ? await withManifest(args, file, session ?? "")
      : await twoFiles(args, file, other);
  return show(output, comparison);
}

async function twoFiles(args: Arguments, file: string, other: string): Promise<Comparison> {
  const chunkBytes = args.size("chunk") ?? CHUNK_BYTES_DEFAULT;
  const hashKey = randomBytes(32);
  const [bytes, otherBytes] = [await sizeOf(file), await sizeOf(other)];
  if (bytes !== otherBytes) {
    throw new MigrationError(
      "REGION_MISMATCH",
      `${file} has ${bytes} bytes and ${other} ${otherBytes}: they are not the same`,
    );
  }
  const hashed = async (path: string): Promise<Manifest> =>
    await manifestOf({ path, bytes, chunkBytes, hashKey });
  return { chunkBytes, here: await hashed(file), there: await hashed(other) };
}

async function withManifest(args: Arguments, file: string, session: string): Promise<Comparison> {
  const directory = await findSession(args, session);
  if (directory.role !== "leecher") {
    throw usage(`session ${directory.id} was a seeder here: the manifest is at the destination`);
  }
  const offer = (await directory.leecherJournal()).record?.offer;
  const name = args.text("region") ?? offer?.regions[0]?.name;
  const region = offer?.regions.find((each) => each.name === name);
  if (offer === undefined || region === undefined) {
    throw usage(`session ${directory.id} has no region ${name ?? ""}`);
  }
  const bytes = await sizeOf(file);
  if (bytes !== region.bytes) {
    throw new MigrationError(
      "REGION_MISMATCH",
      `${file} has ${bytes} bytes and region ${region.name} ${region.bytes}: they are not the same`,
    );
  }
  const { chunkBytes, hashKey } = offer;
  const state = directory.statePath(region.name);
  const told = new Manifest(Math.ceil(bytes / chunkBytes), keyed(hashKey));
  const here = await manifestOf({ path: file, bytes, chunkBytes, hashKey, state }, (opened) => {
    const hashes = opened.storedHashes();
    for (let index = 0; index < told.chunkCount; index++) {
      told.set(index, 1, hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES));
    }
  });
  return { chunkBytes, here, there: told };
}

async function manifestOf(
  file: {
    readonly path: string;
    readonly bytes: number;
    readonly chunkBytes: number;
    readonly hashKey: Uint8Array;
    readonly state?: string;
  },
  look?: (region: NativeRegion) => void,
): Promise<Manifest> {
  const { path, bytes, chunkBytes, hashKey, state } = file;
  const region = loadNative().openRegion({
    store: { kind: "file", path, create: false, reserve: false, readOnly: true },
    bytes,
    chunkBytes,
    hashKey,
    present: "none",
    gate: "closed",
    ...(state === undefined ? {} : { state: { path: state, mode: "resume" } }),
  });
  try {
    look?.(region);
    const manifest = new Manifest(region.chunkCount, keyed(hashKey));
    for (let first = 0; first < region.chunkCount; first += HASH_BATCH_CHUNKS) {
      const count = Math.min(HASH_BATCH_CHUNKS, region.chunkCount - first);
      const indexes = Uint32Array.from({ length: count }, (_, i) => first + i);
      const { hashes } = await region.hash(indexes);
      indexes.forEach((index, i) =>
        manifest.set(index, 1, hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES)),
      );
    }
    return manifest;
  } finally {
    await region.close();
  }
}

function show(output: Output, { chunkBytes, here, there }: Comparison): ExitCodeValue {
  const ranges: { first: number; count: number }[] = [];
  let different = 0;
  for (let index = 0; index < here.chunkCount; index++) {
    if (Buffer.compare(here.hash(index), there.hash(index)) === 0) continue;
    different++;
    const last = ranges.at(-1);
    if (last !== undefined && last.first + last.count === index) last.count++;
    else ranges.push({ first: index, count: 1 });
  }
  const roots = [here, there].map((manifest) => toHex(manifest.root() ?? new Uint8Array(0)));
  const facts = { chunks: here.chunkCount, chunkBytes, different, roots };
  output.event({ event: "verified", ...facts, ranges: ranges.slice(0, RANGES_MAX) });
  output.result(
    different === 0
      ? `equal: ${here.chunkCount} chunks, root ${roots[0] ?? ""}`
      : `different: ${different} of ${here.chunkCount} chunks; roots ${roots.join(" and ")}`,
  );
  for (const { first, count } of ranges.slice(0, RANGES_MAX)) {
    output.result(`  chunks ${first} to ${first + count - 1}, from byte ${first * chunkBytes}`);
  }
  if (ranges.length > RANGES_MAX) output.result(`  and ${ranges.length - RANGES_MAX} more ranges`);
  return different === 0 ? ExitCode.done : ExitCode.failed;
}

function keyed(hashKey: Uint8Array): (data: Uint8Array) => Uint8Array {
  return (data) => loadNative().blake3(data, hashKey);
}

async function sizeOf(path: string): Promise<number> {
  const found = await stat(path).catch((cause: unknown) => {
    throw usage(`${path}: ${messageOf(cause)}`);
  });
  if (!found.isFile() || found.size === 0) throw usage(`${path} is no file with anything in it`);
  return found.size;
}
