/**
 * The SQL of the chunk index, prepared once per connection.
 *
 * @module
 */
import { INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import type { Statement } from "./database.ts";
import { INDEX_CHUNKS_MAX, INDEX_DELTA_BYTES_MAX } from "./limits.ts";

/** Rows fetched at a time: 8 MB of deltas, 2 MiB of segments. */
export const DELTA_ROWS_PER_PAGE = 20;
export const SEGMENT_ROWS_PER_PAGE = 64;

const statement = (name: string, text: string): Statement => ({ name: `index_${name}`, text });

export const statements = {
  // The share lock holds off the swap of generations until the segment is in the one that is copied.
  putSegment: statement(
    "put_segment",
    `with head as (select id, base_gen, chunk_count from region where session_id = $1 for share)
     insert into region_segment (region_id, gen, segment, epoch, hashes)
     select id, base_gen, $2::int, $3::bigint, $4::bytea from head
     where $5::bigint = least(${INDEX_SEGMENT_CHUNKS}, chunk_count - $2::bigint * ${INDEX_SEGMENT_CHUNKS})
     on conflict do nothing
     returning region_id`,
  ),
  lockRegion: statement(
    "lock_region",
    `select id, base_gen, claimed_gen, rewrite_count, chunk_count, delta_bytes, delta_digest
     from region where session_id = $1 for update`,
  ),
  region: statement(
    "region",
    "select id, base_gen, chunk_count, delta_seq, delta_bytes, delta_digest from region where session_id = $1",
  ),
  segment: statement(
    "segment",
    `select segment, epoch, hashes, epochs from region_segment
     where region_id = $1 and gen = $2 and segment = $3`,
  ),
  rewriteSegment: statement(
    "rewrite_segment",
    `with head as (update region set rewrite_count = rewrite_count + 1 where id = $1)
     update region_segment set epoch = $4, hashes = $5, epochs = $6
     where region_id = $1 and gen = $2 and segment = $3`,
  ),
  appendDelta: statement(
    "append_delta",
    `with head as (
       update region set delta_seq = delta_seq + 1, delta_bytes = delta_bytes + length($5::bytea),
         delta_digest = $2::bytea
       where session_id = $1 and delta_digest is distinct from $2::bytea and $4::bigint < chunk_count
         and delta_bytes + length($5::bytea) <= ${INDEX_DELTA_BYTES_MAX}
       returning id, delta_seq, delta_bytes, chunk_count
     ), added as (
       insert into region_delta (region_id, seq, first_chunk, last_chunk, entries)
       select id, delta_seq, $3::bigint, $4::bigint, $5::bytea from head
     )
     select delta_bytes, chunk_count from head`,
  ),
  setRoot: statement(
    "set_root",
    `update session set root_hash = $3, root_epoch = $2, version = version + 1, updated_at = now()
     where id = $1 and (root_epoch is null or root_epoch < $2::bigint)`,
  ),
  deltas: statement(
    "deltas",
    `select seq, entries from region_delta
     where region_id = $1 and seq > $2 and seq <= $3 and first_chunk <= $5 and last_chunk >= $4
     order by seq limit ${DELTA_ROWS_PER_PAGE}`,
  ),
  segments: statement(
    "segments",
    `select s.segment, s.epoch, s.hashes, s.epochs
     from region r join region_segment s on s.region_id = r.id and s.gen = r.base_gen
     where r.session_id = $1 and s.segment >= $2 and s.segment <= $3
     order by s.segment limit ${SEGMENT_ROWS_PER_PAGE}`,
  ),
  claim: statement(
    "claim",
    `update region set claimed_gen = greatest(claimed_gen, base_gen) + 1 where session_id = $1
     returning id, base_gen, claimed_gen, rewrite_count, chunk_count, delta_seq`,
  ),
  dropOrphans: statement(
    "drop_orphans",
    "delete from region_segment where region_id = $1 and gen <> $2 and gen < $3",
  ),
  generation: statement(
    "generation",
    `select segment, epoch, hashes, epochs from region_segment
     where region_id = $1 and gen = $2 and segment >= $3
     order by segment limit ${SEGMENT_ROWS_PER_PAGE}`,
  ),
  addSegment: statement(
    "add_segment",
    `insert into region_segment (region_id, gen, segment, epoch, hashes, epochs)
     values ($1, $2, $3, $4, $5, $6)`,
  ),
  copyStrays: statement(
    "copy_strays",
    `insert into region_segment (region_id, gen, segment, epoch, hashes, epochs)
     select region_id, $3::bigint, segment, epoch, hashes, epochs from region_segment old
     where region_id = $1 and gen = $2 and not exists (
       select from region_segment new
       where new.region_id = $1 and new.gen = $3::bigint and new.segment = old.segment)`,
  ),
  dropGeneration: statement(
    "drop_generation",
    "delete from region_segment where region_id = $1 and gen = $2",
  ),
  dropDeltas: statement(
    "drop_deltas",
    "delete from region_delta where region_id = $1 and seq <= $2",
  ),
  keepDelta: statement(
    "keep_delta",
    `insert into region_delta (region_id, seq, first_chunk, last_chunk, entries)
     values ($1, $2, $3, $4, $5)`,
  ),
  swap: statement(
    "swap",
    "update region set base_gen = $2, delta_bytes = delta_bytes - $3::bigint where id = $1",
  ),
};

/** Makes room for a region's index, once its size is known. */
export const createRegionStatement = statement(
  "create_region",
  `insert into region (session_id, chunk_count)
   select $1, $2::bigint where $2::bigint <= ${INDEX_CHUNKS_MAX} on conflict do nothing`,
);
