// Makes this machine ready for a suite: `node test/support/setup.mjs [default|long]`.
//
// Plain JavaScript, so that it can tell a Node that is too old what is wrong. It compiles the addon
// if that is not done, then installs the programs in tools.json that the suite needs and that are
// missing. Where it may not install, it prints the command and leaves: the tests concerned are then
// skipped, each with that same command. MEMFERRY_TEST_SETUP=off installs nothing.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

import { findProgram, installCommand, isRoot, packageManager } from "./programs.mjs";

const suite = process.argv[2] ?? "default";

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  console.error(
    `test set-up: this is Node ${process.versions.node}, and the tests need 22.18 or newer.\n` +
      "`npm ci` brings one as a package; its install script seems to have been blocked. Run\n" +
      "  npm rebuild node deno\n" +
      "and try again.",
  );
  process.exit(1);
}

if (existsSync("native/build.mjs")) {
  const { status } = spawnSync(process.execPath, ["native/build.mjs"], { stdio: "inherit" });
  if (status !== 0) {
    console.error("test set-up: the addon did not compile; the tests need it. Is g++ installed?");
    process.exit(1);
  }
}

/** @type {Record<string, { why: string, suites: string[], look?: string[], apt: string, dnf: string, apk: string }>} */
const tools = JSON.parse(readFileSync(new URL("tools.json", import.meta.url), "utf8"));

const missing = Object.entries(tools).filter(
  ([name, tool]) => tool.suites.includes(suite) && !findProgram(name, tool.look),
);
if (missing.length === 0) process.exit(0);

console.log("test set-up: programs that some tests need are missing:");
for (const [name, tool] of missing) console.log(`  ${name}: ${tool.why}`);

const manager = packageManager();
if (!manager) {
  console.log("No package manager that this script knows; the tests concerned will be skipped.");
  process.exit(0);
}

const packages = [...new Set(missing.map(([, tool]) => tool[manager]))];
const mayInstall =
  process.env.MEMFERRY_TEST_SETUP !== "off" &&
  (isRoot() || spawnSync("sudo", ["-n", "true"], { stdio: "ignore" }).status === 0);

/** @param {string[]} command */
function run(command) {
  const asRoot = ["env", "DEBIAN_FRONTEND=noninteractive", ...command];
  const [file, ...args] = isRoot() ? asRoot : ["sudo", "-n", ...asRoot];
  console.log(`  $ ${command.join(" ")}`);
  const { status, stdout, stderr } = spawnSync(file, args, {
    stdio: ["ignore", "pipe", "pipe"],
    encoding: "utf8",
    timeout: 600_000,
  });
  // A package manager that did well has nothing to tell a reader of test results.
  if (status !== 0) console.log(`${stdout}${stderr}`.split("\n").slice(-15).join("\n"));
  return status === 0;
}

if (mayInstall) {
  console.log(`Installing: ${packages.join(" ")}`);
  if (manager === "apt") run(["apt-get", "update"]);
  // One by one if together fails: a package unknown to this release must not cost the others.
  if (!run(installCommand(manager, packages)) && packages.length > 1) {
    for (const name of packages) run(installCommand(manager, [name]));
  }
}

const left = missing.filter(([name, tool]) => !findProgram(name, tool.look));
if (left.length > 0) {
  const names = [...new Set(left.map(([, tool]) => tool[manager]))];
  console.log("Tests that need what is missing will be skipped. To run them, install:");
  console.log(`  ${isRoot() ? "" : "sudo "}${installCommand(manager, names).join(" ")}`);
}
