/**
 * The relay on Deno, with the permissions that it needs and no others.
 *
 * @module
 */
import { createRequire } from "node:module";
import path from "node:path";

/**
 * The file itself: a link or a wrapper would be another process, and not the one that is stopped.
 *
 * @throws Error if the package `deno` is not installed.
 */
export function denoBinary(): string {
  const manifest = createRequire(import.meta.url).resolve("deno/package.json");
  return path.join(path.dirname(manifest), "deno");
}

export interface DenoRelayPaths {
  /** Where the program and its packages are. */
  readonly root: string;
  /** The data directory, the user's configuration, and the folder of PostgreSQL's socket if it is reached by one. */
  readonly writable: readonly string[];
  /** Certificates and configuration elsewhere. */
  readonly readable?: readonly string[];
}

/** What comes before the program's file on Deno's command line; docs/rest.md says the same to people. */
export function denoRelayFlags({ root, writable, readable = [] }: DenoRelayPaths): string[] {
  const read = [root, "/proc", "/sys/fs/cgroup", ...writable, ...readable];
  return [
    "run",
    "--no-prompt",
    "--unstable-net",
    "--allow-net",
    "--allow-env",
    "--allow-sys=hostname",
    `--allow-read=${read.join()}`,
    `--allow-write=${writable.join()}`,
  ];
}
