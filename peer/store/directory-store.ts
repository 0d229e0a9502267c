/**
 * A store in a directory: a file for each block.
 *
 * A block is written beside its place, made durable, and renamed into it, so that a crash leaves the old one or the new
 * one. One of zeros has no file. `DIR/memferry-store.json` says what it is.
 *
 * @module
 */
import { mkdir, open, opendir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { messageOf } from "../../relay/protocol/errors.ts";
import { fileError, requireFits, type OpenStoreOptions } from "./opening.ts";
import {
  requireBlocks,
  StoreError,
  type Store,
  type StoreExtent,
  type StoreTraits,
} from "./store.ts";

const LABEL = "memferry-store.json";
const FORMAT = "memferry-directory-1";
/** Blocks of one folder, so that none gets too long. */
const FOLDER_BLOCKS = 4096;
const DIGITS = 10;

const labelSchema = z.strictObject({
  format: z.literal(FORMAT),
  bytes: z.int().positive(),
  blockBytes: z.int().positive(),
});

export class DirectoryStore implements Store {
  readonly name: string;
  readonly bytes: number;
  readonly traits: StoreTraits;
  readonly #path: string;
  /** Folders in which something was renamed or removed since they were made durable. */
  readonly #changed = new Set<string>();
  #temporary = 0;
  #closed = false;

  private constructor(path: string, bytes: number, blockBytes: number, readOnly: boolean) {
    this.#path = path;
    this.name = `directory:${path}`;
    this.bytes = bytes;
    this.traits = {
      blockBytes,
      maxBytes: Math.max(blockBytes, 1 << 20),
      concurrency: 16,
      readOnly,
      fenced: false,
    };
  }

  /** @throws StoreError */
  static async open(directory: string, options: OpenStoreOptions): Promise<DirectoryStore> {
    const path = resolve(directory);
    const label = (await readLabel(path)) ?? (await make(path, options));
    requireFits(`directory:${path}`, label, options);
    return new DirectoryStore(path, label.bytes, label.blockBytes, options.readOnly);
  }

  async read(offset: number, into: Uint8Array): Promise<boolean> {
    this.#require(offset, into.length);
    const { blockBytes } = this.traits;
    let found = false;
    for (let at = 0; at < into.length; at += blockBytes) {
      const block = into.subarray(at, at + blockBytes);
      if (await this.#readBlock((offset + at) / blockBytes, block)) found = true;
    }
    return found;
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#require(offset, bytes.length, true);
    const { blockBytes } = this.traits;
    for (let at = 0; at < bytes.length; at += blockBytes) {
      await this.#writeBlock((offset + at) / blockBytes, bytes.subarray(at, at + blockBytes));
    }
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#require(offset, length, true);
    const { blockBytes } = this.traits;
    for (let at = 0; at < length; at += blockBytes) {
      const path = this.#pathOf((offset + at) / blockBytes);
      await this.#try(() => rm(path, { force: true }));
      this.#changed.add(dirname(path));
    }
  }

  async flush(): Promise<void> {
    if (this.#closed) throw this.#wasClosed();
    const changed = [...this.#changed];
    this.#changed.clear();
    try {
      for (const folder of [...changed, this.#path]) await syncFolder(folder);
    } catch (error) {
      for (const folder of changed) this.#changed.add(folder);
      throw fileError(this.name, error);
    }
  }

  async *list(): AsyncIterable<StoreExtent> {
    const { blockBytes } = this.traits;
    const folders = await names(this.#path);
    for (const folder of folders.filter((name) => /^[0-9]+$/.test(name))) {
      for (const name of await names(join(this.#path, folder))) {
        if (!/^[0-9]+$/.test(name)) continue;
        const offset = Number(name) * blockBytes;
        if (offset < this.bytes)
          yield { offset, length: Math.min(blockBytes, this.bytes - offset) };
      }
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.resolve();
  }

  async #readBlock(block: number, into: Uint8Array): Promise<boolean> {
    const bytes = await readFile(this.#pathOf(block)).catch((error: unknown) => {
      if (isMissing(error)) return undefined;
      throw fileError(this.name, error);
    });
    if (bytes === undefined) {
      into.fill(0);
      return false;
    }
    if (bytes.length !== into.length) {
      throw new StoreError(
        "STORE_CORRUPT",
        `${this.#pathOf(block)} has ${bytes.length} bytes and not ${into.length}`,
      );
    }
    into.set(bytes);
    return true;
  }

  async #writeBlock(block: number, bytes: Uint8Array): Promise<void> {
    const path = this.#pathOf(block);
    const made = `${path}.${process.pid}.${this.#temporary++}.new`;
    await this.#try(async () => {
      await mkdir(dirname(path), { recursive: true });
      try {
        const file = await open(made, "wx", 0o600);
        try {
          await file.writeFile(bytes);
          await file.datasync();
        } finally {
          await file.close();
        }
        await rename(made, path);
      } catch (error) {
        await rm(made, { force: true });
        throw error;
      }
    });
    this.#changed.add(dirname(path));
  }

  async #try(run: () => Promise<unknown>): Promise<void> {
    try {
      await run();
    } catch (error) {
      throw fileError(this.name, error);
    }
  }

  #pathOf(block: number): string {
    const folder = Math.floor(block / FOLDER_BLOCKS);
    return join(this.#path, digits(folder), digits(block));
  }

  #require(offset: number, length: number, writes = false): void {
    if (this.#closed) throw this.#wasClosed();
    if (writes && this.traits.readOnly)
      throw new StoreError("STORE_READ_ONLY", `${this.name} was opened for reading`);
    requireBlocks(this, offset, length);
  }

  #wasClosed(): StoreError {
    return new StoreError("STORE_CLOSED", `${this.name} was closed`);
  }
}

function digits(number: number): string {
  return String(number).padStart(DIGITS, "0");
}

async function readLabel(path: string): Promise<z.infer<typeof labelSchema> | undefined> {
  const file = join(path, LABEL);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw fileError(`directory:${path}`, error);
  }
  try {
    return labelSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new StoreError("STORE_CORRUPT", `${file} is no label of memferry: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

async function make(path: string, options: OpenStoreOptions): Promise<z.infer<typeof labelSchema>> {
  const { bytes, blockBytes, readOnly } = options;
  if (bytes === undefined || readOnly) {
    throw new StoreError("STORE_MISSING", `${path} has no store in it: to make one, give --size`);
  }
  const label = { format: FORMAT, bytes, blockBytes } as const;
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    if ((await names(path)).length > 0) {
      throw new StoreError("STORE_MISMATCH", `${path} is neither empty nor a store of memferry`);
    }
    const file = join(path, LABEL);
    await writeFile(`${file}.new`, `${JSON.stringify(label)}\n`, { mode: 0o600 });
    await rename(`${file}.new`, file);
    await syncFolder(path);
  } catch (error) {
    throw error instanceof StoreError ? error : fileError(`directory:${path}`, error);
  }
  return label;
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function names(path: string): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of await opendir(path)) found.push(entry.name);
  return found.sort();
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
