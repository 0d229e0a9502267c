/**
 * Bounds of the relay protocol. Each has a line in docs/limits.md.
 *
 * @module
 */

/** Largest control frame, header included: an index segment of 1,024 hashes is 32 KiB, a delta 400 KB. */
export const CONTROL_FRAME_BYTES_MAX = 512 * 1024;
/** Largest first frame of a stream, before its sender is known. */
export const PREFACE_BYTES_MAX = 512;
/** A stream must have said what it is within this time, bytes trickling in or not. */
export const PREFACE_DEADLINE_MS = 8_000; // Below `handshakeMs`, at which a connection is cut without a word.
/** A sender may have this much buffered in one stream before `write` stops resolving. */
export const STREAM_BUFFER_BYTES_MAX = 1024 * 1024;
/** Streams of one peer in one pairing: control, urgent, and data. */
export const STREAMS_PER_PAIRING_MAX = 66;
/** A peer pings at this interval, and a side that heard nothing for three of them is gone. */
export const HEARTBEAT_MS = 1_500;
export const SILENCE_MAX_MS = 3 * HEARTBEAT_MS;
/** Between two looks at who is silent: a dead path is found within this and `SILENCE_MAX_MS`. */
export const SILENCE_LOOK_MS = 500;
/** A stream that waits for its twin is dropped after this time. */
export const STREAM_PAIRING_DEADLINE_MS = 15_000;
/** Reports of progress that a peer may send in a second; more are dropped. */
export const PROGRESS_PER_SECOND_MAX = 4;
/** Entries of one index delta. */
export const INDEX_DELTA_ENTRIES_MAX = 10_000;
/** Chunks of one index segment. */
export const INDEX_SEGMENT_CHUNKS = 1_024;
/** A sealed signal to the other peer: eight addresses take a quarter of it. */
export const SIGNAL_BYTES_MAX = 1_024;
/** Signals that a peer may send in a second, and at once; more are dropped. */
export const SIGNALS_PER_SECOND_MAX = 4;
export const SIGNALS_AT_ONCE_MAX = 16;
/** Certificates that a ticket names, or that a relay vouches for. */
export const RELAY_CERTIFICATES_MAX = 4;
/** Free text in a frame: reasons, names. */
export const TEXT_BYTES_MAX = 256;
/** Largest region: 2^53 - 1 would overflow other fields; a petabyte is plenty. */
export const REGION_BYTES_MAX = 2 ** 50;
export const CHUNK_BYTES_MIN = 4 * 1024;
export const CHUNK_BYTES_MAX = 4 * 1024 * 1024;
