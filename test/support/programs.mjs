// Finds the programs in tools.json, and says how to install one. Plain JavaScript with no dependency,
// so that the set-up script runs on the oldest Node that can run npm.
import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import path from "node:path";

/** @typedef {"apt" | "dnf" | "apk"} Manager */

/** @type {Record<Manager, readonly string[]>} */
const installCommands = {
  apt: ["apt-get", "install", "-y", "--no-install-recommends"],
  dnf: ["dnf", "install", "-y"],
  apk: ["apk", "add"],
};

/**
 * Where a program is, also off the `PATH`.
 *
 * @param {string} name
 * @param {readonly string[]} [look] Folders to search besides, with `*` in their names.
 * @returns {string | undefined}
 */
export function findProgram(name, look = []) {
  const folders = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin"];
  return [...folders.filter(Boolean), ...look.flatMap(expand)]
    .map((folder) => path.join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** @returns {Manager | undefined} The package manager of this system, if it is one we know. */
export function packageManager() {
  for (const manager of /** @type {const} */ (["apt", "dnf", "apk"])) {
    if (findProgram(installCommands[manager][0] ?? "")) return manager;
  }
  return undefined;
}

/**
 * The command that installs packages, without `sudo`.
 *
 * @param {Manager} manager
 * @param {readonly string[]} packages
 * @returns {string[]}
 */
export function installCommand(manager, packages) {
  return [...installCommands[manager], ...packages];
}

export function isRoot() {
  return process.getuid?.() === 0;
}

/**
 * Folders that a pattern stands for, the highest version first.
 *
 * @param {string} pattern
 * @returns {string[]}
 */
function expand(pattern) {
  let found = ["/"];
  for (const part of pattern.split("/").filter(Boolean)) {
    const [before = "", after] = part.split("*");
    found = found.flatMap((folder) => {
      if (after === undefined) return [path.join(folder, part)];
      if (!existsSync(folder)) return [];
      return readdirSync(folder)
        .filter((name) => name.startsWith(before) && name.endsWith(after))
        .map((name) => path.join(folder, name));
    });
  }
  return found.sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
}
