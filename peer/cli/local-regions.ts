/**
 * The regions that `memferry seed` offers, on this host, for as long as the command runs.
 *
 * @module
 */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { loadNative, type NativeRegion } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN } from "../../relay/protocol/limits.ts";
import { MigrationError } from "../errors.ts";
import { ExportedWrites } from "../export/exported-writes.ts";
import { Exports } from "../export/exports.ts";
import { ScannedWrites, type Look } from "../export/scanned-writes.ts";
import { EXPORT_KINDS, isServed, type ServedExport } from "../export/spec.ts";
import type { SeederPhase } from "../journal/journal.ts";
import { CHUNKS_MAX, REGIONS_MAX } from "../migration/limits.ts";
import { GroupWrites, RegionGroup, type NamedRegion } from "../region/group.ts";
import type { DirtySource } from "../region/region.ts";
import type { Supervision } from "../supervisor/held.ts";
import { usage, type Arguments } from "./command-line.ts";
import { notPlain } from "./file-export.ts";
import { ExportOptions, seededRegions, type RegionSpec } from "./region-options.ts";

const CHUNK_BYTES_DEFAULT = 64 * 1024;

export interface LocalRegionsOptions {
  readonly args: Arguments;
  readonly hashKey: Uint8Array;
  readonly supervision: Supervision;
  /** The folder of the session. */
  readonly session: string;
  /** Where an earlier process of this session was; `undefined`: there was none. */
  readonly phase: SeederPhase | undefined;
  /** Told of each look for writes to a file that programs use without us. */
  readonly onLook: (path: string, look: Look) => void;
}

/** A region that programs use without us, by `--export file:`. */
export interface ScannedFile {
  readonly path: string;
  readonly region: NativeRegion;
  readonly writes: ScannedWrites;
}

export class LocalRegions {
  readonly hashKey: Uint8Array;
  readonly exports = new Exports();
  readonly members: NamedRegion[] = [];
  readonly scannedFiles: ScannedFile[] = [];
  readonly #paths: (() => string)[] = [];
  readonly #closing: (() => Promise<void>)[] = [];
  #store: RegionGroup | undefined;
  #dirty: DirtySource | undefined;

  private constructor(hashKey: Uint8Array) {
    this.hashKey = hashKey;
  }

  /** @throws MigrationError */
  static async open(options: LocalRegionsOptions): Promise<LocalRegions> {
    const regions = new LocalRegions(options.hashKey);
    try {
      await regions.#open(options);
      return regions;
    } catch (error) {
      await regions.close();
      throw error;
    }
  }

