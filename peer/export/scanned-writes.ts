/**
 * Writes to a file that is not exported by us: found by comparing its chunks with what was sent.
 *
 * A look costs a read of the whole file, so it is only made when the file's times say that there was a write.
 * The cache is written back before they are read, for only then does the kernel stamp the next write through a
 * mapping with a new time. tmpfs never stamps those, so there every last look is made.
 *
 * @module
 */
import { open, statfs, type FileHandle } from "node:fs/promises";
import type { NativeRegion } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import { ChunkSet } from "../migration/bitmap.ts";
import type { DirtySource, SentHash } from "../region/region.ts";

const SCAN_BATCH_CHUNKS = 256;
const HASH_BYTES = 32;
const TMPFS_MAGIC = 0x01021994;

export class ScannedWrites implements DirtySource {
  readonly #region: NativeRegion;
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #timesLie: boolean;
  #stamp = "";
  #frozen = false;

  private constructor(region: NativeRegion, path: string, file: FileHandle, timesLie: boolean) {
    this.#region = region;
    this.#path = path;
    this.#file = file;
    this.#timesLie = timesLie;
  }

  static async open(region: NativeRegion, path: string): Promise<ScannedWrites> {
    const { type } = await statfs(path);
    return new ScannedWrites(region, path, await open(path, "r"), type === TMPFS_MAGIC);
  }

  async begin(): Promise<void> {
    await this.#file.datasync();
    this.#stamp = await this.#changeStamp();
  }

  async collect(sentHash: SentHash): Promise<Uint8Array> {
    await this.#file.datasync();
    const stamp = await this.#changeStamp();
    const dirty = new ChunkSet(this.#region.chunkCount);
    if (stamp === this.#stamp && !(this.#frozen && this.#timesLie)) return dirty.toBits();
    // Taken before the scan: a write during it changes the stamp again and is found by the next look.
    this.#stamp = stamp;
    for (let first = 0; first < this.#region.chunkCount; first += SCAN_BATCH_CHUNKS) {
      const count = Math.min(SCAN_BATCH_CHUNKS, this.#region.chunkCount - first);
      const { hashes } = await this.#region.hash(
        Uint32Array.from({ length: count }, (_, i) => first + i),
      );
      for (let i = 0; i < count; i++) {
        const sent = sentHash(first + i);
        const now = hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
        if (sent === undefined || Buffer.compare(sent, now) !== 0) dirty.add(first + i);
      }
    }
    return dirty.toBits();
  }

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

  async #changeStamp(): Promise<string> {
    const stat = await this.#file.stat({ bigint: true });
    if (stat.size < BigInt(this.#region.bytes)) {
      throw new MigrationError(
        "SOURCE_CHANGED",
        `${this.#path} shrank from ${this.#region.bytes} to ${stat.size} bytes while it was being migrated: restore it, and keep it from being truncated`,
      );
    }
    return `${stat.mtimeNs}:${stat.ctimeNs}:${stat.size}`;
  }
}
