/**
 * Segments of the chunk index: how they are read, checked and merged.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";

import { HASH_BYTES } from "../protocol/frame.ts";
import { INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import { RelayError } from "../errors.ts";
import { bulkBytes, bulkInteger, type BulkRow } from "./bulk.ts";
import type { Database, Row } from "./database.ts";

/** Rows of one answer: 4 to 5 MiB. The next is on its way while one is worked on. */
const SEGMENT_ROWS_PER_PAGE = 128;
const SEGMENT_MAX = 2 ** 31 - 1;

export interface Segment {
  readonly segment: number;
  /** Of every chunk that `epochs` does not say more of. */
  epoch: number;
  readonly hashes: Uint8Array<ArrayBuffer>;
  /** `u32` a chunk. */
  epochs: Uint8Array<ArrayBuffer> | null;
  /** How each chunk came, a byte: 0 sent, 1 zero, 2 reused; null if all were sent. */
  marks: Uint8Array<ArrayBuffer> | null;
}

/** What is said of a segment by its seeder. */
type SaidSegment = Pick<Segment, "segment" | "epoch" | "hashes" | "epochs">;

/** SHA-256 of what a segment says; kept beside it. */
export function segmentDigest(
  segment: Omit<SaidSegment, "hashes"> & { readonly hashes: Uint8Array },
): Uint8Array {
  const head = new DataView(new ArrayBuffer(16));
  head.setUint32(0, segment.segment, true);
  head.setFloat64(4, segment.epoch, true);
  head.setUint32(12, segment.hashes.length, true);
  const hash = createHash("sha256").update(new Uint8Array(head.buffer)).update(segment.hashes);
  if (segment.epochs !== null) hash.update(segment.epochs);
  return hash.digest();
}

export function damaged(what: string): RelayError {
  return new RelayError(
    "INDEX_DAMAGED",
    `${what} of the chunk index is not what was written: the database has lost or changed it`,
  );
}

/** Whose segments to read. */
export interface Base {
  readonly regionId: number;
  /** "current": whichever a page finds, which may be another if one is swapped in meanwhile. */
  readonly gen: number | "current";
}

/**
 * The segments `[first, last]` of a base in order, each checked against its digest, and all of them against the
 * generation's root if all are read.
 *
 * @throws RelayError `INDEX_DAMAGED`
 */
export async function* segmentsOf(
  database: Database,
  { regionId, gen }: Base,
  first = 0,
  last = SEGMENT_MAX,
): AsyncGenerator<Segment> {
  const generation =
    gen === "current" ? `(select base_gen from region where id = ${regionId})` : gen;
  const page = (from: number): Promise<readonly BulkRow[]> =>
    database.bulk(
      `select segment, epoch, hashes, epochs, marks, digest from region_segment
       where region_id = ${regionId} and gen = ${generation} and segment between ${from} and ${last}
       order by segment limit ${SEGMENT_ROWS_PER_PAGE}`,
    );
  const isWhole = first === 0 && last === SEGMENT_MAX;
  const before = isWhole ? await rootOf(database, regionId) : undefined;
  const whole = createHash("sha256");
  let count = 0;
  for (let next: Promise<readonly BulkRow[]> | undefined = page(first); next !== undefined;) {
    const rows: readonly BulkRow[] = await next;
    next = undefined;
    const end = rows.at(-1)?.[0];
    if (rows.length === SEGMENT_ROWS_PER_PAGE && end !== undefined) {
      next = page(bulkInteger(end) + 1);
      // Awaited above; until then, or if the reader stops early, nobody hears of it.
      next.catch(() => {});
    }
    for (const row of rows) {
      const { segment, digest } = segmentOf(row);
      if (digest !== null) whole.update(digest);
      count++;
      yield segment;
    }
  }
  if (before === undefined || before.root === null) return;
  // More than were swapped in have come since; the next fold covers them.
  if (
    count > before.segments ||
    (count === before.segments && whole.digest().equals(before.root))
  ) {
    return;
  }
  // Unless it has become another one while it was read.
  const after = await rootOf(database, regionId);
  if (after?.root?.equals(before.root) === true && after.gen === before.gen)
    throw damaged("a whole");
}

