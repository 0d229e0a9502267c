/**
 * Bounds of the migration protocol. Each has a line in docs/limits.md.
 *
 * @module
 */
import { CHUNK_BYTES_MAX } from "../../relay/protocol/limits.ts";

/** Chunk bytes that are read, sealed and sent together: large enough to amortise a record, small enough to
 * let an urgent one pass. A chunk larger than this is a batch of its own. */
export const BATCH_BYTES = 512 * 1024;
/** Chunks of one batch: bounds the header when every chunk is zeros. */
export const BATCH_CHUNKS_MAX = 1_024;
/** Largest message on a data stream. */
export const DATA_MESSAGE_BYTES_MAX = CHUNK_BYTES_MAX + 64 * 1024;
/** Largest message on the control stream. */
export const CONTROL_MESSAGE_BYTES_MAX = 64 * 1024;
/** Data streams that a leecher asks for: enough that what one TCP connection may have under way is no bound. */
export const DATA_STREAMS_DEFAULT = 6;
/** A page of a bitmap: 65,536 chunks. */
export const BITMAP_PAGE_BYTES = 8 * 1024;
/** Faults that one message reports. */
export const FAULTS_PER_MESSAGE_MAX = 4_096;
/** Parts of one chunk: one for each stream that may carry chunks. */
export const PARTS_MAX = 65;
/** What a new TCP connection carries in its first round trip is some 14 KB. */
export const PART_BYTES = 8 * 1024;
/** A larger chunk is not sent in parts. */
export const PARTED_CHUNK_BYTES_MAX = 1024 * 1024;
/** Chunks of which some parts are here and others are not, at a leecher; the oldest is asked for anew. */
export const PARTED_BYTES_MAX = 8 * 1024 * 1024;
/** Payload bytes that may be under way to a leecher before it has stored them. */
export const WINDOW_BYTES_MIN = 16 * 1024 * 1024;
/** What may be under way before the path is known: it fills 1 Gbit/s at 100 ms, with what each stream holds. */
export const WINDOW_BYTES_START = 24 * 1024 * 1024;
/** Fills 1 Gbit/s at 200 ms, with what stands in buffers on the way. */
export const WINDOW_BYTES_MAX = 96 * 1024 * 1024;
/** How long a suspend hook may take before the migration is rolled back. */
export const HOOK_DEADLINE_MS = 60_000;
/** From suspend to commit; past it the seeder asks the relay to roll back. */
export const FINALIZE_DEADLINE_MS = 60_000;
/** A handshake with the other peer must be over within this time. */
export const HANDSHAKE_DEADLINE_MS = 20_000;
/** Rounds of pre-copy before hand-over is forced or given up. */
export const ROUNDS_MAX = 30;
/** Channels in a row that fail before the other peer is given up, as long as nothing is at stake. */
export const CHANNEL_FAILURES_MAX = 5;
/** How long a relay that may be gone is told of a failure. */
export const REVOKE_COURTESY_MS = 3_000;
/** How long a leecher that has everything waits for a source that is gone to say farewell. */
export const FAREWELL_PATIENCE_MS = 10_000;
/** After the orderly end of a data stream, how long the control stream may take to say why. */
export const LAST_WORD_MS = 3_000;
/** Regions that migrate together. */
export const REGIONS_MAX = 64;
/** Chunks of all regions together: what is kept per chunk stays within the memory of a process. */
export const CHUNKS_MAX = 1 << 28;
/** Hashes of one `knows` message. */
export const KNOWS_CHUNKS_MAX = 1_024;
/** Epochs that a seeder may use before it must write its journal again. */
export const EPOCHS_RESERVED = 4_096;
/** Dirty bytes that are hashed while the workload stands still; beyond, the root is compared at the end only. */
export const HASH_SUSPENDED_BYTES_MAX = 256 * 1024 * 1024;
/** Between reports of progress to the relay. */
export const REPORT_INTERVAL_MS = 1_000;
/** How many lost channels a full disk counts for: the pause before it is looked at again. */
export const NO_ROOM_FAILURES = 5;
/** After the commit, how much work a crash of the destination's host may cost again. */
export const CHECKPOINT_INTERVAL_MS = 5_000;
