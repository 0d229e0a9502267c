/**
 * The chunk index: which hash each chunk of a region had when the seeder last said so.
 *
 * A base of immutable segments, 1,024 hashes to a row, and an append-only log of deltas over it. When the
 * log has grown, the two are folded into a new generation of segments, written beside the old one and
 * swapped in by compare-and-set, so that neither readers nor writers wait. An entry of a delta counts if
 * its epoch is not older than that of the hash it replaces, which makes every merge repeatable.
 *
 * @module
 */
import { createHash } from "node:crypto";

import { toHex } from "../protocol/bytes.ts";
import { ProtocolError } from "../protocol/errors.ts";
import { HASH_BYTES, INDEX_DELTA_ENTRY_BYTES } from "../protocol/frame.ts";
import { INDEX_DELTA_ENTRIES_MAX, INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import type { IndexStore } from "../switchboard/session-store.ts";
import { RelayError } from "../errors.ts";
import type { Database, Row } from "./database.ts";
import {
  DELTA_ROWS_PER_PAGE,
  SEGMENT_ROWS_PER_PAGE,
  statements,
} from "./chunk-index-statements.ts";
import {
  INDEX_DELTA_BYTES_FOLD,
  INDEX_DELTA_BYTES_FOLD_MIN,
  INDEX_DELTA_BYTES_MAX,
  INDEX_DELTA_RATIO_FOLD,
  INDEX_READ_CHUNKS_MAX,
} from "./limits.ts";

/** Sessions remembered as not worth a fold. */
const FOLD_MEMORY_MAX = 10_000;

export interface ChunkIndex extends IndexStore {
  /** Folds the deltas into the base now. @returns Whether a new generation was swapped in. */
  fold(sessionId: Uint8Array): Promise<boolean>;
  /** The whole index in order, 1,024 chunks at a time, zeros where a hash is unknown. */
  stream(sessionId: Uint8Array): AsyncGenerator<Uint8Array<ArrayBuffer>>;
  /** Resolves when the folds that appends set off are over. */
  settled(): Promise<void>;
}

export interface ChunkIndexOptions {
  /** Told when a fold that an append set off has failed; the deltas are still there. */
  readonly onFoldError?: (error: unknown) => void;
}

export function createChunkIndex(database: Database, options: ChunkIndexOptions = {}): ChunkIndex {
  /** Folds under way in this process, by session. */
  const folding = new Map<string, Promise<void>>();
  /** Sessions whose deltas have no base to go into: not tried again below this many bytes. */
  const foldAbove = new Map<string, number>();

  function foldIfDue(sessionId: Uint8Array, deltaBytes: number, chunkCount: number): void {
    const due = Math.max(
      INDEX_DELTA_BYTES_FOLD_MIN,
      Math.min(INDEX_DELTA_BYTES_FOLD, chunkCount * HASH_BYTES * INDEX_DELTA_RATIO_FOLD),
    );
    const key = toHex(sessionId);
    if (deltaBytes <= due || deltaBytes <= (foldAbove.get(key) ?? 0) || folding.has(key)) return;
    const copy = sessionId.slice();
    const running = fold(database, copy)
      .then((outcome) => {
        foldAbove.delete(key);
        // Forgetting costs a fold in vain and nothing else.
        if (foldAbove.size > FOLD_MEMORY_MAX) foldAbove.clear();
        if (outcome.keptBytes > due / 2) foldAbove.set(key, outcome.keptBytes * 2);
      })
      .catch((error: unknown) => options.onFoldError?.(error))
      .finally(() => folding.delete(key));
    folding.set(key, running);
  }

  return {
    async putSegment(sessionId, epoch, segment, hashes) {
      const count = hashes.length / HASH_BYTES;
      if (!Number.isInteger(count) || count < 1 || count > INDEX_SEGMENT_CHUNKS) {
        throw new ProtocolError("FRAME_MALFORMED", `an index segment of ${hashes.length} bytes`);
      }
      const id = toHex(sessionId);
      const added = await database.query(statements.putSegment, [
        id,
        segment,
        epoch,
        hashes,
        count,
      ]);
      if (added.length > 0) return;
      await database.queryTransaction(async (query) => {
        const head = headOf(await query(statements.lockRegion, [id]));
        const due = Math.min(
          INDEX_SEGMENT_CHUNKS,
          head.chunkCount - segment * INDEX_SEGMENT_CHUNKS,
        );
        if (count !== due) {
          throw new ProtocolError(
            "FRAME_MALFORMED",
            `index segment ${segment} has ${count} hashes and the region ${Math.max(0, due)} chunks there`,
          );
        }
        const values = [head.id, head.baseGen, segment] as const;
        const [row] = await query(statements.segment, values);
        // Added meanwhile by somebody else, or the first statement would have put it there.
        if (row === undefined) {
          await query(statements.addSegment, [...values, epoch, hashes, null]);
          return;
        }
        const kept = segmentOf(row);
        const merged = mergeSegment(kept, epoch, hashes);
        if (merged === undefined) return;
        await query(statements.rewriteSegment, [
          ...values,
          merged.epoch,
          merged.hashes,
          merged.epochs,
        ]);
      });
    },

    async appendDelta(sessionId, entries) {
      const count = entries.length / INDEX_DELTA_ENTRY_BYTES;
      if (!Number.isInteger(count) || count > INDEX_DELTA_ENTRIES_MAX) {
        throw new ProtocolError("FRAME_MALFORMED", `an index delta of ${entries.length} bytes`);
      }
      if (count === 0) return;
      const { first, last } = rangeOf(entries);
      const id = toHex(sessionId);
      const digest = createHash("sha256").update(entries).digest();
      const [head] = await database.query(statements.appendDelta, [
        id,
        digest,
        first,
        last,
        entries,
      ]);
      if (head !== undefined) {
        foldIfDue(sessionId, Number(head["delta_bytes"]), Number(head["chunk_count"]));
        return;
      }
      const region = headOf(await database.query(statements.region, [id]));
      if (last >= region.chunkCount) {
        throw new ProtocolError(
          "FRAME_MALFORMED",
          `an index delta names chunk ${last} of a region of ${region.chunkCount}`,
        );
      }
      if (region.deltaBytes + entries.length > INDEX_DELTA_BYTES_MAX) {
        throw new RelayError("LIMIT_EXCEEDED", "the index has too many deltas without their base", {
          details: { limitName: "indexDeltaBytes", limit: INDEX_DELTA_BYTES_MAX },
        });
      }
      // Else it is the last delta once more: its answer was lost.
    },

    async setRoot(sessionId, epoch, root) {
      if (root.length !== HASH_BYTES) {
        throw new ProtocolError("FRAME_MALFORMED", `an index root of ${root.length} bytes`);
      }
      await database.query(statements.setRoot, [toHex(sessionId), epoch, root]);
    },

    async read(sessionId, first, count) {
      if (count < 0 || count > INDEX_READ_CHUNKS_MAX) {
        throw new RangeError(`read of ${count} chunks, at most ${INDEX_READ_CHUNKS_MAX}`);
      }
      const found: (Uint8Array | null)[] = Array.from({ length: count }, () => null);
      if (count === 0) return found;
      const id = toHex(sessionId);
      const region = headOf(await database.query(statements.region, [id]));
      const last = first + count - 1;
      // Deltas first. Folded in between, they are in the segments too, which changes nothing; read the
      // other way round, they would be in neither.
      const deltas = await loadDeltas(database, region.id, Number.MAX_SAFE_INTEGER, first, last);
      for await (const segment of baseSegments(database, id, first, last)) {
        overlay(deltas, segment);
        const start = segment.segment * INDEX_SEGMENT_CHUNKS;
        for (let at = 0; at < segment.hashes.length / HASH_BYTES; at++) {
          const chunk = start + at;
          if (chunk < first || chunk > last) continue;
          found[chunk - first] = segment.hashes.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES);
        }
        deltas.bySegment.delete(segment.segment);
      }
      for (const places of deltas.bySegment.values()) {
        for (const [chunk, hash] of newest(deltas, places)) {
          if (chunk >= first && chunk <= last) found[chunk - first] = hash;
        }
      }
      return found;
    },

    async *stream(sessionId) {
      const id = toHex(sessionId);
      const region = headOf(await database.query(statements.region, [id]));
      const deltas = await loadDeltas(
        database,
        region.id,
        Number.MAX_SAFE_INTEGER,
        0,
        region.chunkCount - 1,
      );
      const lengthOf = (segment: number): number =>
        HASH_BYTES *
        Math.min(INDEX_SEGMENT_CHUNKS, region.chunkCount - segment * INDEX_SEGMENT_CHUNKS);
      const withoutBase = (segment: number): Uint8Array<ArrayBuffer> => {
        const hashes = new Uint8Array(lengthOf(segment));
        for (const [chunk, hash] of newest(deltas, deltas.bySegment.get(segment) ?? [])) {
          hashes.set(hash, (chunk - segment * INDEX_SEGMENT_CHUNKS) * HASH_BYTES);
        }
        return hashes;
      };
      let due = 0;
      for await (const segment of baseSegments(database, id, 0, region.chunkCount - 1)) {
        for (; due < segment.segment; due++) yield withoutBase(due);
        overlay(deltas, segment);
        due = segment.segment + 1;
        yield segment.hashes;
      }
      for (; due * INDEX_SEGMENT_CHUNKS < region.chunkCount; due++) yield withoutBase(due);
    },

    fold: async (sessionId) => (await fold(database, sessionId)).swapped,

    async settled() {
      while (folding.size > 0) await Promise.all(folding.values());
    },
  };
}

