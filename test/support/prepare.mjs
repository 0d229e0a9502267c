// What `npm ci` does after the packages are in place: compile the addon, build the console.
// Neither may stop the install. A machine without g++ still gets the relay, and whoever needs the
// addon is told again by `npm test` and `npm run demo`, which compile it for themselves.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

/** @param {string} what @param {string[]} args @param {string} remedy */
function attempt(what, args, remedy) {
  const { status, error } = spawnSync(process.execPath, args, { stdio: "inherit" });
  if (status === 0) return;
  const why = error ? error.message : `exit code ${status}`;
  console.warn(`\nmemferry: WARNING: ${what} failed (${why}). The install goes on without it.`);
  console.warn(`memferry: WARNING: ${remedy}\n`);
}

// `npm install --package-lock-only` runs this script too, with nothing installed to work with.
if (existsSync("node_modules")) {
  if (existsSync("native/build.mjs")) {
    attempt(
      "compiling the addon",
      ["native/build.mjs", "--if-possible"],
      "Seeding, leeching and mounting need it: install g++, then `npm run native`.",
    );
  }
  if (existsSync("web/vite.config.ts") && existsSync("node_modules/vite/bin/vite.js")) {
    attempt(
      "building the console",
      ["node_modules/vite/bin/vite.js", "build", "--logLevel", "warn", "-c", "web/vite.config.ts"],
      "The relay serves its API without the console; try `npm run build:web`.",
    );
  }
}
