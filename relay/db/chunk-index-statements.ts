/**
 * The SQL of the chunk index, prepared once per connection.
 *
 * @module
 */
import { INDEX_SEGMENT_CHUNKS } from "../protocol/limits.ts";
import type { Statement } from "./database.ts";
import { INDEX_CHUNKS_MAX, INDEX_DELTA_BYTES_MAX } from "./limits.ts";

/**
 * The last epoch that the seeder may report: once the leecher owns the region nothing is written at the source any
 * more, and what it then reads to send is of the epoch after the last.
 */
const epochMax =
  "(select case owner when 'leecher' then owner_epoch + 1 end from session where id = $1)";

const statement = (name: string, text: string): Statement => ({ name: `index_${name}`, text });

export const statements = {
  // The share lock holds off the swap of generations until the segments are in the one that is copied.
  putSegments: statement(
    "put_segments",
    `with head as (
       select id, base_gen, chunk_count, ${epochMax} as epoch_max from region where session_id = $1 for share
     )
     insert into region_segment (region_id, gen, segment, epoch, hashes, digest)
     select id, base_gen, given.segment, given.epoch, substr($4::bytea, given.at + 1, given.length),
       substr($5::bytea, 32 * (given.number::int - 1) + 1, 32)
     from head, (
       select *, (sum(length) over (order by number) - length)::int as at
       from unnest($2::text::int[], $3::text::bigint[], $6::text::int[])
         with ordinality as t(segment, epoch, length, number)
     ) given
     where given.length = 32 * least(${INDEX_SEGMENT_CHUNKS}, chunk_count - given.segment::bigint * ${INDEX_SEGMENT_CHUNKS})
       and given.epoch <= coalesce(epoch_max, given.epoch)
     on conflict do nothing
     returning segment`,
  ),
  lockRegion: statement(
    "lock_region",
    `select id, base_gen, claimed_gen, rewrite_count, chunk_count, delta_bytes, ${epochMax} as epoch_max
     from region where session_id = $1 for update`,
  ),
  region: statement(
    "region",
    `select id, base_gen, chunk_count, delta_seq, delta_bytes, ${epochMax} as epoch_max,
       (select root_epoch from session where id = $1) as root_epoch
     from region where session_id = $1`,
  ),
  segment: statement(
    "segment",
    `select segment, epoch, hashes, epochs, digest from region_segment
     where region_id = $1 and gen = $2 and segment = $3`,
  ),
  addSegment: statement(
    "add_segment",
    `insert into region_segment (region_id, gen, segment, epoch, hashes, epochs, digest)
     values ($1, $2, $3, $4, $5, $6, $7)`,
  ),
  rewriteSegment: statement(
    "rewrite_segment",
    `with head as (
       update region set rewrite_count = rewrite_count + 1, base_root = null, base_root_segments = null where id = $1
     )
     update region_segment set epoch = $4, hashes = $5, epochs = $6, digest = $7, marks = null
     where region_id = $1 and gen = $2 and segment = $3`,
  ),
  appendDelta: statement(
    "append_delta",
    `with head as (
       update region set delta_seq = delta_seq + 1, delta_bytes = delta_bytes + length($5::bytea),
         delta_digest = $2::bytea
       where session_id = $1 and delta_digest is distinct from $2::bytea and $4::bigint < chunk_count
         and $6::bigint <= coalesce(${epochMax}, $6::bigint)
         and delta_bytes + length($5::bytea) <= ${INDEX_DELTA_BYTES_MAX}
       returning id, delta_seq, delta_bytes, chunk_count
     ), added as (
       insert into region_delta (region_id, seq, first_chunk, last_chunk, entries, digest)
       select id, delta_seq, $3::bigint, $4::bigint, $5::bytea, $2::bytea from head
     )
     select delta_bytes, chunk_count from head`,
  ),
  setRoot: statement(
    "set_root",
    `update session set root_hash = $3, root_epoch = $2, version = version + 1, updated_at = now()
     where id = $1 and (root_epoch is null or root_epoch < $2::bigint)`,
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
  addSegments: statement(
    "add_segments",
    `insert into region_segment (region_id, gen, segment, epoch, hashes, epochs, marks, digest)
     select $1, $2, segment, epoch, substr($8::bytea, hashes_at + 1, hashes),
       case when epochs > 0 then substr($9::bytea, epochs_at + 1, epochs) end,
       case when marks > 0 then substr($10::bytea, marks_at + 1, marks) end,
       substr($11::bytea, 32 * (number::int - 1) + 1, 32)
     from (
       select *, (sum(hashes) over before - hashes)::int as hashes_at,
         (sum(epochs) over before - epochs)::int as epochs_at, (sum(marks) over before - marks)::int as marks_at
       from unnest($3::text::int[], $4::text::bigint[], $5::text::int[], $6::text::int[], $7::text::int[])
         with ordinality as t(segment, epoch, hashes, epochs, marks, number)
       window before as (order by number)
     ) given`,
  ),
  copyStrays: statement(
    "copy_strays",
    `insert into region_segment (region_id, gen, segment, epoch, hashes, epochs, marks, digest)
     select region_id, $3::bigint, segment, epoch, hashes, epochs, marks, digest from region_segment old
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
    `insert into region_delta (region_id, seq, first_chunk, last_chunk, entries, digest)
     values ($1, $2, $3, $4, $5, $6)`,
  ),
  swap: statement(
    "swap",
    `update region set base_gen = $2, delta_bytes = delta_bytes - $3::bigint,
       (base_root, base_root_segments) = (
         select case when count(*) = count(digest) and count(*) > 0
           then sha256(string_agg(digest, ''::bytea order by segment)) end, count(*)
         from region_segment where region_id = $1 and gen = $2)
     where id = $1`,
  ),
};

/** Makes room for a region's index, once its size is known. */
export const createRegionStatement = statement(
  "create_region",
  `insert into region (session_id, chunk_count)
   select $1, $2::bigint where $2::bigint <= ${INDEX_CHUNKS_MAX} on conflict do nothing`,
);
