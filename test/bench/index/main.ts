/**
 * What the chunk index costs on a PostgreSQL that syncs, beside what the same machine does at most in the same run.
 *
 *     npm run bench:index -- [--json] [--chunks 4194304] [--only load,append,read,fold,map,migration] [--rounds 3]
 *
 * @module
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

import { startPostgres } from "../../support/postgres.ts";
import { requireTool } from "../../support/requires.ts";
import { benchDatabase, DATABASE_SECTIONS } from "./database.ts";
import { benchMigration } from "./migration.ts";
import { show, type Figure } from "./figure.ts";

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    chunks: { type: "string", default: String(4 * 1024 * 1024) },
    only: { type: "string" },
    rounds: { type: "string", default: "3" },
    mib: { type: "string", default: "512" },
  },
});
const postgres = requireTool("postgres");
if (!postgres.available) {
  console.error(`skipped: ${postgres.skipReason}`);
  process.exit(0);
}
const all: readonly string[] = [...DATABASE_SECTIONS, "migration"];
const wanted = values.only?.split(",") ?? all;
for (const name of wanted) {
  if (!all.includes(name)) throw new Error(`--only ${name}: there are ${all.join(", ")}`);
}
const figures: Figure[] = [];
const onFigure = (figure: Figure): void => {
  figures.push(figure);
  if (!values.json) console.log(show(figure));
};
await using server = await startPostgres({ durable: true });
const rounds = Number(values.rounds);
if (wanted.some((name) => name !== "migration")) {
  await benchDatabase({ server, chunkCount: Number(values.chunks), rounds, wanted, onFigure });
}
if (wanted.includes("migration")) {
  await benchMigration({ server, mib: Number(values.mib), rounds, onFigure });
}
if (values.json) {
  console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), figures }));
}
