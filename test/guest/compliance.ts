/**
 * The suite of exports over a kernel NBD device, in a guest: run by `test/exports/guest.test.ts`. With `ioctl` the kernel
 * is told in the older way.
 */
import { mkdtempSync, rmSync } from "node:fs";
import process from "node:process";
import { loadNative } from "../../native/index.ts";
import { writeBack } from "../../peer/export/block-device.ts";
import { exportCases, type ExportUnderTest } from "../compliance/export.ts";
import { compile, ProgramUser } from "../support/export-users.ts";
import { showRegion } from "../support/shown-region.ts";

const programs = mkdtempSync("/dev/shm/memferry-programs-");
const program = compile("export-user", programs);
const kind = { granularity: 512, users: 4, canMap: true, canRefuse: true };
const byNetlink: ExportUnderTest = {
  ...kind,
  name: "nbd:auto",
  show: (region) =>
    showRegion(region, { spec: () => "nbd:auto", user: (at) => new ProgramUser(program, [at]) }),
};
const byIoctl: ExportUnderTest = {
  ...kind,
  name: "nbd, by ioctl",
  async show(region) {
    const device = await loadNative().attachNbd(region, { identifier: "", via: "ioctl" });
    if (device.via !== "ioctl") throw new Error(`attached by ${device.via}`);
    return {
      place: {
        flush: () => writeBack(device.path),
        invalidate: () => Promise.resolve(),
      },
      user: () => Promise.resolve(new ProgramUser(program, [device.path])),
      [Symbol.asyncDispose]: () => device.detach(),
    };
  },
};
const under = process.argv[2] === "ioctl" ? byIoctl : byNetlink;

let failed = 0;
for (const { name, run, unfit } of exportCases) {
  if (unfit?.(under) !== undefined) continue;
  try {
    await run(under);
    console.log(`ok ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${name}: ${error instanceof Error ? error.stack : String(error)}`);
  }
}
rmSync(programs, { recursive: true, force: true });
process.exit(failed === 0 ? 0 : 1);
