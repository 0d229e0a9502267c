/**
 * Where `memferry leech` puts the regions that it receives.
 *
 * @module
 */
import { mkdir, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { loadNative, NativeError, type NativeRegion } from "../../native/index.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import { Exports } from "../export/exports.ts";
import type { ExportPlace } from "../export/place.ts";
import type { PeerPath } from "../export/read-ahead.ts";
import { isServed } from "../export/spec.ts";
import type { LeecherPhase } from "../journal/journal.ts";
import type { SessionDirectory } from "../journal/session-directory.ts";
import type { Destination, KeptChunks } from "../migration/destination.ts";
import type { OfferedRegion, OfferMessage } from "../migration/messages.ts";
import { RegionGroup, type NamedRegion } from "../region/group.ts";
import type { Supervision } from "../supervisor/held.ts";
import { VERSION } from "../version.ts";
import type { Arguments } from "./command-line.ts";
import { requireReceivable, warnOfReceiving } from "./file-export.ts";
import { runHook } from "./hook.ts";
import type { Output } from "./output.ts";
import {
  ExportOptions,
  receivedFiles,
  requireName,
  requireReceivedPlace,
} from "./region-options.ts";
import { formatBytes } from "./size.ts";

/** Chunks that are read and hashed in one call. */
const HASH_BATCH_CHUNKS = 256;
const OWNED_PHASES: ReadonlySet<LeecherPhase> = new Set([
  "committing",
  "committed",
  "resumed",
  "complete",
]);

export interface LeechedRegionsOptions {
  readonly args: Arguments;
  readonly output: Output;
  readonly supervision: Supervision;
  readonly directory: SessionDirectory;
  /** Where an earlier process of this session was; `undefined`: there was none. */
  readonly phase: LeecherPhase | undefined;
}

/** The files and exports of what is received. Until `keep`, what was made here is removed again at the end. */
export class LeechedRegions {
  readonly #options: LeechedRegionsOptions;
  readonly #shown: ExportOptions;
  readonly #exports = new Exports();
  readonly #places = new Map<string, ExportPlace>();
  readonly #members: NamedRegion[] = [];
  readonly #createdFiles: string[] = [];
  /** Regions whose files were there, and are brought up to date. */
  readonly #updated = new Set<string>();
  #files = new Map<string, string>();
  #offer: OfferMessage | undefined;
  #store: RegionGroup | undefined;
  #keep = false;

  constructor(options: LeechedRegionsOptions) {
    this.#options = options;
    requireReceivedPlace(options.args);
    this.#shown = new ExportOptions(options.args);
  }

  /** Where programs find the regions. */
  get paths(): string[] {
    return (this.#offer?.regions ?? []).map(
      ({ name }) => this.#places.get(name)?.pathOf(name) ?? this.#files.get(name) ?? name,
    );
  }

  get exported(): boolean {
    return this.#shown.served.length > 0;
  }

  /** @throws what is wrong with a place of an export */
  async openExports(): Promise<void> {
    const { tls, onlyFile, files } = this.#shown;
    for (const path of [...(onlyFile === undefined ? [] : [onlyFile]), ...files.values()]) {
      await requireReceivable(path);
    }
    this.#exports.open(this.#shown.served, {
      holdings: this.#options.supervision.holdings,
      session: this.#options.directory.path,
      ...(tls === undefined ? {} : { tls }),
    });
  }

  /** Lets nobody read or write any more, and makes what is here durable. */
  async stop(): Promise<void> {
    await this.#exports.settle().catch((error: unknown) => {
      this.#options.output.note(`warning: the last writes may be missing: ${messageOf(error)}`);
    });
    this.#store?.setGate("closed");
    await this.#store?.quiesce();
    await this.#store?.checkpoint();
  }

  keep(): void {
    this.#keep = true;
  }

  /** How far away is what is missing here; `undefined`: nothing is. */
  follow(path: PeerPath | undefined): void {
    this.#exports.follow(path);
  }

  async prepare(offer: OfferMessage): Promise<Destination> {
    const { args, supervision, directory, output, phase } = this.#options;
    const bytesMax = args.size("max-bytes") ?? Infinity;
    if (bytesOf(offer) > bytesMax) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `the source offers ${bytesOf(offer)} bytes, and --max-bytes is ${bytesMax}`,
      );
    }
    const folder = args.text("directory");
    if (folder !== undefined) await mkdir(folder, { recursive: true });
    const names = offer.regions.map(({ name }) => name);
    for (const name of names) this.#requireFileName(name);
    this.#files = receivedFiles(args, names);
    this.#shown.requireKnown(names);
    this.#offer = offer;
    const faults: { destination?: Destination } = {};
    let firstChunk = 0;
    for (const region of offer.regions) {
      const first = firstChunk;
      firstChunk += Math.ceil(region.bytes / offer.chunkBytes);
      await this.#add(region, offer, (indexes) =>
        faults.destination?.onFault?.(indexes.map((index) => index + first)),
      );
    }
    const store = new RegionGroup(this.#members);
    this.#store = store;
    const kept = await this.#kept(store, phase);
    const destination: Destination = {
      onFault: undefined,
      exported: this.exported,
      region: store,
      ...(kept === undefined ? {} : { kept }),
    };
    faults.destination = destination;
    const problem = await supervision.hold(directory.path, this.#members, this.#exports.mounts);
    if (problem !== "") output.note(`warning: the supervisor holds nothing: ${problem}`);
    if (!this.#exports.serve()) {
      output.note(
        "warning: before Linux 6.9 what was being read when the peer was killed waits on",
      );
    }
    return destination;
  }

  describe():
    | { regionName: string; regionBytes: number; chunkBytes: number; host: string; version: string }
    | undefined {
    const offer = this.#offer;
    if (offer === undefined) return undefined;
    return {
      regionName: nameOf(offer),
      regionBytes: bytesOf(offer),
      chunkBytes: offer.chunkBytes,
      host: hostname(),
      version: VERSION,
    };
  }

  /** Starts the workload: its devices first, then the hook. */
  async onResume(signal: AbortSignal): Promise<void> {
    await this.#exports.attach();
    const command = this.#options.args.text("on-resume");
    if (command === undefined) return;
    await runHook(
      "--on-resume",
      command,
      {
        MEMFERRY_REGION: this.#offer === undefined ? "" : nameOf(this.#offer),
        MEMFERRY_BYTES: String(this.#offer === undefined ? 0 : bytesOf(this.#offer)),
        MEMFERRY_PATH: this.paths[0] ?? "",
        MEMFERRY_PATHS: this.paths.join("\n"),
      },
      signal,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#exports.close();
    for (const { region } of this.#members) await region.close();
    if (this.#keep) return;
    for (const file of this.#createdFiles) await rm(file, { force: true });
  }

  async #add(
    { name, bytes }: OfferedRegion,
    offer: OfferMessage,
    onFault: (indexes: Uint32Array) => void,
  ): Promise<void> {
    const file = this.#files.get(name) ?? name;
    const inherited = this.#options.supervision.holdings.stores[name];
    const own = this.#shown.of(name)?.kind === "file";
    if (inherited === undefined) {
      const made = await this.#checkFile(file, bytes, own);
      if (made) this.#createdFiles.push(file);
      else if (own) this.#updated.add(name);
    }
    const region = await this.#open(file, inherited, { name, bytes, offer, onFault });
    this.#members.push({ name, region });
    const shown = this.#shown.of(name);
    if (shown === undefined) return;
    if (isServed(shown)) this.#places.set(name, this.#exports.add(shown, name, region));
    else warnOfReceiving(this.#options.output, file, bytes);
  }

  async #open(
    file: string,
    inherited: number | undefined,
    of: {
      readonly name: string;
      readonly bytes: number;
      readonly offer: OfferMessage;
      readonly onFault: (indexes: Uint32Array) => void;
    },
  ): Promise<NativeRegion> {
    const { args, directory, phase } = this.#options;
    const { bytes, offer, onFault } = of;
    const path = directory.statePath(of.name);
    const owned = phase !== undefined && OWNED_PHASES.has(phase);
    const reserve = !args.flag("sparse");
    try {
      return loadNative().openRegion({
        store:
          inherited === undefined
            ? { kind: "file", path: file, create: !owned, reserve }
            : { kind: "descriptor", fd: inherited },
        bytes,
        chunkBytes: offer.chunkBytes,
        hashKey: offer.hashKey,
        present: "none",
        gate: "closed",
        state: { path, mode: owned ? "resume" : "create" },
        onFault,
      });
    } catch (error) {
      throw openFailure(error, file, bytes);
    }
  }

  /** What is here already: of an earlier process, or of a file that is to be brought up to date. */
  async #kept(
    store: RegionGroup,
    phase: LeecherPhase | undefined,
  ): Promise<KeptChunks | undefined> {
    if (phase !== undefined && OWNED_PHASES.has(phase)) {
      return {
        present: store.presence(),
        presentHashes: store.storedHashes(),
        // Nobody is kept waiting for a look at chunks that nobody may see yet.
        heldHashes: new Uint8Array(0),
      };
    }
    const looked = store.regions.filter(
      ({ name }) => phase !== undefined || this.#updated.has(name),
    );
    if (looked.length === 0) return undefined;
    const heldHashes = new Uint8Array(store.chunkCount * HASH_BYTES);
    for (const { firstChunk, chunkCount } of looked) {
      const end = firstChunk + chunkCount;
      for (let first = firstChunk; first < end; first += HASH_BATCH_CHUNKS) {
        const count = Math.min(HASH_BATCH_CHUNKS, end - first);
        const indexes = Uint32Array.from({ length: count }, (_, i) => first + i);
        heldHashes.set((await store.hash(indexes)).hashes, first * HASH_BYTES);
      }
    }
    return {
      present: new Uint8Array(Math.ceil(store.chunkCount / 8)),
      presentHashes: new Uint8Array(0),
      heldHashes,
    };
  }

  #requireFileName(name: string): void {
    try {
      requireName(name);
    } catch (cause) {
      throw new MigrationError(
        "MESSAGE_MALFORMED",
        "the region's name cannot be the name of a file",
        { cause },
      );
    }
  }

  /**
   * @param own The region is to be that file, whatever it holds now.
   * @returns Whether the file is going to be made.
   */
  async #checkFile(file: string, regionBytes: number, own: boolean): Promise<boolean> {
    const { args, phase } = this.#options;
    const owned = phase !== undefined && OWNED_PHASES.has(phase);
    let size;
    try {
      ({ size } = await stat(file));
    } catch {
      if (owned) {
        throw new MigrationError(
          "RESUME_INVALID",
          `${file} is gone, and with it the chunks that were received: bring it back`,
        );
      }
      // Absent, or not to be looked at: opening it says which.
      return true;
    }
    if (size !== regionBytes) {
      throw new MigrationError(
        "REGION_MISMATCH",
        own
          ? `${file} has ${size} bytes and the region ${regionBytes}: only a file of the same length can be brought up to date; delete it, or give it that length (truncate --size ${regionBytes}), or give another path`
          : `${file} has ${size} bytes and the region ${regionBytes}: delete it or give another --file`,
      );
    }
    // Whether it was here before this session nobody can say any more, or need to.
    if (own) return false;
    // What an earlier process of this session made is this session's.
    if (phase !== undefined) return !owned && !args.flag("overwrite");
    if (!args.flag("overwrite")) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${file} exists: add --overwrite to replace what it holds, or give another --file`,
      );
    }
    return false;
  }
}

function openFailure(error: unknown, file: string, bytes: number): unknown {
  if (!(error instanceof NativeError)) return error;
  if (error.code === "ENOSPC" || error.code === "EDQUOT") {
    return new MigrationError(
      "STORE_FULL",
      `no room for ${formatBytes(bytes)} at ${file}: free space there, give another --file, or add --sparse`,
      { cause: error },
    );
  }
  if (error.code === "ESTATE") {
    return new MigrationError(
      "JOURNAL_INVALID",
      `${error.message}: nobody can say which chunks of ${file} are here; type \`memferry recover\``,
      { cause: error },
    );
  }
  return new MigrationError("STORE_FAILED", `--file ${file}: ${error.message}`, { cause: error });
}

function nameOf(offer: OfferMessage): string {
  return offer.regions.map(({ name }) => name).join("+");
}

function bytesOf(offer: OfferMessage): number {
  return offer.regions.reduce((sum, { bytes }) => sum + bytes, 0);
}
