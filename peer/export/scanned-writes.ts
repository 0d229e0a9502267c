/**
 * Writes to a file that is not exported by us: found by comparing its chunks with what was sent.
 *
 * A look costs a read of the whole file but for its holes, so the file's times are asked first whether there can have
 * been a write. They are no more than a hint, and are believed only if that is safe:
 *
 * - The kernel stamps a store through a mapping when it faults, and lets further stores to the page pass unstamped until
 *   the page is written back. So the cache is written back before the times are read; and a stamp that is not older than
 *   the beginning of that write-back proves nothing: a page may have become writable since.
 * - Stamps are coarse: a tick of the kernel (1 to 10 ms), 2 s on some file systems. So the stamp must be older by
 *   `SETTLED_MS`, or a write in the same tick would go unseen.
 * - A call or a fault is stamped when it begins and may go on for long. So at the last look, after which nothing is found
 *   any more, the stamp must be older by `QUIET_MS`.
 * - tmpfs never stamps a store through a mapping, and of other file systems it is not known: there, every look is made.
 *
 * @module
 */
import type { BigIntStats } from "node:fs";
import { open, stat, type FileHandle } from "node:fs/promises";
import { NativeError, type NativeRegion } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import { ChunkSet } from "../migration/bitmap.ts";
import type { DirtySource, SentHash } from "../region/region.ts";
import { fileSystemOf, type FileSystem } from "./file-system.ts";

/** What is hashed in one call: enough that all threads of the region are busy until its end. */
const BATCH_BYTES = 32 * 1024 * 1024;
const HASH_BYTES = 32;
const SETTLED_MS = 3_000;
const QUIET_MS = 60_000;

/** One comparison of the file with what was sent. */
export interface Look {
  /** All that was compared; holes among it were not read. */
  readonly bytes: number;
  readonly elapsedMs: number;
  readonly changedChunks: number;
}

export interface ScannedWritesOptions {
  readonly onLook?: (look: Look) => void;
  /** Milliseconds, by the clock that stamps files. */
  readonly now?: () => number;
  /** Reads the times of an open file. */
  readonly statOf?: (file: FileHandle) => Promise<BigIntStats>;
}

/** The file's times, and until when they had not moved. */
interface Stamp {
  readonly text: string;
  /** From the last stamped write to the beginning of the write-back before it was read. */
  readonly ageMs: number;
}

export class ScannedWrites implements DirtySource {
  readonly fileSystem: FileSystem;
  readonly #region: NativeRegion;
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #options: ScannedWritesOptions;
  #stamp: Stamp | undefined;
  #frozen = false;

  private constructor(
    region: NativeRegion,
    path: string,
    file: FileHandle,
    fileSystem: FileSystem,
    options: ScannedWritesOptions,
  ) {
    this.#region = region;
    this.#path = path;
    this.#file = file;
    this.fileSystem = fileSystem;
    this.#options = options;
  }

  static async open(
    region: NativeRegion,
    path: string,
    options: ScannedWritesOptions = {},
  ): Promise<ScannedWrites> {
    const fileSystem = await fileSystemOf(path);
    return new ScannedWrites(region, path, await open(path, "r"), fileSystem, options);
  }

  async begin(): Promise<void> {
    this.#stamp = await this.#readStamp();
  }

