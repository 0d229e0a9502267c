/**
 * In which order a region is pulled: what is wanted first, then all of it.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import { parseSize } from "../cli/size.ts";

/** Bytes of a region; `until` is past the last one. */
export interface ByteRange {
  readonly from: number;
  readonly until: number;
}

/**
 * `0-4MiB`, `1GiB-`, `first:4MiB`, `last:1MiB`.
 *
 * @throws MigrationError `USAGE`
 */
export function parseRange(text: string, bytes: number): ByteRange {
  const [, side, length] = /^(first|last):(.+)$/.exec(text) ?? [];
  if (side !== undefined) {
    const size = Math.min(parseSize(length ?? "") ?? bad(text), bytes);
    return side === "first" ? { from: 0, until: size } : { from: bytes - size, until: bytes };
  }
  const [, start, end] = /^([^-]+)-(.*)$/.exec(text) ?? bad(text);
  const from = start === "0" ? 0 : (parseSize(start ?? "") ?? bad(text));
  const until = end === "" ? bytes : (parseSize(end ?? "") ?? bad(text));
  if (from >= until || from >= bytes) return bad(text);
  return { from, until: Math.min(until, bytes) };
}

function bad(text: string): never {
  throw new MigrationError(
    "USAGE",
    `${text} is no range: write it as 0-4MiB, 1GiB-, first:4MiB or last:1MiB`,
  );
}

export function* chunksOf(
  ranges: Iterable<ByteRange>,
  chunkBytes: number,
): IterableIterator<number> {
  for (const { from, until } of ranges) {
    for (let chunk = Math.floor(from / chunkBytes); chunk * chunkBytes < until; chunk++)
      yield chunk;
  }
}

export function* sequential(chunkCount: number): IterableIterator<number> {
  for (let chunk = 0; chunk < chunkCount; chunk++) yield chunk;
}

/** One order after another. What comes twice is pulled once. */
export function* inTurn(...orders: readonly Iterable<number>[]): IterableIterator<number> {
  for (const order of orders) yield* order;
}
