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
import { toHex } from "../protocol/bytes.ts";
import { ProtocolError } from "../protocol/errors.ts";
import { HASH_BYTES, INDEX_DELTA_ENTRY_BYTES } from "../protocol/frame.ts";
import { INDEX_DELTA_ENTRIES_MAX, INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import type { IndexStore } from "../switchboard/session-store.ts";
import { RelayError } from "../errors.ts";
import { deltaDigest, loadDeltas, newest, overlay, spanOf } from "./chunk-index-deltas.ts";
import { fold } from "./chunk-index-fold.ts";
import { regionMap, type MapWindow } from "./chunk-index-map.ts";
import { headOf, requireEpoch } from "./chunk-index-region.ts";
import { segmentChunks, segmentsOf } from "./chunk-index-segments.ts";
import { statements } from "./chunk-index-statements.ts";
import { SegmentWriter } from "./chunk-index-writer.ts";
import type { Database } from "./database.ts";
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
  /** @returns A state of `MAP_STATES` per cell. @throws RelayError `NOT_FOUND` */
  map(sessionId: Uint8Array, window: MapWindow): Promise<Uint8Array<ArrayBuffer>>;
  /** Resolves when the folds that appends set off are over. */
  settled(): Promise<void>;
}

export interface ChunkIndexOptions {
  /** Default true: appends set folds off. */
  readonly foldsByItself?: boolean;
  /** Told when a fold that an append set off has failed; the deltas are still there. */
  readonly onFoldError?: (error: unknown) => void;
}

export function createChunkIndex(database: Database, options: ChunkIndexOptions = {}): ChunkIndex {
  const writer = new SegmentWriter(database);
  /** Folds under way in this process, by session. */
  const folding = new Map<string, Promise<void>>();
  /** Sessions whose deltas have no base to go into: not tried again below this many bytes. */
  const foldAbove = new Map<string, number>();

  function foldIfDue(sessionId: Uint8Array, deltaBytes: number, chunkCount: number): void {
    if (options.foldsByItself === false) return;
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
    putSegment: (sessionId, epoch, segment, hashes) =>
      writer.put(toHex(sessionId), epoch, segment, hashes),

    async appendDelta(sessionId, entries) {
      const count = entries.length / INDEX_DELTA_ENTRY_BYTES;
      if (!Number.isInteger(count) || count > INDEX_DELTA_ENTRIES_MAX) {
        throw new ProtocolError("FRAME_MALFORMED", `an index delta of ${entries.length} bytes`);
      }
      if (count === 0) return;
      const { first, last, epoch } = spanOf(entries);
      const id = toHex(sessionId);
      const values = [id, deltaDigest(entries), first, last, entries, epoch];
      const [head] = await database.query(statements.appendDelta, values);
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
      requireEpoch(region, epoch);
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
      const deltas = await loadDeltas(database, { regionId: region.id, first, last });
      const base = { regionId: region.id, gen: "current" } as const;
      const [from, until] = [first, last].map((at) => Math.floor(at / INDEX_SEGMENT_CHUNKS));
      for await (const segment of segmentsOf(database, base, from, until)) {
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
      const deltas = await loadDeltas(database, { regionId: region.id });
      const withoutBase = (segment: number): Uint8Array<ArrayBuffer> => {
        const hashes = new Uint8Array(HASH_BYTES * segmentChunks(segment, region.chunkCount));
        for (const [chunk, hash] of newest(deltas, deltas.bySegment.get(segment) ?? [])) {
          hashes.set(hash, (chunk - segment * INDEX_SEGMENT_CHUNKS) * HASH_BYTES);
        }
        return hashes;
      };
      const base = { regionId: region.id, gen: "current" } as const;
      let due = 0;
      for await (const segment of segmentsOf(database, base)) {
        for (; due < segment.segment; due++) yield withoutBase(due);
        overlay(deltas, segment);
        due = segment.segment + 1;
        yield segment.hashes;
      }
      for (; due * INDEX_SEGMENT_CHUNKS < region.chunkCount; due++) yield withoutBase(due);
    },

    async map(sessionId, window) {
      const rows = await database.query(statements.region, [toHex(sessionId)]);
      const { id, chunkCount } = headOf(rows);
      return await regionMap(
        database,
        { id, chunkCount, rootEpoch: Number(rows[0]?.["root_epoch"] ?? -1) },
        window,
      );
    },

    fold: async (sessionId) => (await fold(database, sessionId)).swapped,

    async settled() {
      while (folding.size > 0) await Promise.all(folding.values());
    },
  };
}
