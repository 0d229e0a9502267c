/**
 * Options that `seed` and `leech` share.
 *
 * @module
 */
import { resolve } from "node:path";
import { peerEnvironment } from "../config.ts";
import { HOOK_DEADLINE_MS } from "../migration/limits.ts";
import type { LinkChoice } from "../net/dial.ts";
import { PATH_POLICIES, type PathPolicy } from "../net/paths/path-policy.ts";
import type { CommonSetup, HookName } from "./messages.ts";
import { usage, type Options } from "./options.ts";

export interface CommonOptions {
  /** Which kind of connection carries the migration. Default `auto`. */
  readonly link?: LinkChoice;
  /** Which way the bytes go: `auto` is directly to the other peer where the network lets it. Default `auto`. */
  readonly path?: PathPolicy;
  /**
   * Where the session is written down, so that `memferry resume` goes on with it after a crash. Only for regions in
   * files; `false`: not at all. Default: as of the command.
   */
  readonly stateDir?: string | false;
  /** How long a hook may take. At most, and by default, 60,000. */
  readonly hookTimeoutMs?: number;
  /** Cancels. After the commit it does nothing: the destination owns the regions. */
  readonly signal?: AbortSignal;
}

export const COMMON_OPTIONS = ["link", "path", "stateDir", "hookTimeoutMs", "signal"] as const;

const LINKS = ["auto", "webtransport", "websocket"] as const satisfies LinkChoice[];

/** @throws MigrationError `USAGE` */
export function commonSetup(
  given: Options,
  of: {
    /** All of it is in files. */
    readonly durable: boolean;
    readonly hooks: readonly HookName[];
    readonly argv: readonly string[];
  },
): CommonSetup {
  const link = given.oneOf("link", LINKS) ?? "auto";
  const path = given.oneOf("path", PATH_POLICIES) ?? "auto";
  for (const hook of of.hooks) given.requireFunction(hook);
  return {
    link,
    path,
    stateDirectory: stateDirectory(given, of.durable),
    argv: [...of.argv, "--link", link, "--path", path],
    cwd: process.cwd(),
    hooks: of.hooks.filter((hook) => given.get(hook) !== undefined),
    hookTimeoutMs:
      given.integer("hookTimeoutMs", { min: 1, max: HOOK_DEADLINE_MS }) ?? HOOK_DEADLINE_MS,
  };
}

function stateDirectory(given: Options, durable: boolean): string | undefined {
  if (given.get("stateDir") === false) return undefined;
  const text = given.text("stateDir");
  if (durable) return text === undefined ? peerEnvironment().stateDirectory : resolve(text);
  if (text === undefined) return undefined;
  throw usage(
    "stateDir is for regions in files: a region of memory goes with its process, and there is nothing to go on with",
  );
}
