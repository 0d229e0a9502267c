/**
 * What a local hit costs through each export, against somebody else's server or a plain file in the same run.
 *
 *     npm run bench:region -- [--json] [--only nbd,fuse,readahead,warm,file,uffd] [--rounds 3]
 *
 * @module
 */
import { writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  requireFuse,
  requireRoot,
  requireTool,
  requireUffd,
  type Requirement,
} from "../../support/requires.ts";
import type { Line } from "./compare.ts";
import { benchReadAhead, benchWarm } from "./far.ts";
import { benchFile } from "./file.ts";
import { benchFuse } from "./fuse.ts";
import { benchNbd } from "./nbd.ts";
import { benchUffd } from "./uffd.ts";

interface Section {
  readonly needs: readonly Requirement[];
  readonly run: (folder: string, rounds: number, onLine: (line: Line) => void) => Promise<void>;
}

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    only: { type: "string" },
    rounds: { type: "string", default: "3" },
  },
});
const sections: Readonly<Record<string, Section>> = {
  nbd: {
    needs: [requireTool("fio"), requireTool("nbdkit"), requireTool("nbdcopy"), requireTool("cc")],
    run: benchNbd,
  },
  fuse: {
    needs: [requireTool("fio"), requireTool("cc"), requireFuse(), requireRoot()],
    run: benchFuse,
  },
  readahead: { needs: [requireTool("fio"), requireFuse(), requireRoot()], run: benchReadAhead },
  warm: { needs: [requireTool("fio"), requireFuse()], run: benchWarm },
  file: { needs: [requireFuse()], run: benchFile },
  uffd: { needs: [requireUffd("async"), requireTool("cc")], run: benchUffd },
};
const wanted = values.only?.split(",") ?? Object.keys(sections);
const folder = mkdtempSync(join(tmpdir(), "memferry-bench-"));
writeFileSync(join(folder, "data"), Buffer.alloc(1 << 30, "memferry"));
const lines: Line[] = [];
const skipped: string[] = [];
try {
  for (const name of wanted) {
    const section = sections[name];
    if (section === undefined)
      throw new Error(`--only ${name}: there are ${Object.keys(sections).join(", ")}`);
    const missing = section.needs.filter(({ available }) => !available);
    if (missing.length > 0) {
      skipped.push(`${name}: ${missing.map(({ skipReason }) => skipReason).join("; ")}`);
      continue;
    }
    await section.run(folder, Number(values.rounds), (line) => {
      lines.push(line);
      if (!values.json) print(line);
    });
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
for (const why of skipped) console.error(`skipped: ${why}`);
if (values.json) {
  console.log(
    JSON.stringify({ node: process.version, cores: availableParallelism(), lines, skipped }),
  );
}

function print({ name, ours, theirs, ratio, unit, against, atLeast }: Line): void {
  const mark = ratio >= atLeast ? "" : `  below ${atLeast}`;
  const figure = (value: number): string => value.toFixed(0).padStart(9);
  console.log(
    `${name.padEnd(40)}${figure(ours)} ${unit}, ${against}${figure(theirs)}: ${ratio.toFixed(2)}${mark}`,
  );
}