interface RegionHead {
  readonly id: number;
  readonly baseGen: number;
  readonly chunkCount: number;
  readonly deltaBytes: number;
}

function headOf(rows: readonly Row[]): RegionHead {
  const [row] = rows;
  if (row === undefined) {
    throw new RelayError(
      "NOT_FOUND",
      "this session has no index: its region is not described yet, or too large",
    );
  }
  return {
    id: Number(row["id"]),
    baseGen: Number(row["base_gen"]),
    chunkCount: Number(row["chunk_count"]),
    deltaBytes: Number(row["delta_bytes"]),
  };
}

interface Segment {
  readonly segment: number;
  /** Of every chunk that `epochs` does not say more of. */
  epoch: number;
  readonly hashes: Uint8Array<ArrayBuffer>;
  /** `u32` a chunk. */
  epochs: Uint8Array<ArrayBuffer> | null;
}

function segmentOf(row: Row): Segment {
  const { segment, epoch, hashes, epochs } = row;
  if (!(hashes instanceof Uint8Array)) throw new TypeError("hashes of a segment are not bytes");
  return {
    segment: Number(segment),
    epoch: Number(epoch),
    // Copied: it is changed, and a driver's buffer may hold more than this value.
    hashes: new Uint8Array(hashes),
    epochs: epochs instanceof Uint8Array ? new Uint8Array(epochs) : null,
  };
}

