/**
 * A store in one file, or on a block device.
 *
 * A write goes to a log first (`FILE.memferry-log`), is made durable there, and then stands in its place; whoever finds
 * the log after a crash puts what is whole in it into the file. So a crash in the middle leaves each block as it was, or
 * as it was to be. Writes that come together share a log record's way to the disk.
 *
 * @module
 */
import { open, rm, stat, type FileHandle } from "node:fs/promises";
import { resolve } from "node:path";
import { crc32 } from "node:zlib";
import { fileError, requireFits, type OpenStoreOptions } from "./opening.ts";
import { requireBlocks, StoreError, type Store, type StoreTraits } from "./store.ts";

const MAGIC = 0x4d_46_4c_31;
/** u32 magic, u32 checksum of what follows it, u64 offset, u32 length, u32 kind (0: bytes follow, 1: zeros). */
const HEAD_BYTES = 24;
const MAX_BYTES = 4 << 20;
/** A log that is longer is emptied. */
const LOG_BYTES_MAX = 64 << 20;
const ZEROS_BYTES = 1 << 20;

interface Write {
  readonly offset: number;
  readonly length: number;
  /** `undefined`: zeros. */
  readonly bytes: Uint8Array | undefined;
  readonly done: PromiseWithResolvers<void>;
}

export class FileStore implements Store {
  readonly name: string;
  readonly bytes: number;
  readonly traits: StoreTraits;
  readonly #file: FileHandle;
  readonly #log: FileHandle | undefined;
  #logBytes = 0;
  readonly #queue: Write[] = [];
  /** Those who want everything so far to be durable, without the log. */
  readonly #flushes: PromiseWithResolvers<void>[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  private constructor(
    name: string,
    file: FileHandle,
    log: FileHandle | undefined,
    shape: { readonly bytes: number; readonly blockBytes: number },
  ) {
    this.name = name;
    this.bytes = shape.bytes;
    this.#file = file;
    this.#log = log;
    this.traits = {
      blockBytes: shape.blockBytes,
      maxBytes: MAX_BYTES,
      concurrency: 16,
      readOnly: log === undefined,
      fenced: false,
    };
  }

  /** @throws StoreError */
  static async open(given: string, options: OpenStoreOptions): Promise<FileStore> {
    const path = resolve(given);
    const name = `file:${path}`;
    let file: FileHandle | undefined;
    let log: FileHandle | undefined;
    try {
      const there = await lengthOf(path);
      if (there === undefined && (options.bytes === undefined || options.readOnly)) {
        throw new StoreError("STORE_MISSING", `${path} is not there: to make it, give --size`);
      }
      const bytes = there ?? options.bytes ?? 0;
      if (bytes === 0) throw new StoreError("STORE_MISMATCH", `${path} is empty`);
      requireFits(name, { bytes }, options);
      file = await open(path, options.readOnly ? "r" : there === undefined ? "wx+" : "r+", 0o600);
      if (there === undefined) await file.truncate(bytes);
      const logPath = `${path}.memferry-log`;
      if (options.readOnly) {
        if ((await lengthOf(logPath)) !== undefined) {
          throw new StoreError(
            "STORE_MISMATCH",
            `${path} was not closed in order: open it for writing once`,
          );
        }
      } else {
        log = await open(logPath, "a+", 0o600);
        await replay(log, file, bytes);
      }
      return new FileStore(name, file, log, {
        bytes,
        blockBytes: Math.min(options.blockBytes, MAX_BYTES),
      });
    } catch (error) {
      await log?.close();
      await file?.close();
      throw fileError(name, error);
    }
  }

  async read(offset: number, into: Uint8Array): Promise<boolean> {
    this.#require(offset, into.length, false);
    await this.#try(() => readAll(this.#file, into, offset));
    return true;
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#require(offset, bytes.length, true);
    await this.#enqueue(offset, bytes.length, bytes);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#require(offset, length, true);
    await this.#enqueue(offset, length, undefined);
  }

  async flush(): Promise<void> {
    if (this.#closed) throw this.#wasClosed();
    if (this.#log === undefined) return;
    const done = Promise.withResolvers<void>();
    this.#flushes.push(done);
    this.#run();
    await done.promise;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#running;
    const whole = this.#log !== undefined && this.#logBytes === 0;
    await this.#log?.close();
    await this.#file.close();
    if (whole) await rm(`${this.name.slice("file:".length)}.memferry-log`, { force: true });
  }

  async #enqueue(offset: number, length: number, bytes: Uint8Array | undefined): Promise<void> {
    const done = Promise.withResolvers<void>();
    this.#queue.push({ offset, length, bytes, done });
    this.#run();
    await done.promise;
  }

  #run(): void {
    this.#running ??= this.#work().finally(() => (this.#running = undefined));
  }

  async #work(): Promise<void> {
    while (this.#queue.length > 0 || this.#flushes.length > 0) {
      const writes = this.#queue.splice(0);
      const flushes = this.#flushes.splice(0);
      try {
        if (writes.length > 0) await this.#perform(writes);
        if (flushes.length > 0 || this.#logBytes > LOG_BYTES_MAX) await this.#settle();
        for (const { done } of writes) done.resolve();
        for (const done of flushes) done.resolve();
      } catch (error) {
        const failure = fileError(this.name, error);
        for (const { done } of writes) done.reject(failure);
        for (const done of flushes) done.reject(failure);
      }
    }
  }

  async #perform(writes: readonly Write[]): Promise<void> {
    const log = this.#log;
    if (log === undefined) return;
    const parts = writes.flatMap(({ offset, length, bytes }) => {
      const head = recordHead(offset, length, bytes);
      return bytes === undefined ? [head] : [head, bytes];
    });
    try {
      await log.appendFile(Buffer.concat(parts));
      await log.datasync();
    } catch (error) {
      // What follows a torn record would never be found.
      await log.truncate(this.#logBytes);
      throw error;
    }
    this.#logBytes += parts.reduce((sum, part) => sum + part.length, 0);
    for (const { offset, length, bytes } of writes) await put(this.#file, offset, length, bytes);
  }

  /** The file has everything: the log is not needed any more. */
  async #settle(): Promise<void> {
    await this.#file.datasync();
    if (this.#logBytes === 0) return;
    await this.#log?.truncate(0);
    this.#logBytes = 0;
  }

  async #try(run: () => Promise<unknown>): Promise<void> {
    try {
      await run();
    } catch (error) {
      throw fileError(this.name, error);
    }
  }

  #require(offset: number, length: number, writes: boolean): void {
    if (this.#closed) throw this.#wasClosed();
    if (writes && this.traits.readOnly)
      throw new StoreError("STORE_READ_ONLY", `${this.name} was opened for reading`);
    requireBlocks(this, offset, length);
  }

  #wasClosed(): StoreError {
    return new StoreError("STORE_CLOSED", `${this.name} was closed`);
  }
}

