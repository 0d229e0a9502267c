/** The suite of exports over `nbd:auto`, in a guest: run by `test/exports/guest.test.ts`. */
import { mkdtempSync, rmSync } from "node:fs";
import process from "node:process";
import { exportCases, type ExportUnderTest } from "../compliance/export.ts";
import { compile, ProgramUser } from "../support/export-users.ts";
import { showRegion } from "../support/shown-region.ts";

const programs = mkdtempSync("/dev/shm/memferry-programs-");
const program = compile("export-user", programs);
const under: ExportUnderTest = {
  name: "nbd:auto",
  granularity: 512,
  users: 4,
  canMap: true,
  canRefuse: true,
  show: (region) =>
    showRegion(region, { spec: () => "nbd:auto", user: (at) => new ProgramUser(program, [at]) }),
};

let failed = 0;
for (const { name, run, unfit } of exportCases) {
  const why = unfit?.(under);
  try {
    if (why === undefined) await run(under);
    console.log(`ok ${name}${why === undefined ? "" : ` # skipped: ${why}`}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${name}: ${error instanceof Error ? error.stack : String(error)}`);
  }
}
rmSync(programs, { recursive: true, force: true });
process.exit(failed === 0 ? 0 : 1);
