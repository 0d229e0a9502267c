/**
 * A region of this process: as memory, as a path, or both.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import {
  loadNative,
  NativeError,
  type NativeRegion,
  type RegionMapping,
  type RegionStats,
} from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import type { ExportPlace } from "../export/place.ts";
import { chunkBytesOption, nameOption, Options, usage } from "./options.ts";

const HASH_KEY_BYTES = 32;

export interface CreateOptions {
  /** Length in bytes; need not be a multiple of anything. */
  readonly bytes: number;
  /** What the destination finds it by. Default `region`. */
  readonly name?: string;
  /** A power of two from 4 KiB to 4 MiB. Default 64 KiB. */
  readonly chunkBytes?: number;
}

export interface OpenOptions {
  /** The region is this file, of its present length. */
  readonly file: string;
  /** Default: the file's own name. */
  readonly name?: string;
  readonly chunkBytes?: number;
  /** Nobody writes to it through this process. Default `false`. */
  readonly readOnly?: boolean;
}

/**
 * - `here`: it may be used.
 * - `arriving`: it is being received; nobody may use it yet.
 * - `moved`: it was handed over and lives elsewhere.
 * - `broken`: its migration ended after the commit and before every chunk was here.
 * - `closed`
 */
export type RegionState = "here" | "arriving" | "moved" | "broken" | "closed";

export type Backing =
  | { readonly kind: "memory" }
  | { readonly kind: "file"; readonly path: string; readonly readOnly: boolean };

/** What other modules of the library do with a region; a program sees `Region`. */
export class RegionCore {
  readonly native: NativeRegion;
  readonly name: string;
  readonly backing: Backing;
  /** Where it is shown. */
  readonly places = new Map<ExportPlace, { readonly spec: string; close(): Promise<void> }>();
  /** How many of them there are, for the migration's thread: it need not ask this one to flush none. */
  readonly shownCount = new Int32Array(new SharedArrayBuffer(4));
  state: RegionState;
  /** A session has it. */
  busy = false;
  /** Of a session that reads the file to find what others wrote. */
  scanned = false;
  #mapping: RegionMapping | undefined;

  constructor(given: {
    readonly native: NativeRegion;
    readonly name: string;
    readonly backing: Backing;
    readonly state: RegionState;
  }) {
    this.native = given.native;
    this.name = given.name;
    this.backing = given.backing;
    this.state = given.state;
  }

  show(place: ExportPlace, how: { readonly spec: string; close(): Promise<void> }): void {
    this.places.set(place, how);
    Atomics.store(this.shownCount, 0, this.places.size);
  }

  hide(place: ExportPlace): void {
    this.places.delete(place);
    Atomics.store(this.shownCount, 0, this.places.size);
  }

  /** @throws MigrationError unless it may be used */
  requireHere(): void {
    const why = {
      here: undefined,
      arriving: "is still arriving: await session.resumed first",
      moved: "was handed over and lives elsewhere",
      broken: "did not arrive whole: go on with its session, or start again from the source",
      closed: "is closed",
    }[this.state];
    if (why !== undefined) throw new MigrationError("REGION_MOVED", `region ${this.name} ${why}`);
  }

  /** @throws MigrationError `USAGE` while it is offered as a file that others write */
  requireUnscanned(call: string): void {
    if (!this.scanned) return;
    throw usage(
      `${call}: region ${this.name} is offered as a file that others write: call it before seed()`,
    );
  }

  get isMapped(): boolean {
    return this.#mapping !== undefined;
  }

  memory(): ArrayBuffer {
    this.requireHere();
    this.requireUnscanned("memory");
    this.#mapping ??= this.#map();
    return this.#mapping.memory;
  }

  async flush(): Promise<void> {
    await Promise.all([...this.places.keys()].map((place) => place.flush(this.name)));
  }

  async invalidate(): Promise<void> {
    await Promise.all([...this.places.keys()].map((place) => place.invalidate(this.name)));
  }

  /** Takes its memory from the program. At once: what is awaited is the end of its threads. */
  async letGo(state: "moved" | "broken"): Promise<void> {
    this.state = state;
    await this.#unmap();
  }

  async close(): Promise<void> {
    if (this.state === "closed") return;
    if (this.busy) {
      throw usage(`region ${this.name} is part of a session: end that first (await session.done)`);
    }
    this.state = "closed";
    await this.#unmap();
    // Each takes itself out of the map.
    for (const place of this.places.values()) await place.close();
    await this.native.close();
  }

