/** The NBD server against nbdkit's memory plugin, local hits only. */
import { join } from "node:path";
import { compare, type Line } from "./compare.ts";
import { fio, Processes, timed } from "./processes.ts";

const MIB = 1024;
const AGAINST = "nbdkit memory";
const CEILING = "a server of one buffer";

export async function benchNbd(
  folder: string,
  rounds: number,
  onLine: (line: Line) => void,
): Promise<void> {
  await using processes = new Processes();
  const ourSocket = join(folder, "ours.sock");
  const theirSocket = join(folder, "theirs.sock");
  await processes.server(MIB, "nbd", ourSocket);
  await processes.socketServer(
    "nbdkit",
    ["-f", "-U", theirSocket, "memory", `${MIB}M`],
    theirSocket,
  );
  const ceilingSocket = join(folder, "ceiling.sock");
  await processes.ceiling(MIB, "nbd", folder, ceilingSocket);
  const ours = `nbd+unix:///region?socket=${ourSocket}`;
  const ceiling = `nbd+unix:///?socket=${ceilingSocket}`;
  const theirs = `nbd+unix:///?socket=${theirSocket}`;
  for (const uri of [ours, theirs]) {
    await fio({
      rw: "write",
      bs: "1M",
      iodepth: 4,
      mib: MIB,
      more: ["--ioengine=nbd", `--uri=${uri}`],
    });
  }
  const jobs = [
    { rw: "randread", bs: "4k", iodepth: 1, atLeast: 1 },
    { rw: "randread", bs: "4k", iodepth: 16, atLeast: 2 },
    { rw: "randread", bs: "4k", iodepth: 64, atLeast: 1 },
    { rw: "read", bs: "1M", iodepth: 4, atLeast: 1 },
    { rw: "write", bs: "1M", iodepth: 4, atLeast: 1 },
  ] as const;
  for (const { atLeast, ...job } of jobs) {
    const small = job.bs === "4k";
    const measure = async (uri: string): Promise<number> => {
      const more = ["--ioengine=nbd", `--uri=${uri}`];
      const { iops, bytesPerSecond } = await fio({ ...job, mib: MIB, seconds: 2, more });
      return small ? iops : bytesPerSecond / 1e6;
    };
    onLine(
      await compare(
        {
          name: `nbd ${job.rw} ${job.bs} depth ${job.iodepth}`,
          unit: small ? "IOPS" : "MB/s",
          against: AGAINST,
          atLeast,
          ours: () => measure(ours),
          theirs: () => measure(theirs),
        },
        rounds,
      ),
    );
    if (!small) continue;
    onLine(
      await compare(
        {
          name: `nbd ${job.rw} ${job.bs} depth ${job.iodepth}`,
          unit: "IOPS",
          against: CEILING,
          atLeast: 0.8,
          ours: () => measure(ours),
          theirs: () => measure(ceiling),
        },
        rounds,
      ),
    );
  }
  for (const connections of [1, 4]) {
    for (const direction of ["out", "in"] as const) {
      const measure = async (uri: string): Promise<number> => {
        const [from, to] = direction === "out" ? [uri, "null:"] : [join(folder, "data"), uri];
        return (
          (MIB * 1.048576) / (await timed("nbdcopy", [`--connections=${connections}`, from, to]))
        );
      };
      onLine(
        await compare(
          {
            name: `nbdcopy ${direction} ${connections} connections`,
            unit: "MB/s",
            against: AGAINST,
            atLeast: 1,
            ours: () => measure(ours),
            theirs: () => measure(theirs),
          },
          rounds,
        ),
      );
    }
  }
}
