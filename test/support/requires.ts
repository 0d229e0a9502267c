/**
 * What a test needs beyond npm, and the sentence to skip with where it is missing.
 *
 * ```ts
 * test("nbdinfo reads the export", async (ctx) => {
 *   skipUnless(ctx, requireTool("nbdinfo"), requireRoot());
 * ```
 *
 * @module
 */
import { accessSync, closeSync, constants, existsSync, openSync, readdirSync } from "node:fs";
import path from "node:path";

import tools from "./tools.json" with { type: "json" };

/** A program that `test/support/setup.mjs` knows how to install. */
export type ToolName = keyof typeof tools;

export interface Requirement {
  readonly available: boolean;
  /** The program or device itself; empty if it is not there or has no path. */
  readonly path: string;
  /** Why the test cannot run and what to type to change that; empty if it can run. */
  readonly skipReason: string;
}

interface Tool {
  readonly why: string;
  readonly look?: readonly string[];
  readonly apt: string;
  readonly dnf: string;
  readonly apk: string;
}

const met = (where = ""): Requirement => ({ available: true, path: where, skipReason: "" });
const unmet = (skipReason: string): Requirement => ({ available: false, path: "", skipReason });

/** A program on this machine, also where its package keeps it off the `PATH`. */
export function requireTool(name: ToolName): Requirement {
  const tool: Tool = tools[name];
  const found = find(name, tool.look);
  return found ? met(found) : unmet(`no ${name} here; install it: ${installCommand(tool)}`);
}

/** Root, for mounts, devices and network namespaces. */
export function requireRoot(): Requirement {
  return isRoot() ? met() : unmet("needs root; run it: sudo -E env PATH=$PATH npm test");
}

/** `/dev/fuse`, and the right to mount: root, or `fusermount3`. */
export function requireFuse(): Requirement {
  if (!existsSync("/dev/fuse")) return unmet("no /dev/fuse here; load it: sudo modprobe fuse");
  try {
    closeSync(openSync("/dev/fuse", "r+"));
  } catch (error) {
    return unmet(`/dev/fuse cannot be opened (${String(error)}); try: sudo chmod 666 /dev/fuse`);
  }
  const helper = requireTool("fusermount3");
  return isRoot() || helper.available ? met("/dev/fuse") : helper;
}

/** Skips the running test, with every reason at once, unless all requirements are met. */
export function skipUnless(
  ctx: { skip(note?: string): never },
  ...requirements: readonly Requirement[]
): void {
  const reasons = requirements.filter((one) => !one.available).map((one) => one.skipReason);
  if (reasons.length > 0) ctx.skip(reasons.join("; "));
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function find(name: string, look: readonly string[] = []): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin"];
  folders.push(...look.flatMap(expand));
  return folders.map((folder) => path.join(folder, name)).find(isExecutable);
}

/** Folders that a pattern with `*` in its names stands for, the highest version first. */
function expand(pattern: string): string[] {
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
  return found.toSorted((a, b) => b.localeCompare(a, "en", { numeric: true }));
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function installCommand(tool: Tool): string {
  const sudo = isRoot() ? "" : "sudo ";
  if (find("dnf")) return `${sudo}dnf install -y ${tool.dnf}`;
  if (find("apk")) return `${sudo}apk add ${tool.apk}`;
  return `${sudo}apt-get install -y --no-install-recommends ${tool.apt}`;
}
