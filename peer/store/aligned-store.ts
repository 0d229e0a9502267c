/**
 * Any range of a store that knows only whole blocks.
 *
 * A part of a block is written by reading the block, changing it and writing it again, one at a time per block, so that
 * two writers of one block lose neither's bytes.
 *
 * @module
 */
import { StoreError, type Store } from "./store.ts";

export class AlignedStore {
  readonly #store: Store;
  /** The last one at each block that is being changed in part; who comes next waits for it. */
  readonly #changing = new Map<number, Promise<void>>();

  constructor(store: Store) {
    this.#store = store;
  }

  get bytes(): number {
    return this.#store.bytes;
  }

  /** As `Store.read`, of any range. */
  async read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<boolean> {
    this.#require(offset, into.length);
    const pieces = [...this.#pieces(offset, into.length)];
    const found = await Promise.all(
      pieces.map(async ({ start, end, from, until }) => {
        const target = into.subarray(from - offset, until - offset);
        if (start === from && end === until) return await this.#store.read(start, target, signal);
        const whole = new Uint8Array(end - start);
        const some = await this.#store.read(start, whole, signal);
        target.set(whole.subarray(from - start, until - start));
        return some;
      }),
    );
    return found.includes(true);
  }

  /** As `Store.write`, of any range. A block that is written in part is read first. */
  async write(offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#require(offset, bytes.length);
    await this.#each(offset, bytes.length, async ({ start, end, from, until }) => {
      const given = bytes.subarray(from - offset, until - offset);
      if (start === from && end === until) return await this.#store.write(start, given, signal);
      await this.#change(start, end, signal, (whole) => whole.set(given, from - start));
    });
  }

  /** As `Store.writeZeroes`, of any range. */
  async writeZeroes(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    this.#require(offset, length);
    await this.#each(offset, length, async ({ start, end, from, until }) => {
      if (start === from && end === until) {
        return await this.#store.writeZeroes(start, end - start, signal);
      }
      await this.#change(start, end, signal, (whole) => whole.fill(0, from - start, until - start));
    });
  }

  async flush(signal?: AbortSignal): Promise<void> {
    await this.#store.flush(signal);
  }

  async #change(
    start: number,
    end: number,
    signal: AbortSignal | undefined,
    change: (whole: Uint8Array) => void,
  ): Promise<void> {
    const whole = new Uint8Array(end - start);
    await this.#store.read(start, whole, signal);
    change(whole);
    await this.#store.write(start, whole, signal);
  }

  /** Whole blocks in the middle in pieces as long as the store takes; those at the ends by themselves. */
  *#pieces(offset: number, length: number): Iterable<Piece> {
    const { blockBytes, maxBytes } = this.#store.traits;
    const last = offset + length;
    for (let from = offset; from < last;) {
      const start = from - (from % blockBytes);
      const cut = start === from && last - from >= blockBytes;
      const most = Math.max(blockBytes, maxBytes - (maxBytes % blockBytes));
      const whole = cut ? Math.min(most, last - from - ((last - from) % blockBytes)) : blockBytes;
      const end = Math.min(start + whole, this.#store.bytes);
      const until = Math.min(end, last);
      yield { start, end, from, until };
      from = until;
    }
  }

  async #each(offset: number, length: number, run: (piece: Piece) => Promise<void>): Promise<void> {
    await Promise.all(
      [...this.#pieces(offset, length)].map((piece) => this.#inTurn(piece, () => run(piece))),
    );
  }

  /** After everything that changes one of the piece's blocks and began before. */
  async #inTurn({ start, end }: Piece, run: () => Promise<void>): Promise<void> {
    const { blockBytes } = this.#store.traits;
    const blocks: number[] = [];
    for (let at = start; at < end; at += blockBytes) blocks.push(at);
    const before = blocks.map((block) => this.#changing.get(block));
    const done = Promise.withResolvers<void>();
    for (const block of blocks) this.#changing.set(block, done.promise);
    try {
      for (const earlier of before) await earlier;
      await run();
    } finally {
      for (const block of blocks) {
        if (this.#changing.get(block) === done.promise) this.#changing.delete(block);
      }
      done.resolve();
    }
  }

  #require(offset: number, length: number): void {
    if (offset >= 0 && length > 0 && offset + length <= this.#store.bytes) return;
    throw new StoreError(
      "STORE_RANGE",
      `${length} bytes at ${offset} are not within the ${this.#store.bytes} of ${this.#store.name}`,
    );
  }
}

/** `from` to `until` is what was asked for, `start` to `end` the blocks around it. */
interface Piece {
  readonly start: number;
  readonly end: number;
  readonly from: number;
  readonly until: number;
}