  async #unmap(): Promise<void> {
    const mapping = this.#mapping;
    this.#mapping = undefined;
    await mapping?.unmap();
  }

  #map(): RegionMapping {
    const addon = loadNative();
    const probe = addon.probeUffd();
    const instead = `use it as a path: mount(region, { export: "fuse:DIR" })`;
    if (!probe.available) {
      throw usage(
        `region ${this.name} cannot be memory here: ${probe.reason ?? "there is no userfaultfd"}; or ${instead}`,
      );
    }
    try {
      return addon.mapRegion(this.native);
    } catch (cause) {
      if (!(cause instanceof NativeError)) throw cause;
      throw new MigrationError(
        "USAGE",
        `region ${this.name} cannot be memory: ${cause.message}; ${instead}`,
        { cause },
      );
    }
  }
}

let coreOf: (region: Region) => RegionCore;
let regionOf: (core: RegionCore) => Region;

/**
 * What migrates: bytes that a program uses as memory, or that programs use as a path, or both at once.
 *
 * ```ts
 * await using region = await Region.create({ bytes: 256 << 20 });
 * const words = new Uint32Array(region.memory());
 * words[0] = 42;
 * ```
 */
export class Region implements AsyncDisposable {
  readonly #core: RegionCore;

  static {
    coreOf = (region) => region.#core;
    regionOf = (core) => new Region(core);
  }

  private constructor(core: RegionCore) {
    this.#core = core;
  }

  /** New memory, all zeros. It goes with the process. @throws MigrationError `USAGE`, NativeError */
  static async create(options: CreateOptions): Promise<Region> {
    const given = new Options("Region.create", options, ["bytes", "name", "chunkBytes"]);
    const bytes = given.integer("bytes", { min: 1, max: Number.MAX_SAFE_INTEGER });
    if (bytes === undefined)
      throw usage("Region.create: bytes is missing: how long is the region?");
    const name = nameOption(given) ?? "region";
    const native = openHere({ kind: "memory" }, bytes, chunkBytesOption(given));
    return await Promise.resolve(
      new Region(new RegionCore({ native, name, backing: { kind: "memory" }, state: "here" })),
    );
  }

  /**
   * An existing file. Programs use it through `mount`, or, on tmpfs, `memory()`. Without either, others write to the
   * file itself, and a migration reads it again to find what they wrote.
   *
   * @throws MigrationError `USAGE`, NativeError `EBUSY` if another process of memferry has it
   */
  static async open(options: OpenOptions): Promise<Region> {
    const given = new Options("Region.open", options, ["file", "name", "chunkBytes", "readOnly"]);
    const file = given.text("file");
    if (file === undefined) throw usage("Region.open: file is missing: which one is the region?");
    const path = resolve(file);
    const readOnly = given.flag("readOnly");
    const name = nameOption(given) ?? basename(path);
    const found = await stat(path).catch((cause: unknown) => {
      throw usage(`Region.open: ${file}: ${messageOf(cause)}`);
    });
    if (!found.isFile()) throw usage(`Region.open: ${file} is not a file: give the path of one`);
    if (found.size === 0) throw usage(`Region.open: ${file} is empty: there is nothing in it`);
    const native = openHere(
      { kind: "file", path, create: false, reserve: false, readOnly },
      found.size,
      chunkBytesOption(given),
    );
    const backing = { kind: "file", path, readOnly } as const;
    return new Region(new RegionCore({ native, name, backing, state: "here" }));
  }

  get name(): string {
    return this.#core.name;
  }

  get bytes(): number {
    return this.#core.native.bytes;
  }

  get chunkBytes(): number {
    return this.#core.native.chunkBytes;
  }

  get state(): RegionState {
    return this.#core.state;
  }

  /** The file that it is kept in; `undefined` for memory. */
  get file(): string | undefined {
    const { backing } = this.#core;
    return backing.kind === "file" ? backing.path : undefined;
  }

  /** Where programs find it. */
  get paths(): string[] {
    return [...this.#core.places.keys()].map((place) => place.pathOf(this.name));
  }

  /** Counters of what was read and written through exports, and how many chunks are here. */
  stats(): RegionStats {
    return this.#core.native.stats();
  }

  /**
   * The region itself, without a copy. What is stored there is found by a migration. Touching a chunk that has yet to
   * arrive stops the thread until it is here; the migration has a thread of its own, so it does arrive.
   *
   * The buffer is detached when the region is closed, or has been handed over.
   *
   * @throws MigrationError `USAGE` where there is no userfaultfd, or for a file on a disk; `REGION_MOVED`
   */
  memory(): ArrayBuffer {
    return this.#core.memory();
  }

  /** Takes its memory and paths away. Memory that has no file is gone then. Idempotent. */
  async close(): Promise<void> {
    await this.#core.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

export { coreOf, regionOf };

function openHere(
  store: Parameters<ReturnType<typeof loadNative>["openRegion"]>[0]["store"],
  bytes: number,
  chunkBytes: number,
): NativeRegion {
  return loadNative().openRegion({
    store,
    bytes,
    chunkBytes,
    // Nobody compares these: each session has a key of its own.
    hashKey: randomBytes(HASH_KEY_BYTES),
    present: "all",
    gate: "open",
  });
}
