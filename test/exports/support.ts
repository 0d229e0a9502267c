/** Regions to export, near and far, and the programs of others that judge them. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import { onTestFinished } from "vitest";

import { loadNative, type NativeRegion } from "../../native/index.ts";

export const CHUNK = 64 << 10;
const KEY = Uint8Array.from({ length: 32 }, (_, index) => index);
const execute = promisify(execFile);

export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-exports-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** What a program said; its error output is part of what is thrown. */
export async function run(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { stdout } = await execute(program, args, {
    maxBuffer: 64 << 20,
    env: { ...process.env, ...env },
  });
  return stdout;
}

/** Bytes that repeat nowhere near, with holes of whole chunks. */
export function image(bytes: number): Buffer {
  const out = Buffer.alloc(bytes);
  let state = 0x9e3779b9;
  for (let at = 0; at + 4 <= bytes; at += 4) {
    if ((at >> 18) % 3 === 1) continue;
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    out.writeUInt32LE(state, at);
  }
  return out;
}

/** A region that has everything. */
export async function nearRegion(content: Buffer): Promise<NativeRegion> {
  const region = openRegion(content.length, "none", undefined);
  await storeAll(region, content);
  return region;
}

/**
 * A region whose chunks are elsewhere: each arrives a while after somebody asked for it. Counts what was asked
 * for, so that a test can tell that nothing is fetched twice.
 */
export function farRegion(content: Buffer): { region: NativeRegion; fetched: number[] } {
  const fetched: number[] = [];
  const region: NativeRegion = openRegion(content.length, "none", (indexes) => {
    const asked = [...indexes];
    fetched.push(...asked);
    void sleep(2).then(() => storeChunks(region, content, asked));
  });
  return { region, fetched };
}

function openRegion(
  bytes: number,
  present: "all" | "none",
  onFault: ((indexes: Uint32Array) => void) | undefined,
): NativeRegion {
  const region = loadNative().openRegion({
    store: { kind: "memory" },
    bytes,
    chunkBytes: CHUNK,
    hashKey: KEY,
    present,
    gate: "open",
    ...(onFault === undefined ? {} : { onFault }),
  });
  onTestFinished(() => region.close());
  return region;
}

async function storeAll(region: NativeRegion, content: Buffer): Promise<void> {
  for (let first = 0; first < region.chunkCount; first += 64) {
    const count = Math.min(64, region.chunkCount - first);
    await storeChunks(
      region,
      content,
      Array.from({ length: count }, (_, i) => first + i),
    );
  }
}

async function storeChunks(
  region: NativeRegion,
  content: Buffer,
  chunks: readonly number[],
): Promise<void> {
  const pieces = chunks.map((chunk) => content.subarray(chunk * CHUNK, (chunk + 1) * CHUNK));
  const hashes = new Uint8Array(chunks.length * 32);
  const offsets: number[] = [];
  let end = 0;
  for (const [i, piece] of pieces.entries()) {
    hashes.set(loadNative().blake3(piece, KEY), i * 32);
    offsets.push(end);
    end += piece.length;
  }
  await region.store({
    indexes: Uint32Array.from(chunks),
    offsets: Uint32Array.from(offsets),
    bytes: Buffer.concat(pieces),
    hashes,
    ifAbsent: true,
  });
}

/** All of it, as the owner sees it. */
export async function contentOf(region: NativeRegion): Promise<Buffer> {
  const into = Buffer.alloc(region.chunkCount * region.chunkBytes);
  await region.read(
    Uint32Array.from({ length: region.chunkCount }, (_, index) => index),
    into,
  );
  return into.subarray(0, region.bytes);
}
