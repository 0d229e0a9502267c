/** The FUSE file against a plain file on tmpfs, local hits only. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compare, type Line } from "./compare.ts";
import { fio, Processes } from "./processes.ts";

const MIB = 512;
const AGAINST = "a file on tmpfs";

export async function benchFuse(
  folder: string,
  rounds: number,
  onLine: (line: Line) => void,
): Promise<void> {
  const directory = join(folder, "mount");
  mkdirSync(directory);
  const theirs = `/dev/shm/memferry-bench-${process.pid}`;
  await using processes = new Processes();
  await processes.server(MIB, "fuse", directory);
  const ceilingDirectory = join(folder, "ceiling");
  mkdirSync(ceilingDirectory);
  await processes.ceiling(MIB, "fuse", folder, ceilingDirectory);
  raiseReadAhead(ceilingDirectory);
  const ours = join(directory, "region");
  const ceiling = join(ceilingDirectory, "region");
  const file = (path: string): string[] => [`--filename=${path}`];
  try {
    for (const path of [ours, theirs]) {
      await fio({ rw: "write", bs: "1M", mib: MIB, more: [...file(path), "--end_fsync=1"] });
    }
    const cold = async (path: string): Promise<number> => {
      // fio drops the cache of the file first; tmpfs has none to drop.
      const more = [...file(path), "--ioengine=psync", "--invalidate=1"];
      return (await fio({ rw: "read", bs: "1M", mib: MIB, more })).bytesPerSecond / 1e6;
    };
    onLine(
      await compare(
        {
          name: "fuse sequential read, cold page cache",
          unit: "MB/s",
          against: AGAINST,
          atLeast: 0.6,
          ours: () => cold(ours),
          theirs: () => cold(theirs),
        },
        rounds,
      ),
    );
    onLine(
      await compare(
        {
          name: "fuse sequential read, cold page cache",
          unit: "MB/s",
          against: "a server of one buffer",
          atLeast: 0.9,
          ours: () => cold(ours),
          theirs: () => cold(ceiling),
        },
        rounds,
      ),
    );
    const warm = async (path: string): Promise<number> => {
      const hits = ["--ioengine=mmap", "--invalidate=0", "--allrandrepeat=1"];
      // The ramp touches every page several times: both sides begin with all of them mapped.
      const more = [...file(path), ...hits, "--ramp_time=1"];
      return (await fio({ rw: "randread", bs: "4k", mib: MIB, seconds: 3, more })).iops;
    };
    onLine(
      await compare(
        {
          name: "fuse mmap hit after the first touch",
          unit: "reads/s",
          against: AGAINST,
          atLeast: 1,
          ours: () => warm(ours),
          theirs: () => warm(theirs),
        },
        rounds,
      ),
    );
  } finally {
    rmSync(theirs, { force: true });
  }
}

/** To what the addon has. */
function raiseReadAhead(directory: string): void {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  const [, , device = ""] =
    mounts.find((line) => line.includes(` ${directory} `))?.split(" ") ?? [];
  writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, "1024");
}
