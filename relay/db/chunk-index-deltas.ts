/**
 * The log of deltas of the chunk index: how it is read, and put over segments.
 *
 * @module
 */
import { createHash } from "node:crypto";

import { HASH_BYTES, INDEX_DELTA_ENTRY_BYTES } from "../protocol/frame.ts";
import { INDEX_DELTA_ENTRIES_MAX, INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import { bulkBytes, bulkInteger, type BulkRow } from "./bulk.ts";
import { damaged, epochsOf, type Segment } from "./chunk-index-segments.ts";
import type { Database } from "./database.ts";

/** Rows of one answer: 8 MB. */
const DELTA_ROWS_PER_PAGE = 20;

/** Deltas in memory: their bytes as they came, and where each segment's entries are, oldest first. */
export interface Deltas {
  readonly rows: Uint8Array[];
  readonly views: DataView[];
  /** Row and offset of each entry, as `row * 2^20 + offset`: a row is below 400 KB. */
  readonly bySegment: Map<number, number[]>;
  bytes: number;
}

const PLACE_UNIT = 2 ** 20;

/** Which deltas of a region to read: those up to a number, that may have to do with these chunks. */
export interface DeltaRange {
  readonly regionId: number;
  readonly untilSeq?: number;
  readonly first?: number;
  readonly last?: number;
}

/** The entries of each delta in order. @throws RelayError `INDEX_DAMAGED` */
export async function* deltaRows(
  database: Database,
  { regionId, untilSeq = Number.MAX_SAFE_INTEGER, first = 0, last = 2 ** 32 }: DeltaRange,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const page = (after: number): Promise<readonly BulkRow[]> =>
    database.bulk(
      `select seq, entries, digest from region_delta
       where region_id = ${regionId} and seq > ${after} and seq <= ${untilSeq}
         and first_chunk <= ${last} and last_chunk >= ${first}
       order by seq limit ${DELTA_ROWS_PER_PAGE}`,
    );
  for (let next: Promise<readonly BulkRow[]> | undefined = page(0); next !== undefined;) {
    const rows: readonly BulkRow[] = await next;
    next = undefined;
    const end = rows.at(-1)?.[0];
    if (rows.length === DELTA_ROWS_PER_PAGE && end !== undefined) {
      next = page(bulkInteger(end));
      // Awaited above; until then, or if the reader stops early, nobody hears of it.
      next.catch(() => {});
    }
    for (const [seq, field, digest] of rows) {
      const entries = bulkBytes(field);
      if (digest && !digest.equals(deltaDigest(entries)))
        throw damaged(`delta ${bulkInteger(seq)}`);
      yield entries;
    }
  }
}

export function deltaDigest(entries: Uint8Array): Uint8Array {
  return createHash("sha256").update(entries).digest();
}

export async function loadDeltas(database: Database, range: DeltaRange): Promise<Deltas> {
  const deltas: Deltas = { rows: [], views: [], bySegment: new Map(), bytes: 0 };
  for await (const entries of deltaRows(database, range)) addDelta(deltas, entries);
  return deltas;
}

function addDelta(deltas: Deltas, entries: Uint8Array): void {
  const row = deltas.rows.length;
  const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
  deltas.rows.push(entries);
  deltas.views.push(view);
  deltas.bytes += entries.length;
  for (let offset = 0; offset < entries.length; offset += INDEX_DELTA_ENTRY_BYTES) {
    const segment = Math.floor(view.getUint32(offset, true) / INDEX_SEGMENT_CHUNKS);
    const places = deltas.bySegment.get(segment);
    const place = row * PLACE_UNIT + offset;
    if (places === undefined) deltas.bySegment.set(segment, [place]);
    else places.push(place);
  }
}

interface Entry {
  readonly chunk: number;
  readonly epoch: number;
  readonly hash: Uint8Array;
  readonly bytes: Uint8Array;
}

function entryAt(deltas: Deltas, place: number): Entry {
  const row = Math.floor(place / PLACE_UNIT);
  const offset = place % PLACE_UNIT;
  const entries = deltas.rows[row];
  const view = deltas.views[row];
  if (entries === undefined || view === undefined) throw new RangeError(`no delta ${row}`);
  const bytes = entries.subarray(offset, offset + INDEX_DELTA_ENTRY_BYTES);
  return {
    chunk: view.getUint32(offset, true),
    epoch: view.getUint32(offset + 4, true),
    hash: bytes.subarray(8),
    bytes,
  };
}

/** Puts the deltas of a segment over it. */
export function overlay(deltas: Deltas, segment: Segment): void {
  const places = deltas.bySegment.get(segment.segment);
  if (places === undefined) return;
  const count = segment.hashes.length / HASH_BYTES;
  const epochs = epochsOf(segment);
  for (const place of places) {
    const { chunk, epoch, hash } = entryAt(deltas, place);
    const at = chunk - segment.segment * INDEX_SEGMENT_CHUNKS;
    if (at >= count || epoch < epochs.getUint32(at * 4, true)) continue;
    epochs.setUint32(at * 4, epoch, true);
    segment.hashes.set(hash, at * HASH_BYTES);
    // What it says was of the content before.
    segment.marks?.fill(0, at, at + 1);
  }
}

/** The entries that count among those of a segment without a base. */
export function newest(deltas: Deltas, places: readonly number[]): Map<number, Uint8Array> {
  const epochs = new Map<number, number>();
  const hashes = new Map<number, Uint8Array>();
  for (const place of places) {
    const { chunk, epoch, hash } = entryAt(deltas, place);
    if (epoch < (epochs.get(chunk) ?? 0)) continue;
    epochs.set(chunk, epoch);
    hashes.set(chunk, hash);
  }
  return hashes;
}

/** The entries left in `deltas`, in the order they came, in rows of full size. */
export function packed(deltas: Deltas): Uint8Array[] {
  const places = [...deltas.bySegment.values()].flat().toSorted((a, b) => a - b);
  const rows: Uint8Array[] = [];
  for (let from = 0; from < places.length; from += INDEX_DELTA_ENTRIES_MAX) {
    const part = places.slice(from, from + INDEX_DELTA_ENTRIES_MAX);
    const entries = new Uint8Array(part.length * INDEX_DELTA_ENTRY_BYTES);
    for (const [at, place] of part.entries()) {
      entries.set(entryAt(deltas, place).bytes, at * INDEX_DELTA_ENTRY_BYTES);
    }
    rows.push(entries);
  }
  return rows;
}

/** The lowest and the highest chunk of a delta, and its newest epoch. */
export function spanOf(entries: Uint8Array): { first: number; last: number; epoch: number } {
  const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
  let first = Number.MAX_SAFE_INTEGER;
  let last = 0;
  let epoch = 0;
  for (let offset = 0; offset < entries.length; offset += INDEX_DELTA_ENTRY_BYTES) {
    const chunk = view.getUint32(offset, true);
    if (chunk < first) first = chunk;
    if (chunk > last) last = chunk;
    epoch = Math.max(epoch, view.getUint32(offset + 4, true));
  }
  return { first, last, epoch };
}
