// `npm run check`: everything but the tests, each step even if one before it failed.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

/** What must be there, and the command. A part of the tree that is yet to come is no error. */
const steps = [
  ["tsconfig.json", "tsc"],
  ["web/tsconfig.json", "tsc -p web"],
  ["relay", "deno check relay"],
  [".oxlintrc.json", "oxlint"],
  [".oxfmtrc.json", "oxfmt --check"],
  ["knip.json", "knip"],
  ["migrations/meta/_journal.json", "drizzle-kit check"],
];

const failed = [];
for (const [needs, command] of steps) {
  if (!existsSync(needs)) {
    console.log(`\n$ ${command}\nnothing to check: no ${needs} yet`);
    continue;
  }
  console.log(`\n$ ${command}`);
  const { status } = spawnSync(command, { stdio: ["ignore", "inherit", "inherit"], shell: true });
  if (status !== 0) failed.push(command);
}

console.log(failed.length > 0 ? `\ncheck failed: ${failed.join("; ")}` : "\ncheck passed");
process.exitCode = failed.length > 0 ? 1 : 0;
