/**
 * Segments on their way into the index.
 *
 * What is put at the same time goes in one statement: a commit for each would cost more than what it commits.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { ProtocolError } from "../protocol/errors.ts";
import { HASH_BYTES } from "../protocol/frame.ts";
import { INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import { requireEpoch, headOf } from "./chunk-index-region.ts";
import {
  mergeSegment,
  segmentChunks,
  segmentDigest,
  segmentOfRow,
} from "./chunk-index-segments.ts";
import { statements } from "./chunk-index-statements.ts";
import type { Database } from "./database.ts";
import { INDEX_SEGMENTS_PER_STATEMENT } from "./limits.ts";

interface Put {
  readonly epoch: number;
  readonly segment: number;
  readonly hashes: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class SegmentWriter {
  readonly #database: Database;
  /** Those that wait for the end of this turn, by session. */
  readonly #gathered = new Map<string, Put[]>();
  /** The last that was begun, by session. */
  readonly #writing = new Map<string, Promise<void>>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** @throws ProtocolError `FRAME_MALFORMED`, `FRAME_UNEXPECTED`; RelayError `NOT_FOUND` */
  put(id: string, epoch: number, segment: number, hashes: Uint8Array): Promise<void> {
    const count = hashes.length / HASH_BYTES;
    if (!Number.isInteger(count) || count < 1 || count > INDEX_SEGMENT_CHUNKS) {
      const error = new ProtocolError(
        "FRAME_MALFORMED",
        `an index segment of ${hashes.length} bytes`,
      );
      return Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      const put = { epoch, segment, hashes, resolve, reject };
      // Whichever of two that say the same segment comes second is compared with the first.
      const isTwice = this.#gathered.get(id)?.some((other) => other.segment === segment);
      if (isTwice === true) this.#flush(id);
      const gathered = this.#gathered.get(id);
      if (gathered === undefined) {
        this.#gathered.set(id, [put]);
        queueMicrotask(() => this.#flush(id));
      } else {
        gathered.push(put);
        if (gathered.length === INDEX_SEGMENTS_PER_STATEMENT) this.#flush(id);
      }
    });
  }

  /** Writes what was gathered, after what was gathered before: of two that say the same, the first counts. */
  #flush(id: string): void {
    const puts = this.#gathered.get(id);
    if (puts === undefined) return;
    this.#gathered.delete(id);
    const before = this.#writing.get(id) ?? Promise.resolve();
    const writing = before
      .then(() => this.#write(id, puts))
      .finally(() => {
        if (this.#writing.get(id) === writing) this.#writing.delete(id);
      });
    this.#writing.set(id, writing);
  }

  /** Settles each; never rejects. */
  async #write(id: string, puts: readonly Put[]): Promise<void> {
    let added: Set<number>;
    try {
      added = new Set(await this.#add(id, puts));
    } catch (error) {
      for (const put of puts) put.reject(error);
      return;
    }
    for (const put of puts) {
      try {
        if (!added.has(put.segment)) await this.#merge(id, put);
        put.resolve();
      } catch (error) {
        put.reject(error);
      }
    }
  }

  /** @returns The numbers of those that were not there and fit. */
  async #add(id: string, puts: readonly Put[]): Promise<number[]> {
    const list = (numbers: readonly number[]): string => `{${numbers.join(",")}}`;
    const digests = puts.map((put) => segmentDigest({ ...put, epochs: null }));
    const rows = await this.#database.query(statements.putSegments, [
      id,
      list(puts.map(({ segment }) => segment)),
      list(puts.map(({ epoch }) => epoch)),
      joined(puts.map(({ hashes }) => hashes)),
      joined(digests),
      list(puts.map(({ hashes }) => hashes.length)),
    ]);
    return rows.map((row) => Number(row["segment"]));
  }

  async #merge(id: string, { epoch, segment, hashes }: Put): Promise<void> {
    const database = this.#database;
    await database.queryTransaction(async (query) => {
      const head = headOf(await query(statements.lockRegion, [id]));
      const count = hashes.length / HASH_BYTES;
      const due = Math.max(0, segmentChunks(segment, head.chunkCount));
      if (count !== due) {
        throw new ProtocolError(
          "FRAME_MALFORMED",
          `index segment ${segment} has ${count} hashes and the region ${due} chunks there`,
        );
      }
      requireEpoch(head, epoch);
      const [row] = await query(statements.segment, [head.id, head.baseGen, segment]);
      const kept = row === undefined ? undefined : segmentOfRow(row);
      const said = { segment, epoch, hashes: new Uint8Array(hashes), epochs: null };
      const merged = kept === undefined ? said : mergeSegment(kept, epoch, hashes);
      if (merged === undefined) return;
      await query(kept === undefined ? statements.addSegment : statements.rewriteSegment, [
        head.id,
        head.baseGen,
        segment,
        merged.epoch,
        merged.hashes,
        merged.epochs,
        segmentDigest(merged),
      ]);
    });
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const [only] = parts;
  return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts);
}
