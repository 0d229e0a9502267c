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
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";

import { loadNative } from "../../native/index.ts";
import { findProgram, installCommand, isRoot, packageManager } from "./programs.mjs";
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
  const found = findProgram(name, tool.look);
  return found ? met(found) : unmet(`no ${name} here; install it: ${howToInstall(tool)}`);
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

/** Loop devices, and the right to attach one. */
export function requireLoop(): Requirement {
  if (!existsSync("/dev/loop-control")) {
    return unmet("no /dev/loop-control here; load it: sudo modprobe loop");
  }
  const root = requireRoot();
  return root.available ? requireTool("losetup") : root;
}

/** userfaultfd for this user, and a kernel that notes writes itself if `tracking` is `async`. */
export function requireUffd(tracking: "async" | "sync" = "sync"): Requirement {
  const probe = loadNative().probeUffd();
  if (!probe.available) return unmet(probe.reason ?? "no userfaultfd here");
  return tracking === "async" && probe.tracking !== "async"
    ? unmet("this kernel does not note writes by itself: Linux 6.7 does")
    : met();
}

/** Network namespaces, TUN devices, and the programs that make a network of them (`test/support/wan/`). */
export function requireWan(): Requirement {
  const root = requireRoot();
  if (!root.available) return root;
  if (!existsSync("/dev/net/tun")) {
    return unmet("no /dev/net/tun here; load it: sudo modprobe tun, or give it to the container");
  }
  const { status } = spawnSync("unshare", ["--net", "true"], { stdio: "ignore" });
  if (status !== 0) return unmet("no right to network namespaces here; it takes CAP_SYS_ADMIN");
  const tools = (["cc", "ip", "nft", "conntrack"] as const).map(requireTool);
  return tools.find(({ available }) => !available) ?? met("/dev/net/tun");
}

/** Skips the running test, with every reason at once, unless all requirements are met. */
export function skipUnless(
  ctx: { skip(note?: string): never },
  ...requirements: readonly Requirement[]
): void {
  const reasons = requirements.filter((one) => !one.available).map((one) => one.skipReason);
  if (reasons.length > 0) ctx.skip(reasons.join("; "));
}

function howToInstall(tool: Tool): string {
  const manager = packageManager() ?? "apt";
  return [...(isRoot() ? [] : ["sudo"]), ...installCommand(manager, [tool[manager]])].join(" ");
}
