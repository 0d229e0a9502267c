/**
 * A set of chunk numbers, as the addon's bitmaps have it: lowest bit of byte 0 first.
 *
 * @module
 */
export class ChunkSet implements Iterable<number> {
  readonly bits: Uint8Array;
  #size = 0;

  constructor(chunkCount: number) {
    this.bits = new Uint8Array(Math.ceil(chunkCount / 8));
  }

  static of(chunkCount: number, chunks: Iterable<number>): ChunkSet {
    const set = new ChunkSet(chunkCount);
    for (const chunk of chunks) set.add(chunk);
    return set;
  }

  get size(): number {
    return this.#size;
  }

  has(chunk: number): boolean {
    return hasBit(this.bits, chunk);
  }

  /** @returns Whether it was not there before. */
  add(chunk: number): boolean {
    if (this.has(chunk)) return false;
    this.bits[chunk >> 3] = (this.bits[chunk >> 3] ?? 0) | (1 << (chunk & 7));
    this.#size++;
    return true;
  }

  delete(chunk: number): boolean {
    if (!this.has(chunk)) return false;
    this.bits[chunk >> 3] = (this.bits[chunk >> 3] ?? 0) & ~(1 << (chunk & 7));
    this.#size--;
    return true;
  }

  [Symbol.iterator](): Iterator<number> {
    return setBits(this.bits);
  }
}

export function hasBit(bits: Uint8Array, index: number): boolean {
  return (((bits[index >> 3] ?? 0) >> (index & 7)) & 1) === 1;
}

/** The numbers of the bits that are set, in order. */
export function* setBits(bits: Uint8Array): IterableIterator<number> {
  for (let byte = 0; byte < bits.length; byte++) {
    let rest = bits[byte] ?? 0;
    while (rest !== 0) {
      yield byte * 8 + 31 - Math.clz32(rest & -rest);
      rest &= rest - 1;
    }
  }
}

/** Neighbours together, at most `most` of them. `chunks` ascend. */
export function* runs(
  chunks: Iterable<number>,
  most: number,
): IterableIterator<{ readonly first: number; readonly count: number }> {
  let first = -1;
  let count = 0;
  for (const chunk of chunks) {
    if (count > 0 && chunk === first + count && count < most) {
      count++;
      continue;
    }
    if (count > 0) yield { first, count };
    [first, count] = [chunk, 1];
  }
  if (count > 0) yield { first, count };
}
