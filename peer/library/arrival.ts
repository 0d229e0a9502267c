/**
 * Where received regions are put.
 *
 * @module
 */
import { mkdir, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { loadNative, NativeError } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import type { Room } from "./messages.ts";
import type { Shown } from "./mount.ts";
import { isRegionName, usage } from "./options.ts";
import { RegionCore, type Backing } from "./region.ts";

/** Where one region is kept. */
export type Place = { readonly memory: true } | { readonly file: string };

export interface Places {
  /** For an offer of one region, or for each that is not named. */
  readonly one: Place | undefined;
  readonly directory: string | undefined;
  readonly named: ReadonlyMap<string, Place>;
}

export interface ArrivalOptions {
  readonly places: Places;
  readonly overwrite: boolean;
  readonly sparse: boolean;
}

/** What is received. Until `keep`, what was made here is removed again at the end. */
export class Arrival {
  readonly cores: RegionCore[] = [];
  readonly shown: Shown;
  readonly #options: ArrivalOptions;
  readonly #createdFiles: string[] = [];

  constructor(options: ArrivalOptions, shown: Shown) {
    this.#options = options;
    this.shown = shown;
  }

  /** @returns The regions' ids. @throws MigrationError */
  async prepare({ regions, chunkBytes, hashKey }: Room): Promise<number[]> {
    const { directory } = this.#options.places;
    if (directory !== undefined) await mkdir(directory, { recursive: true });
    for (const { name, bytes, statePath } of regions) {
      const backing = this.#backing(name, regions.length);
      const isNew = backing.kind === "file" && (await this.#isNew(backing.path, bytes));
      const native = this.#open(backing, { bytes, chunkBytes, hashKey, statePath });
      if (backing.kind === "file" && isNew) this.#createdFiles.push(backing.path);
      const core = new RegionCore({ native, name, backing, state: "arriving" });
      core.busy = true;
      this.cores.push(core);
      this.shown.add(core);
    }
    this.shown.serve();
    return this.cores.map(({ native }) => native.id);
  }

  /** The gates are open. */
  async attach(): Promise<void> {
    for (const core of this.cores) core.state = "here";
    await this.shown.attach();
  }

  /** All of it is here. */
  settle(): void {
    for (const core of this.cores) core.busy = false;
  }

  /** It belongs here and will not be complete: nobody is to see what is missing. */
  async breakOff(): Promise<void> {
    await Promise.all(this.cores.map((core) => core.letGo("broken")));
    await this.close();
  }

  /** The regions stay at the source. */
  async discard(): Promise<void> {
    await this.close();
    for (const file of this.#createdFiles) await rm(file, { force: true });
  }

  async close(): Promise<void> {
    this.settle();
    for (const core of this.cores) await core.close();
    await this.shown.close();
  }

  #backing(name: string, count: number): Backing {
    if (!isRegionName(name)) {
      throw new MigrationError(
        "MESSAGE_MALFORMED",
        "the region's name cannot be the name of a file",
      );
    }
    const { one, directory, named } = this.#options.places;
    const place = named.get(name) ?? one;
    if (place !== undefined && "memory" in place) return { kind: "memory" };
    if (place !== undefined) {
      if (count > 1 && !named.has(name)) {
        throw usage(
          `the offer has ${count} regions: give leech a directory, or regions: { NAME: { file } } for each`,
        );
      }
      return { kind: "file", path: resolve(place.file), readOnly: false };
    }
    if (directory === undefined) {
      throw usage(
        `where is region ${name} to be kept? Give leech regions: { "${name}": { file } }`,
      );
    }
    return { kind: "file", path: join(directory, name), readOnly: false };
  }

  #open(
    backing: Backing,
    of: {
      readonly bytes: number;
      readonly chunkBytes: number;
      readonly hashKey: Uint8Array;
      readonly statePath: string | undefined;
    },
  ): RegionCore["native"] {
    const { statePath, ...rest } = of;
    try {
      return loadNative().openRegion({
        ...rest,
        store:
          backing.kind === "memory"
            ? { kind: "memory" }
            : {
                kind: "file",
                path: backing.path,
                create: true,
                reserve: !this.#options.sparse,
              },
        present: "none",
        gate: "closed",
        ...(statePath === undefined ? {} : { state: { path: statePath, mode: "create" } }),
      });
    } catch (cause) {
      if (!(cause instanceof NativeError)) throw cause;
      const where = backing.kind === "file" ? backing.path : "memory";
      if (cause.code === "ENOSPC" || cause.code === "EDQUOT" || cause.code === "ENOMEM") {
        throw new MigrationError(
          "STORE_FULL",
          `no room for ${of.bytes} bytes at ${where}: free space there, give another file, or sparse: true`,
          { cause },
        );
      }
      throw new MigrationError("STORE_FAILED", `${where}: ${cause.message}`, { cause });
    }
  }

  /** Whether the file is going to be made. @throws MigrationError `REGION_MISMATCH` */
  async #isNew(file: string, bytes: number): Promise<boolean> {
    const found = await stat(file).catch(() => undefined);
    // Absent, or not to be looked at: opening it says which.
    if (found === undefined) return true;
    if (found.size !== bytes) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${file} has ${found.size} bytes and the region ${bytes}: delete it or give another file`,
      );
    }
    if (!this.#options.overwrite) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${file} exists: give overwrite: true to replace what it holds, or another file`,
      );
    }
    return false;
  }
}
