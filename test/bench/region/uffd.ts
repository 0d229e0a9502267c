/** Page faults against the smallest handler in C, and finding written pages against hashing them all. */
import { execFile, execFileSync } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { loadNative, shimPath, type NativeRegion } from "../../../native/index.ts";
import { KEY, memoryRegion } from "../../support/regions.ts";
import { compare, median, type Line } from "./compare.ts";

const MIB = 1 << 20;
const PAGE = 4096;
const FAULT_BYTES = 128 * MIB;
const SCAN_BYTES = 1024 * MIB;
const SCAN_CHUNK_BYTES = 64 << 10;
const WRITTEN_RATIO = 0.1;
/** What finding that much may take. */
const SCAN_MS = 5;

const run = promisify(execFile);

export async function benchUffd(
  folder: string,
  rounds: number,
  onLine: (line: Line) => void,
): Promise<void> {
  const program = join(folder, "faults");
  const source = `${import.meta.dirname}/faults.c`;
  execFileSync("cc", ["-O2", "-o", program, source, "-pthread"]);
  for (const step of [4 << 10, 64 << 10]) {
    const touch = async (how: string, env: NodeJS.ProcessEnv = {}): Promise<number> => {
      const args = [String(FAULT_BYTES), String(step), how];
      return Number((await run(program, args, { env: { ...process.env, ...env } })).stdout);
    };
    onLine(
      await compare(
        {
          name: `uffd faults of ${step / 1024} KiB, random`,
          unit: "faults/s",
          against: "a minimal C handler",
          atLeast: 0.8,
          ours: () => served(step, folder, (environment) => touch("mapped", environment)),
          theirs: () => touch("own"),
        },
        rounds,
      ),
    );
  }
  for (const line of await benchScan(rounds)) onLine(line);
}

/** Runs a program whose memory is a region of ones. */
async function served(
  chunkBytes: number,
  folder: string,
  touch: (environment: NodeJS.ProcessEnv) => Promise<number>,
): Promise<number> {
  const region = memoryRegion({ bytes: FAULT_BYTES, chunkBytes, present: "none" });
  await fill(region);
  const server = loadNative().serveUffd({ path: join(folder, "uffd.sock") });
  server.add("region", region);
  try {
    return await touch({
      LD_PRELOAD: shimPath(),
      MEMFERRY_UFFD: server.path,
      MEMFERRY_MAP: `anon:${FAULT_BYTES}`,
    });
  } finally {
    await server.stop();
    await region.close();
  }
}

async function fill(region: NativeRegion): Promise<void> {
  const bytes = new Uint8Array(region.chunkBytes).fill(1);
  const hash = loadNative().blake3(bytes, KEY);
  const hashes = new Uint8Array(region.chunkCount * hash.length);
  for (let i = 0; i < region.chunkCount; i++) hashes.set(hash, i * hash.length);
  await region.store({
    indexes: Uint32Array.from({ length: region.chunkCount }, (_, index) => index),
    offsets: new Uint32Array(region.chunkCount),
    bytes,
    hashes,
    ifAbsent: true,
  });
}

async function benchScan(rounds: number): Promise<Line[]> {
  const region = memoryRegion({ bytes: SCAN_BYTES, chunkBytes: SCAN_CHUNK_BYTES, threads: 1 });
  const mapping = loadNative().mapRegion(region);
  const memory = new Uint8Array(mapping.memory);
  for (let at = 0; at < SCAN_BYTES; at += PAGE) memory[at] = 1;
  await mapping.flush();
  const all = Uint32Array.from({ length: region.chunkCount }, (_, index) => index);
  const scanMs: number[] = [];
  const hashMs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const pages = Math.floor((SCAN_BYTES / PAGE) * WRITTEN_RATIO);
    for (let i = 0; i < pages; i++)
      memory[Math.floor(Math.random() * (SCAN_BYTES / PAGE)) * PAGE] = i;
    let begin = performance.now();
    await mapping.flush();
    scanMs.push(performance.now() - begin);
    begin = performance.now();
    await region.hash(all);
    hashMs.push(performance.now() - begin);
  }
  await mapping.unmap();
  await region.close();
  const scan = median(scanMs);
  const line = (against: string, theirMs: number, atLeast: number): Line => ({
    name: "uffd dirty scan of 1 GiB, 10 % written",
    unit: "scans/s",
    against,
    atLeast,
    ours: 1000 / scan,
    theirs: 1000 / theirMs,
    ratio: theirMs / scan,
  });
  return [
    line(`one in ${SCAN_MS} ms`, SCAN_MS, 1),
    line("hashing it, one thread each", median(hashMs), 100),
  ];
}
