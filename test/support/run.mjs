// Runs the suites in turn and adds them up: `node test/support/run.mjs [SET] [vitest arguments]`.
//
// The last line is always `N passed, N failed, N skipped`; the exit code is 0 only if something
// passed and nothing failed. Each suite is its own process, so that one that crashes or hangs costs
// itself alone.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const MINUTE_MS = 60_000;

/**
 * @typedef {object} Suite
 * @property {string} name
 * @property {string[]} command The runtime, with its flags.
 * @property {string[]} args For vitest.
 * @property {number} limitMs A suite still running then is killed and counted as one failure.
 */

const node = [process.execPath];
// The file itself and not the link in .bin, so that the process we can kill is Deno.
const deno = ["node_modules/deno/deno", "run", "--allow-all", "--no-prompt"];

/** @type {Record<string, Suite[]>} */
const sets = {
  default: [
    { name: "unit", command: node, args: ["--project", "unit"], limitMs: 15 * MINUTE_MS },
    { name: "deno", command: deno, args: ["--project", "deno"], limitMs: 10 * MINUTE_MS },
    { name: "e2e", command: node, args: ["--project", "e2e"], limitMs: 20 * MINUTE_MS },
  ],
  exports: [
    { name: "exports", command: node, args: ["--project", "exports"], limitMs: 20 * MINUTE_MS },
  ],
  browser: [
    { name: "browser", command: node, args: ["--project", "browser"], limitMs: 20 * MINUTE_MS },
  ],
  abuse: [{ name: "abuse", command: node, args: ["--project", "abuse"], limitMs: 20 * MINUTE_MS }],
  stores: [
    { name: "stores", command: node, args: ["--project", "stores"], limitMs: 20 * MINUTE_MS },
  ],
  nbd: [
    {
      name: "nbd",
      command: node,
      args: ["--project", "exports", "test/exports/nbd"],
      limitMs: 15 * MINUTE_MS,
    },
  ],
  long: [{ name: "long", command: node, args: ["--project", "long"], limitMs: 60 * MINUTE_MS }],
};

const extra = process.argv.slice(2);
const suites = sets[extra[0] ?? ""] ?? sets["default"] ?? [];
if (sets[extra[0] ?? ""] !== undefined) extra.shift();

const scratch = mkdtempSync(path.join(tmpdir(), "memferry-test-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));

/** @param {Suite} suite @returns {Promise<{passed: number, failed: number, skipped: number, skips: string[]}>} */
async function run(suite) {
  const summary = path.join(scratch, `${suite.name}.json`);
  const [file, ...flags] = suite.command;
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--passWithNoTests"];
  const child = spawn(file, [...flags, ...vitest, ...suite.args, ...extra], {
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, MEMFERRY_TEST_SUMMARY: summary },
  });

  let why = "";
  const timer = setTimeout(() => {
    why = `still running after ${suite.limitMs / MINUTE_MS} minutes`;
    child.kill("SIGTERM");
    setTimeout(() => child.kill("SIGKILL"), 10_000).unref();
  }, suite.limitMs);
  const code = await new Promise((resolve) => {
    child.once("error", (error) => {
      why = error.message;
      resolve(-1);
    });
    child.once("exit", (exitCode, signal) => {
      if (signal) why ||= `ended by ${signal}`;
      resolve(exitCode ?? -1);
    });
  });
  clearTimeout(timer);

  const counts = existsSync(summary)
    ? JSON.parse(readFileSync(summary, "utf8"))
    : { passed: 0, failed: 0, skipped: 0, skips: [] };
  if (code !== 0 && counts.failed === 0) {
    console.error(`suite ${suite.name}: ${why || `exit code ${code}`}; counted as one failure`);
    counts.failed = 1;
  }
  return counts;
}

const total = { passed: 0, failed: 0, skipped: 0 };
const lines = [];
const skips = [];
for (const suite of suites) {
  console.log(`\n== ${suite.name} ==`);
  const counts = await run(suite);
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
  skips.push(...counts.skips);
  lines.push(`${suite.name}: ${say(counts)}`);
}

/** @param {{passed: number, failed: number, skipped: number}} counts */
function say({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

console.log();
for (const line of new Set(skips)) console.log(line);
for (const line of lines) console.log(line);
const ok = total.failed === 0 && total.passed > 0;
if (!ok && total.failed === 0) console.log("Nothing passed, so this is no success.");
process.exitCode = ok ? 0 : 1;
console.log(say(total));