function recordHead(offset: number, length: number, bytes: Uint8Array | undefined): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(MAGIC, 0);
  head.writeBigUInt64LE(BigInt(offset), 8);
  head.writeUInt32LE(length, 16);
  head.writeUInt32LE(bytes === undefined ? 1 : 0, 20);
  const sum = crc32(head.subarray(8));
  head.writeUInt32LE(bytes === undefined ? sum : crc32(bytes, sum), 4);
  return head;
}

/** Puts what is whole in the log into its place; what is torn was never said to be written. */
async function replay(log: FileHandle, file: FileHandle, bytes: number): Promise<void> {
  const { size } = await log.stat();
  const head = Buffer.alloc(HEAD_BYTES);
  for (let at = 0; at + HEAD_BYTES <= size;) {
    await readAll(log, head, at);
    const [offset, length] = [Number(head.readBigUInt64LE(8)), head.readUInt32LE(16)];
    const zeros = head.readUInt32LE(20) === 1;
    const next = at + HEAD_BYTES + (zeros ? 0 : length);
    if (head.readUInt32LE(0) !== MAGIC || next > size || offset + length > bytes) break;
    if (!zeros && length > MAX_BYTES) break;
    const content = zeros ? undefined : Buffer.alloc(length);
    if (content !== undefined) await readAll(log, content, at + HEAD_BYTES);
    const sum = crc32(head.subarray(8));
    if ((content === undefined ? sum : crc32(content, sum)) !== head.readUInt32LE(4)) break;
    await put(file, offset, length, content);
    at = next;
  }
  await file.datasync();
  await log.truncate(0);
}

async function put(
  file: FileHandle,
  offset: number,
  length: number,
  bytes: Uint8Array | undefined,
): Promise<void> {
  if (bytes !== undefined) return await writeAll(file, bytes, offset);
  const zeros = Buffer.alloc(Math.min(length, ZEROS_BYTES));
  for (let at = 0; at < length; at += zeros.length) {
    await writeAll(file, zeros.subarray(0, Math.min(zeros.length, length - at)), offset + at);
  }
}

async function readAll(file: FileHandle, into: Uint8Array, offset: number): Promise<void> {
  for (let at = 0; at < into.length;) {
    const { bytesRead } = await file.read(into, at, into.length - at, offset + at);
    if (bytesRead === 0)
      throw new StoreError("STORE_MISMATCH", `the file ends before ${offset + into.length}`);
    at += bytesRead;
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, offset + at);
    at += bytesWritten;
  }
}

/** `undefined`: it is not there. */
async function lengthOf(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    if (found.isFile()) return found.size;
    if (!found.isBlockDevice())
      throw new StoreError("STORE_MISMATCH", `${path} is neither a file nor a block device`);
    const device = await open(path, "r");
    try {
      // Where reading at the end gives nothing more.
      return await deviceBytes(device);
    } finally {
      await device.close();
    }
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

async function deviceBytes(device: FileHandle): Promise<number> {
  const byte = new Uint8Array(1);
  const isThere = async (offset: number): Promise<boolean> =>
    (await device.read(byte, 0, 1, offset)).bytesRead === 1;
  let [there, missing] = [0, 1];
  while (await isThere(missing)) [there, missing] = [missing, missing * 2];
  while (missing - there > 1) {
    const middle = Math.floor((there + missing) / 2);
    if (await isThere(middle)) there = middle;
    else missing = middle;
  }
  return (await isThere(0)) ? there + 1 : 0;
}
