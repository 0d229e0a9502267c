/**
 * A store in this process's memory, for tests and as the least that a store is.
 *
 * @module
 */
import {
  requireBlocks,
  StoreError,
  type Store,
  type StoreExtent,
  type StoreTraits,
} from "./store.ts";

const DEFAULT_BLOCK_BYTES = 64 * 1024;

export class MemoryStore implements Store {
  readonly name: string;
  readonly bytes: number;
  readonly traits: StoreTraits;
  /** By number; one that is not there was never written. */
  readonly #blocks = new Map<number, Uint8Array>();
  #closed = false;

  constructor(bytes: number, { blockBytes = DEFAULT_BLOCK_BYTES } = {}) {
    this.bytes = bytes;
    this.name = `memory:${bytes}`;
    this.traits = {
      blockBytes,
      maxBytes: Math.max(blockBytes, 4 << 20),
      concurrency: 64,
      readOnly: false,
      fenced: true,
    };
  }

  async read(offset: number, into: Uint8Array): Promise<boolean> {
    this.#require(offset, into.length);
    let found = false;
    for (const { block, at, length } of this.#blocksOf(offset, into.length)) {
      const bytes = this.#blocks.get(block);
      if (bytes === undefined) into.fill(0, at, at + length);
      else into.set(bytes, at);
      found ||= bytes !== undefined;
    }
    return await Promise.resolve(found);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#require(offset, bytes.length);
    for (const { block, at, length } of this.#blocksOf(offset, bytes.length)) {
      this.#blocks.set(block, bytes.slice(at, at + length));
    }
    await Promise.resolve();
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#require(offset, length);
    for (const { block } of this.#blocksOf(offset, length)) this.#blocks.delete(block);
    await Promise.resolve();
  }

  async flush(): Promise<void> {
    if (this.#closed) throw closed(this.name);
    await Promise.resolve();
  }

  async *list(): AsyncIterable<StoreExtent> {
    const { blockBytes } = this.traits;
    for (const block of [...this.#blocks.keys()].sort((a, b) => a - b)) {
      const offset = block * blockBytes;
      yield await Promise.resolve({ offset, length: Math.min(blockBytes, this.bytes - offset) });
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.resolve();
  }

  #require(offset: number, length: number): void {
    if (this.#closed) throw closed(this.name);
    requireBlocks(this, offset, length);
  }

  *#blocksOf(
    offset: number,
    length: number,
  ): Iterable<{ block: number; at: number; length: number }> {
    const { blockBytes } = this.traits;
    for (let at = 0; at < length; at += blockBytes) {
      yield { block: (offset + at) / blockBytes, at, length: Math.min(blockBytes, length - at) };
    }
  }
}

export function closed(name: string): StoreError {
  return new StoreError("STORE_CLOSED", `${name} was closed`);
}
