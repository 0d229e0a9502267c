/** Regions whose chunks are elsewhere, or have just come: what the kernel's read-ahead and its page cache give. */
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { compare, type Line } from "./compare.ts";
import type { FarOptions } from "./far-server.ts";
import { fio, Processes, type FioFigures, type FioJob } from "./processes.ts";

const MIB = 256;
/** 10 MB are under way on it. */
const PATH = { rttMs: 20, bytesPerS: 500_000_000 };

export async function benchReadAhead(
  folder: string,
  rounds: number,
  onLine: (line: Line) => void,
): Promise<void> {
  const measure = async (follows: boolean): Promise<number> => {
    const { bytesPerSecond } = await onFreshRegion(
      folder,
      { path: PATH, follows, warm: true },
      { rw: "read", bs: "1M", mib: MIB, more: ["--ioengine=psync"] },
    );
    return bytesPerSecond / 1e6;
  };
  onLine(
    await compare(
      {
        name: `fuse sequential read, ${PATH.rttMs} ms and ${PATH.bytesPerS / 1e6} MB/s away`,
        unit: "MB/s",
        against: "read-ahead of 1 MiB",
        atLeast: 2,
        ours: () => measure(true),
        theirs: () => measure(false),
      },
      rounds,
    ),
  );
}

export async function benchWarm(
  folder: string,
  rounds: number,
  onLine: (line: Line) => void,
): Promise<void> {
  for (const ioengine of ["psync", "mmap"]) {
    const measure = async (warm: boolean): Promise<number> => {
      const more = [`--ioengine=${ioengine}`, "--invalidate=0"];
      // Each page once.
      const job = { rw: "randread", bs: "4k", mib: MIB, once: true, more } as const;
      return (await onFreshRegion(folder, { warm }, job)).iops;
    };
    onLine(
      await compare(
        {
          name: `fuse first touch of what has come, ${ioengine}`,
          unit: "reads/s",
          against: "left for its reader to fetch",
          atLeast: 1,
          ours: () => measure(true),
          theirs: () => measure(false),
        },
        rounds,
      ),
    );
  }
}

/** Every chunk can be missing once only. */
async function onFreshRegion(
  folder: string,
  options: FarOptions,
  { more, ...job }: FioJob,
): Promise<FioFigures> {
  await using processes = new Processes();
  const directory = mkdtempSync(join(folder, "far-"));
  await processes.farServer(MIB, directory, options);
  const filename = `--filename=${join(directory, "region")}`;
  return await fio({ ...job, more: [...more, filename, "--readonly"] });
}
