/**
 * What outlives a process: a region's file with its state file, and a journal. What outlives a host is less.
 *
 * @module
 */
import { loadNative } from "../../native/index.ts";
import type { Journal } from "../../peer/journal/journal.ts";
import { MigrationError } from "../../peer/errors.ts";
import { ChunkSet } from "../../peer/migration/bitmap.ts";
import type { RegionSlice } from "../../peer/region/region.ts";
import { lengthOfChunk } from "../../peer/region/region.ts";
import type { Actor, Host } from "./actor.ts";
import type { Clock } from "./clock.ts";
import type { Random } from "./random.ts";
import type { SimRegion } from "./region.ts";
import { CELL_BYTES } from "./shadow.ts";

const HASH_BYTES = 32;
/** In every message of an error here: no other host may hear it. */
export const SECRET_PATH = "/srv/secret-place";

export class DiskError extends Error {
  override readonly name = "NativeError";
  readonly code: string;

  constructor(code: string) {
    super(`${code}: ${SECRET_PATH}`);
    this.code = code;
  }
}

export interface DiskTrouble {
  meanMs: number;
  /** Every store fails. */
  full: boolean;
  /** Share of journal writes that fail. */
  journalFails: number;
  /** Share of syncs that fail. */
  syncFails: number;
  /** Share of reads that fail. */
  readFails: number;
}

/** A request of a program, waiting in the kernel. */
export interface Access {
  readonly program: Actor;
  readonly cell: number;
  readonly write: boolean;
  /** Into a mapping: the server learns of it when the kernel writes it back. */
  readonly mapped: boolean;
  readonly served: (bytes: Uint8Array) => void;
  readonly failed: (error: Error) => void;
}

export interface ImageOptions {
  readonly host: Host;
  readonly slices: readonly RegionSlice[];
  readonly chunkBytes: number;
  readonly hashKey: Uint8Array;
  readonly present: "all" | "none";
  readonly clock: Clock;
  readonly random: Random;
  readonly trouble: DiskTrouble;
  readonly placeOf: (cell: number) => { readonly chunk: number; readonly offset: number };
  /** A write takes effect. @returns The cell's bytes from now on */
  readonly onWrite: (cell: number) => Uint8Array;
}

/** One side's file and region state file, and what programs want of it. */
export class Image {
  readonly options: ImageOptions;
  readonly chunkCount: number;
  /** A slot of `chunkBytes` per chunk: what programs see. */
  readonly cache: Buffer;
  /** What the server of the region sees: not yet what programs wrote into mappings. */
  readonly file: Buffer;
  /** Cells that programs wrote into mappings, and that the kernel has not written back. */
  readonly #mapped = new Set<number>();
  /** What a host crash leaves of it. */
  readonly durable: Uint8Array;
  readonly unsynced: ChunkSet;
  /** The live bitmap. */
  present: ChunkSet;
  /** The bitmap of the newest slot. */
  checkpointed: ChunkSet;
  readonly storedHashes: Uint8Array;
  server: SimRegion | undefined;
  parked: Access[] = [];
  /** Changes whenever bytes or presence do. */
  version = 0;

  constructor(options: ImageOptions) {
    this.options = options;
    const { slices, chunkBytes } = options;
    this.chunkCount = slices.reduce((sum, slice) => sum + slice.chunkCount, 0);
    this.cache = Buffer.alloc(this.chunkCount * chunkBytes);
    this.file = Buffer.alloc(this.chunkCount * chunkBytes);
    this.durable = new Uint8Array(this.chunkCount * chunkBytes);
    this.unsynced = new ChunkSet(this.chunkCount);
    const all = options.present === "all";
    this.present = all ? ChunkSet.all(this.chunkCount) : new ChunkSet(this.chunkCount);
    this.checkpointed = ChunkSet.from(this.present.toBits(), this.chunkCount);
    this.storedHashes = new Uint8Array(this.chunkCount * HASH_BYTES);
  }

  chunkLength(index: number): number {
    return lengthOfChunk(this.options.slices, this.options.chunkBytes, index);
  }

  slot(index: number): Uint8Array {
    const start = index * this.options.chunkBytes;
    return this.file.subarray(start, start + this.chunkLength(index));
  }

  hash(bytes: Uint8Array): Uint8Array {
    return loadNative().blake3(bytes, this.options.hashKey);
  }

  /** The server stores bytes. */
  put(index: number, bytes: Uint8Array): void {
    this.slot(index).set(bytes);
    this.cache.set(bytes, index * this.options.chunkBytes);
    this.unsynced.add(index);
    this.version++;
  }

  /** The kernel writes mappings back, as every fsync and every flush of an export makes it do. */
  writeBack(): void {
    for (const cell of this.#mapped) {
      const { chunk, offset } = this.options.placeOf(cell);
      this.file.set(this.cache.subarray(offset, offset + CELL_BYTES), offset);
      this.#wrote(chunk);
    }
    this.#mapped.clear();
  }