async function* baseSegments(
  database: Database,
  id: string,
  first: number,
  last: number,
): AsyncGenerator<Segment> {
  let from = Math.floor(first / INDEX_SEGMENT_CHUNKS);
  const until = Math.floor(last / INDEX_SEGMENT_CHUNKS);
  while (from <= until) {
    const rows = await database.query(statements.segments, [id, from, until]);
    for (const row of rows) {
      const segment = segmentOf(row);
      from = segment.segment + 1;
      yield segment;
    }
    if (rows.length < SEGMENT_ROWS_PER_PAGE) return;
  }
}

/** A segment that was said again: its hashes win where they are newer. Undefined if none is. */
function mergeSegment(
  kept: Segment,
  epoch: number,
  hashes: Uint8Array,
): { epoch: number; hashes: Uint8Array; epochs: Uint8Array | null } | undefined {
  if (epoch <= kept.epoch) return undefined;
  if (kept.epochs === null) return { epoch, hashes, epochs: null };
  const view = new DataView(kept.epochs.buffer);
  const merged = new Uint8Array(hashes);
  for (let at = 0; at < hashes.length / HASH_BYTES; at++) {
    if (view.getUint32(at * 4, true) >= epoch) {
      const place = at * HASH_BYTES;
      merged.set(kept.hashes.subarray(place, place + HASH_BYTES), place);
    } else {
      view.setUint32(at * 4, epoch, true);
    }
  }
  return { epoch, hashes: merged, epochs: kept.epochs };
}

/** Deltas in memory: their bytes as they came, and where each segment's entries are, oldest first. */
interface Deltas {
  readonly rows: Uint8Array[];
  readonly views: DataView[];
  /** Row and offset of each entry, as `row * 2^20 + offset`: a row is below 400 KB. */
  readonly bySegment: Map<number, number[]>;
  bytes: number;
}

const PLACE_UNIT = 2 ** 20;

