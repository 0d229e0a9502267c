/**
 * The mounts of one command: made new, or taken over from a process that was killed.
 *
 * @module
 */
import { realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { loadNative, type FuseMount, type NativeRegion } from "../../native/index.ts";
import { openExport } from "../export/export.ts";
import type { Supervision } from "../supervisor/held.ts";

export class Mounts {
  readonly #byDirectory = new Map<string, FuseMount>();

  /** @throws MigrationError `USAGE`: what is wrong with a mount point */
  open(directories: readonly string[], supervision: Supervision): void {
    for (const directory of directories) {
      const channels = supervision.holdings.mounts[absolute(directory)];
      const mount =
        channels === undefined
          ? openExport(loadNative(), { kind: "fuse", directory })
          : loadNative().mountFuse({ directory: absolute(directory), channels });
      this.#byDirectory.set(directory, mount);
    }
  }

  get all(): FuseMount[] {
    return [...this.#byDirectory.values()];
  }

  of(directory: string): FuseMount | undefined {
    return this.#byDirectory.get(directory);
  }

  add(directory: string, name: string, region: NativeRegion): void {
    this.#byDirectory.get(directory)?.add(name, region);
  }

  /** @returns Whether everybody who waited for the process before this one is heard. */
  serve(): boolean {
    return this.all.map((mount) => mount.serve()).every(Boolean);
  }

  async close(): Promise<void> {
    await Promise.all(this.all.map((mount) => mount.unmount()));
  }
}

/** Absolute, with links resolved, and without a look at the mount point itself: nobody may be there to answer. */
function absolute(directory: string): string {
  const path = resolve(directory);
  return join(realpathSync(dirname(path)), basename(path));
}
