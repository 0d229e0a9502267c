/**
 * A set of chunk indexes, one bit each, lowest bit of byte 0 first: as the addon gives it and as it goes on
 * the wire.
 *
 * @module
 */
import { BITMAP_PAGE_BYTES } from "./limits.ts";
import type { BitmapPage } from "./messages.ts";

/** How many bits each byte has. */
const BITS_SET = Uint8Array.from({ length: 256 }, (_, byte) => {
  let count = 0;
  for (let rest = byte; rest > 0; rest >>>= 1) count += rest & 1;
  return count;
});

export class ChunkSet {
  readonly chunkCount: number;
  readonly #bits: Uint8Array;
  #size = 0;

  constructor(chunkCount: number) {
    this.chunkCount = chunkCount;
    this.#bits = new Uint8Array(Math.ceil(chunkCount / 8));
  }

  static all(chunkCount: number): ChunkSet {
    const set = new ChunkSet(chunkCount);
    set.#bits.fill(0xff);
    if (chunkCount % 8 !== 0) set.#bits[set.#bits.length - 1] = (1 << (chunkCount % 8)) - 1;
    set.#size = chunkCount;
    return set;
  }

  /** @param bits `ceil(chunkCount / 8)` bytes; copied. */
  static from(bits: Uint8Array, chunkCount: number): ChunkSet {
    const set = new ChunkSet(chunkCount);
    set.addPage({ first: 0, bits });
    return set;
  }

  get size(): number {
    return this.#size;
  }

  has(index: number): boolean {
    return ((this.#bits[index >>> 3] ?? 0) & (1 << (index & 7))) !== 0;
  }

  /** @returns Whether it was not in the set before. */
  add(index: number): boolean {
    if (this.has(index) || index >= this.chunkCount) return false;
    this.#bits[index >>> 3] = (this.#bits[index >>> 3] ?? 0) | (1 << (index & 7));
    this.#size++;
    return true;
  }

  /** @returns Whether it was in the set. */
  delete(index: number): boolean {
    if (!this.has(index)) return false;
    this.#bits[index >>> 3] = (this.#bits[index >>> 3] ?? 0) & ~(1 << (index & 7));
    this.#size--;
    return true;
  }

  addAll(other: ChunkSet): void {
    this.addPage({ first: 0, bits: other.#bits });
  }

  /** Adds what a page names; bits past the last chunk are ignored. */
  addPage(page: BitmapPage): void {
    for (let i = 0; i < page.bits.length; i++) {
      const byte = page.bits[i] ?? 0;
      if (byte === 0) continue;
      const base = page.first + i * 8;
      for (let bit = 0; bit < 8; bit++) if ((byte & (1 << bit)) !== 0) this.add(base + bit);
    }
  }

  clear(): void {
    this.#bits.fill(0);
    this.#size = 0;
  }

  /** The first member at or after `index`, or -1. */
  next(index: number): number {
    if (index >= this.chunkCount) return -1;
    let byteIndex = index >>> 3;
    let byte = (this.#bits[byteIndex] ?? 0) & (0xff << (index & 7));
    while (byte === 0) {
      byteIndex++;
      if (byteIndex >= this.#bits.length) return -1;
      byte = this.#bits[byteIndex] ?? 0;
    }
    return byteIndex * 8 + (31 - Math.clz32(byte & -byte));
  }

  /** Members among `chunkCount` chunks from `first` on. */
  count(first: number, chunkCount: number): number {
    let count = 0;
    const end = first + chunkCount;
    let index = first;
    for (; index < end && (index & 7) !== 0; index++) if (this.has(index)) count++;
    for (; index + 8 <= end; index += 8) count += BITS_SET[this.#bits[index >>> 3] ?? 0] ?? 0;
    for (; index < end; index++) if (this.has(index)) count++;
    return count;
  }

  *[Symbol.iterator](): Generator<number> {
    for (let index = this.next(0); index >= 0; index = this.next(index + 1)) yield index;
  }

  /** The pages that have a member, in order: views, to be sent before the set changes. */
  *pages(): Generator<BitmapPage> {
    for (let start = 0; start < this.#bits.length; start += BITMAP_PAGE_BYTES) {
      const bits = this.#bits.subarray(start, start + BITMAP_PAGE_BYTES);
      if (bits.some((byte) => byte !== 0)) yield { first: start * 8, bits };
    }
  }

  /** A copy of the bits. */
  toBits(): Uint8Array {
    return this.#bits.slice();
  }
}
