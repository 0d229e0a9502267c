/**
 * Folding the deltas of a region into its base.
 *
 * A new generation of segments is written beside the old one, while readers and writers go on, and swapped in by
 * compare-and-set. Two folds at once, of one process or of two, end with one of them.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { toHex } from "../protocol/bytes.ts";
import { loadDeltas, overlay, packed, spanOf, deltaDigest } from "./chunk-index-deltas.ts";
import { segmentDigest, segmentsOf, type Segment } from "./chunk-index-segments.ts";
import { statements } from "./chunk-index-statements.ts";
import type { Database, Query } from "./database.ts";
import { INDEX_SEGMENTS_PER_STATEMENT } from "./limits.ts";

export interface FoldOutcome {
  readonly swapped: boolean;
  /** Bytes of deltas that had no base to go into. */
  readonly keptBytes: number;
}

/** @throws RelayError `INDEX_DAMAGED`; the generation of now stays. */
export async function fold(database: Database, sessionId: Uint8Array): Promise<FoldOutcome> {
  const [claim] = await database.query(statements.claim, [toHex(sessionId)]);
  if (claim === undefined) return { swapped: false, keptBytes: 0 };
  const regionId = Number(claim["id"]);
  const oldGen = Number(claim["base_gen"]);
  const newGen = Number(claim["claimed_gen"]);
  const rewriteCount = Number(claim["rewrite_count"]);
  const untilSeq = Number(claim["delta_seq"]);
  // What a fold left that did not come to its end.
  await database.query(statements.dropOrphans, [regionId, oldGen, newGen]);

  const deltas = await loadDeltas(database, { regionId, untilSeq });
  let batch: Segment[] = [];
  // The next segments are read and merged while the last are written.
  let writing: Promise<unknown> = Promise.resolve();
  for await (const segment of segmentsOf(database, { regionId, gen: oldGen })) {
    overlay(deltas, segment);
    deltas.bySegment.delete(segment.segment);
    batch.push(segment);
    if (batch.length < INDEX_SEGMENTS_PER_STATEMENT) continue;
    await writing;
    writing = addSegments(database.query, regionId, newGen, batch);
    writing.catch(() => {});
    batch = [];
  }
  await writing;
  await addSegments(database.query, regionId, newGen, batch);
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
      await query(statements.dropGeneration, [regionId, newGen]);
      return false;
    }
    // Segments that came while the others were copied.
    await query(statements.copyStrays, [regionId, oldGen, newGen]);
    await query(statements.dropGeneration, [regionId, oldGen]);
    await query(statements.dropDeltas, [regionId, untilSeq]);
    // In the place of the oldest, since what came later must stay later. They are no more than were there.
    let seq = untilSeq - kept.length;
    for (const entries of kept) {
      const { first, last } = spanOf(entries);
      const values = [regionId, ++seq, first, last, entries, deltaDigest(entries)];
      await query(statements.keepDelta, values);
    }
    await query(statements.swap, [regionId, newGen, deltas.bytes - keptBytes]);
    return true;
  });
  return { swapped, keptBytes };
}

async function addSegments(
  query: Query,
  regionId: number,
  gen: number,
  segments: readonly Segment[],
): Promise<void> {
  if (segments.length === 0) return;
  const empty = new Uint8Array(0);
  const list = (numbers: readonly number[]): string => `{${numbers.join(",")}}`;
  await query(statements.addSegments, [
    regionId,
    gen,
    list(segments.map(({ segment }) => segment)),
    list(segments.map(({ epoch }) => epoch)),
    list(segments.map(({ hashes }) => hashes.length)),
    list(segments.map(({ epochs }) => epochs?.length ?? 0)),
    list(segments.map(({ marks }) => marks?.length ?? 0)),
    Buffer.concat(segments.map(({ hashes }) => hashes)),
    Buffer.concat(segments.map(({ epochs }) => epochs ?? empty)),
    Buffer.concat(segments.map(({ marks }) => marks ?? empty)),
    Buffer.concat(segments.map(segmentDigest)),
  ]);
}
