/**
 * The file and the export of a region that is received.
 *
 * @module
 */
import { rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { loadNative, NativeError, type FuseMount, type NativeRegion } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import { openExport } from "../export/export.ts";
import type { Destination } from "../migration/destination.ts";
import type { OfferMessage } from "../migration/messages.ts";
import { VERSION } from "../version.ts";
import type { Arguments } from "./command-line.ts";
import { runHook } from "./hook.ts";
import { formatBytes } from "./size.ts";

/** The file and the export of what is received. Until `keep`, what was made here is removed again at the end. */
export class LeechedRegion {
  readonly #args: Arguments;
  readonly #file: string;
  readonly #exportDirectory: string | undefined;
  #offer: OfferMessage | undefined;
  #region: NativeRegion | undefined;
  #mount: FuseMount | undefined;
  #createdFile = false;
  #keep = false;

  constructor(args: Arguments, file: string, exportDirectory: string | undefined) {
    this.#args = args;
    this.#file = file;
    this.#exportDirectory = exportDirectory;
  }

  /** Where programs find the region. */
  get path(): string {
    if (this.#exportDirectory === undefined || this.#offer === undefined) return this.#file;
    return join(this.#exportDirectory, this.#offer.regionName);
  }

  /** @throws what is wrong with the mount point */
  mount(): void {
    if (this.#exportDirectory === undefined) return;
    this.#mount = openExport(loadNative(), { kind: "fuse", directory: this.#exportDirectory });
  }

  /** Lets nobody read or write any more, and makes what is here durable. */
  async stop(): Promise<void> {
    this.#region?.setGate("closed");
    await this.#region?.quiesce();
    await this.#region?.sync();
  }

  keep(): void {
    this.#keep = true;
  }

  async prepare(offer: OfferMessage): Promise<Destination> {
    if (/[/\0]/.test(offer.regionName) || ["", ".", ".."].includes(offer.regionName)) {
      throw new MigrationError(
        "MESSAGE_MALFORMED",
        "the region's name cannot be the name of a file",
      );
    }
    this.#createdFile = await this.#checkFile(offer.regionBytes);
    this.#offer = offer;
    const destination: Destination & { region: NativeRegion } = {
      onFault: undefined,
      exported: this.#exportDirectory !== undefined,
      region: this.#open(offer, (indexes) => destination.onFault?.(indexes)),
    };
    this.#region = destination.region;
    this.#mount?.add(offer.regionName, this.#region);
    return destination;
  }

  describe():
    | { regionName: string; regionBytes: number; chunkBytes: number; host: string; version: string }
    | undefined {
    const offer = this.#offer;
    if (offer === undefined) return undefined;
    const { regionName, regionBytes, chunkBytes } = offer;
    return { regionName, regionBytes, chunkBytes, host: hostname(), version: VERSION };
  }

  resumeHook(): { onResume?: (signal: AbortSignal) => Promise<void> } {
    const command = this.#args.text("on-resume");
    if (command === undefined) return {};
    return {
      onResume: (signal) =>
        runHook(
          "--on-resume",
          command,
          {
            MEMFERRY_REGION: this.#offer?.regionName ?? "",
            MEMFERRY_BYTES: String(this.#offer?.regionBytes ?? 0),
            MEMFERRY_PATH: this.path,
          },
          signal,
        ),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mount?.unmount();
    await this.#region?.close();
    if (this.#createdFile && !this.#keep) await rm(this.#file, { force: true });
  }

  #open(offer: OfferMessage, onFault: (indexes: Uint32Array) => void): NativeRegion {
    try {
      return loadNative().openRegion({
        store: {
          kind: "file",
          path: this.#file,
          create: true,
          reserve: !this.#args.flag("sparse"),
        },
        bytes: offer.regionBytes,
        chunkBytes: offer.chunkBytes,
        hashKey: offer.hashKey,
        present: "none",
        gate: "closed",
        onFault,
      });
    } catch (error) {
      if (!(error instanceof NativeError)) throw error;
      if (error.code === "ENOSPC" || error.code === "EDQUOT") {
        throw new MigrationError(
          "STORE_FULL",
          `no room for ${formatBytes(offer.regionBytes)} at ${this.#file}: free space there, give another --file, or add --sparse`,
          { cause: error },
        );
      }
      throw new MigrationError("STORE_FAILED", `--file ${this.#file}: ${error.message}`, {
        cause: error,
      });
    }
  }

  /** @returns Whether the file is going to be made. */
  async #checkFile(regionBytes: number): Promise<boolean> {
    let size;
    try {
      ({ size } = await stat(this.#file));
    } catch {
      if (this.#args.flag("resume")) {
        throw new MigrationError(
          "RESUME_INVALID",
          `${this.#file} is gone, and with it the chunks that were received: bring it back`,
        );
      }
      // Absent, or not to be looked at: opening it says which.
      return true;
    }
    if (size !== regionBytes) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${this.#file} has ${size} bytes and the region ${regionBytes}: delete it or give another --file`,
      );
    }
    if (!this.#args.flag("overwrite") && !this.#args.flag("resume")) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${this.#file} exists: add --overwrite to replace what it holds, or give another --file`,
      );
    }
    return false;
  }
}
