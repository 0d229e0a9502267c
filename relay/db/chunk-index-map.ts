/**
 * The map of a region: how so many chunks stand, at any resolution.
 *
 * From the segments only their numbers and marks are read, of the log only which chunks it names: a region of 16
 * million chunks is a few megabytes.
 *
 * @module
 */
import { INDEX_DELTA_ENTRY_BYTES } from "../protocol/frame.ts";
import { INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import { deltaRows } from "./chunk-index-deltas.ts";
import { bulkInteger } from "./bulk.ts";
import type { Database } from "./database.ts";

/** A cell's state on the wire. A cell of several chunks has the first of `PRECEDENCE` that one of them has. */
export const MAP_STATES = { missing: 0, sent: 1, dirty: 2, zero: 3, reused: 4 } as const;

const PRECEDENCE = [
  MAP_STATES.missing,
  MAP_STATES.dirty,
  MAP_STATES.sent,
  MAP_STATES.reused,
  MAP_STATES.zero,
] as const;
const RANK_OF_STATE = Uint8Array.from([0, 1, 2, 3, 4], (state) => PRECEDENCE.indexOf(state as 0));
const RANK_OF_MARK = [
  RANK_OF_STATE[MAP_STATES.sent] ?? 0,
  RANK_OF_STATE[MAP_STATES.zero] ?? 0,
  RANK_OF_STATE[MAP_STATES.reused] ?? 0,
] as const;
const [MISSING, DIRTY, SENT] = [0, 1, 2];
/** Nothing is known of the cell yet. */
const UNSET = 255;

export interface MapWindow {
  /** The first chunk; default 0. */
  readonly first?: number;
  /** Default: all from the first. What lies past the region's end is left out. */
  readonly count?: number;
  /** Cells wanted; there are never more than chunks. */
  readonly buckets: number;
}

export interface RegionOfMap {
  readonly id: number;
  readonly chunkCount: number;
  /** A chunk that the log names as of a later epoch is dirty; -1: all that it names are. */
  readonly rootEpoch: number;
}

/**
 * @returns A state per cell. All cells but the last have `ceil(count / buckets)` chunks, so there may be fewer of them
 *   than were asked for.
 */
export async function regionMap(
  database: Database,
  region: RegionOfMap,
  window: MapWindow,
): Promise<Uint8Array<ArrayBuffer>> {
  const first = Math.min(window.first ?? 0, region.chunkCount);
  const count = Math.min(window.count ?? region.chunkCount, region.chunkCount - first);
  if (count === 0 || window.buckets < 1) return new Uint8Array(0);
  const perCell = Math.ceil(count / window.buckets);
  const ranks = new Uint8Array(Math.ceil(count / perCell)).fill(UNSET);
  const last = first + count - 1;
  // The log first: what is folded in between is in the base then; the other way round it might be in neither.
  const named = await namedIn(database, region, first, last);

  const note = (chunk: number, rank: number): void => {
    const cell = Math.floor((chunk - first) / perCell);
    if (rank < (ranks[cell] ?? 0)) ranks[cell] = rank;
  };
  /** All of `[from, until)` by a number of steps that does not grow with it, unless the log names some of it. */
  const noteAll = (from: number, until: number, rank: number): void => {
    for (let at = from; at < until;) {
      const cell = Math.floor((at - first) / perCell);
      const end = Math.min(until, first + (cell + 1) * perCell);
      if ((ranks[cell] ?? 0) > rank && named.count(at, end) < end - at) ranks[cell] = rank;
      if ((ranks[cell] ?? 0) > DIRTY && named.dirtyIn(at, end)) ranks[cell] = DIRTY;
      if ((ranks[cell] ?? 0) > SENT && named.count(at, end) > 0) ranks[cell] = SENT;
      at = end;
    }
  };

  const segment = (chunk: number): number => Math.floor(chunk / INDEX_SEGMENT_CHUNKS);
  const rows = await database.bulk(
    `select segment, marks from region_segment
     where region_id = ${region.id} and gen = (select base_gen from region where id = ${region.id})
       and segment between ${segment(first)} and ${segment(last)}
     order by segment`,
  );
  let due = first;
  for (const [number, marks] of rows) {
    const start = bulkInteger(number) * INDEX_SEGMENT_CHUNKS;
    const from = Math.max(first, start);
    const until = Math.min(last + 1, start + INDEX_SEGMENT_CHUNKS);
    noteAll(due, from, MISSING);
    if (marks === null || marks === undefined) {
      noteAll(from, until, SENT);
    } else {
      for (let chunk = from; chunk < until; chunk++) {
        if (named.has(chunk)) note(chunk, named.dirtyIn(chunk, chunk + 1) ? DIRTY : SENT);
        else note(chunk, RANK_OF_MARK[marks[chunk - start] ?? 0] ?? SENT);
      }
    }
    due = until;
  }
  noteAll(due, last + 1, MISSING);
  return ranks.map((rank) => PRECEDENCE[rank] ?? MAP_STATES.missing);
}

/** Which chunks of a window the log names, and which of them are dirty: a bit each. */
class Named {
  readonly #first: number;
  readonly #named: Uint32Array;
  readonly #dirty: Uint32Array;
  #isEmpty = true;

  constructor(first: number, count: number) {
    this.#first = first;
    this.#named = new Uint32Array(Math.ceil(count / 32));
    this.#dirty = new Uint32Array(Math.ceil(count / 32));
  }

  add(chunk: number, isDirty: boolean): void {
    const at = chunk - this.#first;
    const bit = 1 << (at & 31);
    this.#isEmpty = false;
    this.#named[at >>> 5] = (this.#named[at >>> 5] ?? 0) | bit;
    if (isDirty) this.#dirty[at >>> 5] = (this.#dirty[at >>> 5] ?? 0) | bit;
  }

  has(chunk: number): boolean {
    const at = chunk - this.#first;
    return (((this.#named[at >>> 5] ?? 0) >>> (at & 31)) & 1) === 1;
  }

  count(from: number, until: number): number {
    return this.#isEmpty ? 0 : countBits(this.#named, from - this.#first, until - this.#first);
  }

  dirtyIn(from: number, until: number): boolean {
    return !this.#isEmpty && countBits(this.#dirty, from - this.#first, until - this.#first) > 0;
  }
}

function countBits(words: Uint32Array, from: number, until: number): number {
  let count = 0;
  for (let at = from; at < until;) {
    const bit = at & 31;
    const length = Math.min(32 - bit, until - at);
    const mask = length === 32 ? 0xffff_ffff : ((1 << length) - 1) << bit;
    let word = (words[at >>> 5] ?? 0) & mask;
    word -= (word >>> 1) & 0x5555_5555;
    word = (word & 0x3333_3333) + ((word >>> 2) & 0x3333_3333);
    count += Math.imul((word + (word >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
    at += length;
  }
  return count;
}

async function namedIn(
  database: Database,
  { id, rootEpoch }: RegionOfMap,
  first: number,
  last: number,
): Promise<Named> {
  const named = new Named(first, last - first + 1);
  for await (const entries of deltaRows(database, { regionId: id, first, last })) {
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    for (let offset = 0; offset < entries.length; offset += INDEX_DELTA_ENTRY_BYTES) {
      const chunk = view.getUint32(offset, true);
      if (chunk < first || chunk > last) continue;
      named.add(chunk, view.getUint32(offset + 4, true) > rootEpoch);
    }
  }
  return named;
}