  async collect(sentHash: SentHash): Promise<Uint8Array> {
    const last = this.#frozen;
    const before = this.#stamp;
    const stamp = await this.#readStamp();
    const neededMs = last ? QUIET_MS : SETTLED_MS;
    const unmoved = stamp.text === before?.text && before.ageMs > neededMs;
    if (unmoved && this.fileSystem.timesTell) return new ChunkSet(this.#region.chunkCount).toBits();
    // Taken before the look: a write during it changes the stamp again and is found by the next one.
    this.#stamp = stamp;
    return (await this.#look(sentHash, last)).toBits();
  }

  /** Also ends a look that is under way: the one after it begins at once, and is the last. */
  async freeze(): Promise<void> {
    // Nothing here can hold somebody else's writes: that is the suspend hook's part.
    this.#frozen = true;
    await this.#region.quiesce();
  }

  thaw(): void {
    this.#frozen = false;
  }

  fence(): void {
    // The file is not ours to close; the release hook's author decides what becomes of it.
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #look(sentHash: SentHash, last: boolean): Promise<ChunkSet> {
    const { chunkBytes, chunkCount, bytes } = this.#region;
    const startedAtMs = performance.now();
    const changed = new ChunkSet(chunkCount);
    const batchChunks = Math.max(1, Math.floor(BATCH_BYTES / chunkBytes));
    const hashed = (first: number): ReturnType<NativeRegion["hash"]> | undefined => {
      if (first >= chunkCount) return undefined;
      const count = Math.min(batchChunks, chunkCount - first);
      const hashes = this.#region.hash(Uint32Array.from({ length: count }, (_, i) => first + i));
      // Awaited a batch later; that it fails before is no unhandled rejection.
      hashes.catch(() => undefined);
      return hashes;
    };
    // Two batches under way: the threads have work while this one compares.
    let next = hashed(0);
    for (let first = 0; next !== undefined; first += batchChunks) {
      const current = next;
      // A look in a round may be cut short by the freeze: what it has not seen the last one finds.
      const cut = this.#frozen && !last;
      next = cut ? undefined : hashed(first + batchChunks);
      const { hashes } = await current.catch(async (error: unknown) => {
        throw await this.#explained(error);
      });
      compare(hashes, first, sentHash, changed);
      if (!cut) continue;
      this.#stamp = undefined;
      return changed;
    }
    this.#options.onLook?.({
      bytes,
      elapsedMs: performance.now() - startedAtMs,
      changedChunks: changed.size,
    });
    return changed;
  }

  async #readStamp(): Promise<Stamp> {
    const { now = Date.now, statOf = statBig } = this.#options;
    const startedAtMs = now();
    await this.#file.datasync();
    const info = await statOf(this.#file);
    await this.#requireSame(info);
    const writtenAtMs = Number(
      (info.mtimeNs > info.ctimeNs ? info.mtimeNs : info.ctimeNs) / 1_000_000n,
    );
    return {
      text: `${info.mtimeNs}:${info.ctimeNs}:${info.size}`,
      ageMs: startedAtMs - writtenAtMs,
    };
  }

  /**
   * One that was removed is still whole, and one that grew is still all of the region.
   *
   * @throws MigrationError `SOURCE_CHANGED` if it was cut, or programs find another file in its place
   */
  async #requireSame(info: BigIntStats): Promise<void> {
    const { bytes } = this.#region;
    if (info.size < BigInt(bytes)) {
      throw new MigrationError(
        "SOURCE_CHANGED",
        `${this.#path} shrank from ${bytes} to ${info.size} bytes while it was being migrated: restore it, and keep it from being truncated`,
      );
    }
    const there = await stat(this.#path, { bigint: true }).catch(() => undefined);
    if (there === undefined || (there.ino === info.ino && there.dev === info.dev)) return;
    throw new MigrationError(
      "SOURCE_CHANGED",
      `${this.#path} is another file now, renamed over the one that was being migrated: start again, and keep programs from replacing it meanwhile`,
    );
  }

  /** A read past the end of a file that was truncated under the look is told as what it is. */
  async #explained(error: unknown): Promise<unknown> {
    if (!(error instanceof NativeError) || error.code !== "EIO") return error;
    return await this.#file.stat({ bigint: true }).then(
      (info) =>
        this.#requireSame(info).then(
          () => error,
          (changed: unknown) => changed,
        ),
      () => error,
    );
  }
}

function statBig(file: FileHandle): Promise<BigIntStats> {
  return file.stat({ bigint: true });
}

function compare(hashes: Uint8Array, first: number, sentHash: SentHash, changed: ChunkSet): void {
  for (let start = 0; start < hashes.length; start += HASH_BYTES) {
    const index = first + start / HASH_BYTES;
    const sent = sentHash(index);
    const now = hashes.subarray(start, start + HASH_BYTES);
    if (sent === undefined || Buffer.compare(sent, now) !== 0) changed.add(index);
  }
}
