/**
 * Regions as files of a directory.
 *
 * @module
 */
import { realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { loadNative, NativeError, type FuseMount, type NativeRegion } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import type { Holdings } from "../supervisor/held.ts";
import type { ExportPlace, ShownAs } from "./place.ts";
import { ReadAhead, type PeerPath } from "./read-ahead.ts";

/** What the addon sets by itself. */
const READ_AHEAD_BYTES = 1024 * 1024;

export class FusePlace implements ExportPlace {
  readonly mount: FuseMount;
  readonly #directory: string;
  // Best effort: without root it stays what it is.
  readonly #readAhead = new ReadAhead(
    READ_AHEAD_BYTES,
    (bytes) => void this.mount.setReadAhead(bytes),
  );

  /** @throws MigrationError `USAGE` if this host does not let us mount, or not there */
  constructor(directory: string, holdings: Holdings) {
    this.#directory = directory;
    const channels = holdings.mounts[absolute(directory)];
    this.mount =
      channels === undefined
        ? mountFuse(directory)
        : loadNative().mountFuse({ directory: absolute(directory), channels });
  }

  add(name: string, region: NativeRegion, { readOnly = false }: ShownAs = {}): void {
    this.mount.add(name, region, { readOnly });
  }

  pathOf(name: string): string {
    return `${this.#directory}/${name}`;
  }

  serve(): boolean {
    return this.mount.serve();
  }

  attach(): Promise<void> {
    return Promise.resolve();
  }

  follow(path: PeerPath | undefined): void {
    this.#readAhead.follow(path);
  }

  flush(name: string): Promise<void> {
    return this.mount.flush(name);
  }

  invalidate(name: string): Promise<void> {
    return this.mount.invalidate(name);
  }

  close(): Promise<void> {
    return this.mount.unmount();
  }
}

/** @throws MigrationError `USAGE` */
export function mountFuse(
  directory: string,
  { what = `--export fuse:${directory}`, warm = true }: { what?: string; warm?: boolean } = {},
): FuseMount {
  const addon = loadNative();
  const probe = addon.probeFuse();
  if (!probe.available) {
    throw new MigrationError(
      "USAGE",
      `${what}: ${probe.reason ?? "FUSE does not work here"}: ${probe.remedy ?? "leave --export out"}`,
    );
  }
  try {
    return addon.mountFuse({ directory, warm });
  } catch (cause) {
    if (!(cause instanceof NativeError)) throw cause;
    throw new MigrationError("USAGE", `${what}: ${mountFailure(cause)}`, { cause });
  }
}

function mountFailure({ code, message }: NativeError): string {
  switch (code) {
    case "ENOTEMPTY":
      return "the folder is not empty: give an empty one";
    case "ENOENT":
      return "there is no such folder: make it first";
    case "ENOTDIR":
      return "it is not a folder: give an empty one";
    case "EBUSY":
      return "something is mounted there already: give another folder";
    default:
      return message;
  }
}

/** Absolute, with links resolved, and without a look at the mount point itself: nobody may be there to answer. */
function absolute(directory: string): string {
  const path = resolve(directory);
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path; // not even a folder around it: mounting says so
  }
}