  #wrote(chunk: number): void {
    this.unsynced.add(chunk);
    this.version++;
    this.server?.wrote(chunk);
  }

  /** What was written of these chunks by now is on the disk. */
  flush(chunks: Iterable<number>): void {
    for (const index of chunks) {
      const start = index * this.options.chunkBytes;
      this.durable.set(this.slot(index), start);
      this.unsynced.delete(index);
    }
  }

  checkpoint(present: ChunkSet): void {
    this.checkpointed.addAll(present);
  }

  /** The host went down: of what was not synced, the disk has any part. */
  crash(): void {
    const { random, chunkBytes } = this.options;
    for (const index of this.unsynced) {
      const start = index * chunkBytes;
      if (random.chance(0.5)) this.durable.set(this.slot(index), start);
    }
    this.cache.set(this.durable);
    this.file.set(this.durable);
    this.#mapped.clear();
    this.unsynced.clear();
    this.present = ChunkSet.from(this.checkpointed.toBits(), this.chunkCount);
    for (let index = 0; index < this.chunkCount; index++) {
      // Hashes are mapped memory: those that no checkpoint synced may be old or new.
      if (this.present.has(index) || random.chance(0.5)) continue;
      this.storedHashes.fill(0, index * HASH_BYTES, (index + 1) * HASH_BYTES);
    }
    this.parked = [];
    this.version++;
  }

  /** The operator gave it up. */
  drop(): void {
    this.cache.fill(0xdd);
    this.file.fill(0xdd);
    this.durable.fill(0xdd);
    this.version++;
  }

  submit(access: Access): void {
    this.parked.push(access);
    this.serve();
  }

  /** Serves whoever can be served now. */
  serve(): void {
    if (this.parked.length === 0) return;
    const waiting = this.parked;
    this.parked = [];
    for (const access of waiting) if (!this.#serveOne(access)) this.parked.push(access);
  }

  #serveOne(access: Access): boolean {
    if (!access.program.alive) return true;
    const { server } = this;
    if (server?.actor.alive !== true || server.gate === "closed") return false;
    if (server.gate === "draining" && !access.write) return false;
    if (server.gate === "fenced") {
      access.failed(new DiskError("ESTALE"));
      return true;
    }
    const { chunk, offset } = this.options.placeOf(access.cell);
    if (!this.present.has(chunk)) {
      server.fault(chunk);
      return false;
    }
    if (access.write) {
      const bytes = this.options.onWrite(access.cell);
      this.cache.set(bytes, offset);
      if (access.mapped) {
        this.#mapped.add(access.cell);
        this.version++;
      } else {
        // A write past the mapping takes along what is in it.
        this.#mapped.delete(access.cell);
        this.file.set(bytes, offset);
        this.#wrote(chunk);
      }
      access.served(bytes);
    } else {
      access.served(Uint8Array.from(this.cache.subarray(offset, offset + CELL_BYTES)));
    }
    server.servedOne();
    return true;
  }
}

/** A journal's file: whole at any time, the old one or the new one. */
export class JournalFile<R> {
  record: R | undefined;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #trouble: DiskTrouble;
  readonly #onWrite: (actor: Actor, record: R, moment: "begins" | "durable" | "fails") => void;

  constructor(options: {
    readonly clock: Clock;
    readonly random: Random;
    readonly trouble: DiskTrouble;
    readonly onWrite: (actor: Actor, record: R, moment: "begins" | "durable" | "fails") => void;
  }) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#trouble = options.trouble;
    this.#onWrite = options.onWrite;
  }

  /** What one process has of it. */
  open(actor: Actor): Journal<R> {
    let lastMs = 0;
    const pending: R[] = [];
    actor.onDeath(() => {
      // Any number of the writes that were begun may have come through, in their order.
      for (const record of pending) {
        if (this.#random.chance(0.5)) break;
        this.record = record;
      }
    });
    return {
      record: this.record,
      write: (record) => {
        if (!actor.alive) return new Promise(() => undefined);
        const copy = structuredClone(record);
        const fails = this.#random.chance(this.#trouble.journalFails);
        const atMs = Math.max(lastMs, this.#clock.nowMs + this.#random.delay(this.#trouble.meanMs));
        lastMs = atMs;
        pending.push(copy);
        this.#onWrite(actor, copy, "begins");
        return this.#clock.answer(atMs - this.#clock.nowMs, actor, () => {
          pending.shift();
          if (!fails || this.#random.chance(0.5)) this.record = copy;
          this.#onWrite(actor, copy, fails ? "fails" : "durable");
          if (fails) throw new MigrationError("JOURNAL_FAILED", `cannot write ${SECRET_PATH}`);
        });
      },
    };
  }
}