async function loadDeltas(
  database: Database,
  regionId: number,
  untilSeq: number,
  first: number,
  last: number,
): Promise<Deltas> {
  const deltas: Deltas = { rows: [], views: [], bySegment: new Map(), bytes: 0 };
  for (let after = 0; ;) {
    const page = await database.query(statements.deltas, [regionId, after, untilSeq, first, last]);
    for (const { seq, entries } of page) {
      if (!(entries instanceof Uint8Array)) throw new TypeError("entries of a delta are not bytes");
      after = Number(seq);
      addDelta(deltas, entries);
    }
    if (page.length < DELTA_ROWS_PER_PAGE) return deltas;
  }
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

/** Puts the deltas of a segment over it. @returns Whether there were any. */
function overlay(deltas: Deltas, segment: Segment): boolean {
  const places = deltas.bySegment.get(segment.segment);
  if (places === undefined) return false;
  const count = segment.hashes.length / HASH_BYTES;
  if (segment.epochs === null) {
    segment.epochs = new Uint8Array(count * 4);
    const view = new DataView(segment.epochs.buffer);
    for (let at = 0; at < count; at++) view.setUint32(at * 4, segment.epoch, true);
  }
  const epochs = new DataView(segment.epochs.buffer);
  for (const place of places) {
    const { chunk, epoch, hash } = entryAt(deltas, place);
    const at = chunk - segment.segment * INDEX_SEGMENT_CHUNKS;
    if (at >= count || epoch < epochs.getUint32(at * 4, true)) continue;
    epochs.setUint32(at * 4, epoch, true);
    segment.hashes.set(hash, at * HASH_BYTES);
  }
  return true;
}

/** The entries that count among those of a segment without a base. */
function newest(deltas: Deltas, places: readonly number[]): Map<number, Uint8Array> {
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

interface FoldOutcome {
  readonly swapped: boolean;
  /** Bytes of deltas that had no base to go into. */
  readonly keptBytes: number;
}

async function fold(database: Database, sessionId: Uint8Array): Promise<FoldOutcome> {
  const [claim] = await database.query(statements.claim, [toHex(sessionId)]);
  if (claim === undefined) return { swapped: false, keptBytes: 0 };
  const id = Number(claim["id"]);
  const oldGen = Number(claim["base_gen"]);
  const newGen = Number(claim["claimed_gen"]);
  const rewriteCount = Number(claim["rewrite_count"]);
  const untilSeq = Number(claim["delta_seq"]);
  const chunkCount = Number(claim["chunk_count"]);
  // What a fold left that did not come to its end.
  await database.query(statements.dropOrphans, [id, oldGen, newGen]);

  const deltas = await loadDeltas(database, id, untilSeq, 0, chunkCount - 1);
  for (let from = 0; ;) {
    const rows = await database.query(statements.generation, [id, oldGen, from]);
    for (const row of rows) {
      const segment = segmentOf(row);
      overlay(deltas, segment);
      deltas.bySegment.delete(segment.segment);
      from = segment.segment + 1;
      const { epoch, hashes, epochs } = segment;
      await database.query(statements.addSegment, [
        id,
        newGen,
        segment.segment,
        epoch,
        hashes,
        epochs,
      ]);
    }
    if (rows.length < SEGMENT_ROWS_PER_PAGE) break;
  }
  const kept = packed(deltas);
  const keptBytes = kept.reduce((sum, entries) => sum + entries.length, 0);

  const swapped = await database.queryTransaction(async (query) => {
    const [head] = await query(statements.lockRegion, [toHex(sessionId)]);
    if (
      head === undefined ||
      Number(head["base_gen"]) !== oldGen ||
      Number(head["claimed_gen"]) !== newGen ||
      Number(head["rewrite_count"]) !== rewriteCount
    ) {
      await query(statements.dropGeneration, [id, newGen]);
      return false;
    }
    // Segments that came while the others were copied.
    await query(statements.copyStrays, [id, oldGen, newGen]);
    await query(statements.dropGeneration, [id, oldGen]);
    await query(statements.dropDeltas, [id, untilSeq]);
    // In the place of the oldest, since what came later must stay later. They are no more than were there.
    let seq = untilSeq - kept.length;
    for (const entries of kept) {
      const { first, last } = rangeOf(entries);
      await query(statements.keepDelta, [id, ++seq, first, last, entries]);
    }
    await query(statements.swap, [id, newGen, deltas.bytes - keptBytes]);
    return true;
  });
  return { swapped, keptBytes };
}

/** The entries left in `deltas`, in the order they came, in rows of full size. */
function packed(deltas: Deltas): Uint8Array[] {
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

function rangeOf(entries: Uint8Array): { first: number; last: number } {
  const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
  let first = Number.MAX_SAFE_INTEGER;
  let last = 0;
  for (let offset = 0; offset < entries.length; offset += INDEX_DELTA_ENTRY_BYTES) {
    const chunk = view.getUint32(offset, true);
    if (chunk < first) first = chunk;
    if (chunk > last) last = chunk;
  }
  return { first, last };
}