interface Root {
  readonly gen: number;
  readonly root: Buffer | null;
  readonly segments: number;
}

async function rootOf(database: Database, regionId: number): Promise<Root | undefined> {
  const [row] = await database.bulk(
    `select base_gen, base_root, coalesce(base_root_segments, 0) from region where id = ${regionId}`,
  );
  if (row === undefined) return undefined;
  return { gen: bulkInteger(row[0]), root: row[1] ?? null, segments: bulkInteger(row[2]) };
}

/** One segment, as a statement in a transaction finds it. @throws RelayError `INDEX_DAMAGED` */
export function segmentOfRow(row: Row): Segment {
  const { hashes, epochs, digest } = row;
  if (!(hashes instanceof Uint8Array)) throw new TypeError("hashes of a segment are not bytes");
  const segment: Segment = {
    segment: Number(row["segment"]),
    epoch: Number(row["epoch"]),
    // Copied: it is changed, and a driver's buffer may hold more than this value.
    hashes: new Uint8Array(hashes),
    epochs: epochs instanceof Uint8Array ? new Uint8Array(epochs) : null,
    marks: null,
  };
  if (digest instanceof Uint8Array && Buffer.compare(digest, segmentDigest(segment)) !== 0) {
    throw damaged(`segment ${segment.segment}`);
  }
  return segment;
}

function segmentOf(row: BulkRow): { segment: Segment; digest: Uint8Array | null } {
  const [number, epoch, hashes, epochs, marks, digest] = row;
  const segment: Segment = {
    segment: bulkInteger(number),
    epoch: bulkInteger(epoch),
    hashes: bulkBytes(hashes),
    epochs: epochs ? bulkBytes(epochs) : null,
    marks: marks ? bulkBytes(marks) : null,
  };
  if (digest && !digest.equals(segmentDigest(segment))) {
    throw damaged(`segment ${segment.segment}`);
  }
  return { segment, digest: digest ?? null };
}

/** The epochs of a segment's chunks, to be changed; made if all were of one. */
export function epochsOf(segment: Segment): DataView {
  if (segment.epochs === null) {
    const count = segment.hashes.length / HASH_BYTES;
    segment.epochs = new Uint8Array(count * 4);
    const view = new DataView(segment.epochs.buffer);
    for (let at = 0; at < count; at++) view.setUint32(at * 4, segment.epoch, true);
  }
  const { buffer, byteOffset, byteLength } = segment.epochs;
  return new DataView(buffer, byteOffset, byteLength);
}

/** A segment that was said again: its hashes win where they are newer. Undefined if none is. */
export function mergeSegment(
  kept: Segment,
  epoch: number,
  hashes: Uint8Array,
): SaidSegment | undefined {
  if (epoch <= kept.epoch) return undefined;
  const { segment } = kept;
  const merged = new Uint8Array(hashes);
  if (kept.epochs === null) return { segment, epoch, hashes: merged, epochs: null };
  const epochs = epochsOf(kept);
  for (let at = 0; at < hashes.length / HASH_BYTES; at++) {
    if (epochs.getUint32(at * 4, true) >= epoch) {
      const place = at * HASH_BYTES;
      merged.set(kept.hashes.subarray(place, place + HASH_BYTES), place);
    } else {
      epochs.setUint32(at * 4, epoch, true);
    }
  }
  return { segment, epoch, hashes: merged, epochs: kept.epochs };
}

export function segmentChunks(segment: number, chunkCount: number): number {
  return Math.min(INDEX_SEGMENT_CHUNKS, chunkCount - segment * INDEX_SEGMENT_CHUNKS);
}