  get store(): RegionGroup {
    if (this.#store === undefined) throw new Error("no region is open");
    return this.#store;
  }

  get dirty(): DirtySource {
    if (this.#dirty === undefined) throw new Error("no region is open");
    return this.#dirty;
  }

  get name(): string {
    return this.members.map(({ name }) => name).join("+");
  }

  get exported(): boolean {
    return this.exports.any;
  }

  /** Where programs find each. */
  get paths(): string[] {
    return this.#paths.map((path) => path());
  }

  /** Shows the regions where whoever sees them looks into them at once; not while they are held still. */
  async attach(): Promise<void> {
    if (this.members.every(({ region }) => region.gate === "open")) await this.exports.attach();
  }

  async close(): Promise<void> {
    await this.exports.close();
    for (const close of this.#closing.splice(0).reverse()) await close();
  }

  async #open({ args, supervision, session, phase, onLook }: LocalRegionsOptions): Promise<void> {
    const specs = seededRegions(args);
    const exports = new ExportOptions(args);
    exports.requireKnown(specs.map(({ name }) => name));
    if (specs.length > REGIONS_MAX) throw usage(`a group has at most ${REGIONS_MAX} regions`);
    const chunkBytes = chunkBytesOf(args);
    const lengths = await Promise.all(
      specs.map(({ name, place }) => bytesOf(place, exports.of(name)?.kind === "file")),
    );
    const chunks = lengths.reduce((sum, bytes) => sum + Math.ceil(bytes / chunkBytes), 0);
    if (chunks > CHUNKS_MAX) throw usage(`${chunks} chunks are too many: give a larger --chunk`);
    this.exports.open(exports.served, {
      holdings: supervision.holdings,
      session,
      ...(exports.tls === undefined ? {} : { tls: exports.tls }),
    });
    const sources: DirtySource[] = [];
    for (const [i, spec] of specs.entries()) {
      const how = exports.of(spec.name);
      const shown = how !== undefined && isServed(how) ? how : undefined;
      const region = this.#openOne(spec, {
        bytes: lengths[i] ?? 0,
        chunkBytes,
        exported: shown !== undefined,
        gate: phase === "finalized" || phase === "committed" ? "closed" : "open",
        inherited: supervision.holdings.stores[spec.name],
        resumed: phase !== undefined,
      });
      if (phase === "committed") region.setGate("fenced");
      this.#closing.push(() => region.close());
      this.members.push({ name: spec.name, region });
      if (shown !== undefined) {
        sources.push(this.#show(spec, region, shown));
        continue;
      }
      const writes = await this.#scan(spec, region, onLook);
      sources.push(writes.writes);
      if (how?.kind === "file") this.scannedFiles.push(writes);
    }
    this.#store = new RegionGroup(this.members);
    this.#dirty = new GroupWrites(this.#store.regions, sources);
  }

  #openOne(
    { name, place }: RegionSpec,
    how: {
      readonly bytes: number;
      readonly chunkBytes: number;
      readonly exported: boolean;
      readonly gate: "open" | "closed";
      readonly inherited: number | undefined;
      readonly resumed: boolean;
    },
  ): NativeRegion {
    const { bytes, chunkBytes, gate, inherited } = how;
    if (inherited === undefined && place.kind === "memory" && how.resumed) {
      throw new MigrationError(
        "RESUME_INVALID",
        `region ${name} was memory of a process that is gone, and its bytes with it: start again with \`memferry seed\``,
      );
    }
    return loadNative().openRegion({
      store:
        inherited !== undefined
          ? { kind: "descriptor", fd: inherited }
          : place.kind === "memory"
            ? { kind: "memory" }
            : {
                kind: "file",
                path: place.path,
                create: false,
                reserve: false,
                readOnly: !how.exported,
              },
      bytes,
      chunkBytes,
      hashKey: this.hashKey,
      present: "all",
      gate,
    });
  }

  #show({ name }: RegionSpec, region: NativeRegion, shown: ServedExport): DirtySource {
    const at = this.exports.add(shown, name, region);
    this.#paths.push(() => at.pathOf(name));
    return new ExportedWrites(region, at, name);
  }

  async #scan(
    { place }: RegionSpec,
    region: NativeRegion,
    onLook: LocalRegionsOptions["onLook"],
  ): Promise<ScannedFile> {
    if (place.kind === "memory") {
      throw usage(`--size needs --export (${EXPORT_KINDS}): without it nobody can use the memory`);
    }
    const { path } = place;
    const writes = await ScannedWrites.open(region, path, { onLook: (look) => onLook(path, look) });
    this.#closing.push(() => writes.close());
    this.#paths.push(() => path);
    return { path, region, writes };
  }
}

async function bytesOf(place: RegionSpec["place"], exported: boolean): Promise<number> {
  if (place.kind === "memory") return place.bytes;
  const option = `${exported ? "--export file:" : "--file "}${place.path}`;
  const found = await stat(place.path).catch((cause: unknown) => {
    throw usage(`${option}: ${messageOf(cause)}: give the path of a file that is there`);
  });
  if (!found.isFile()) throw usage(notPlain(option, found));
  if (found.size === 0) throw usage(`${option} is empty: there is nothing to migrate`);
  await access(place.path, constants.R_OK).catch((cause: unknown) => {
    throw usage(`${option}: ${messageOf(cause)}: run memferry as a user who may read it`);
  });
  return found.size;
}

function chunkBytesOf(args: Arguments): number {
  const bytes = args.size("chunk") ?? CHUNK_BYTES_DEFAULT;
  if (bytes < CHUNK_BYTES_MIN || bytes > CHUNK_BYTES_MAX || (bytes & (bytes - 1)) !== 0) {
    throw usage(`--chunk ${args.text("chunk") ?? ""} is not a power of two from 4KiB to 4MiB`);
  }
  return bytes;
}
