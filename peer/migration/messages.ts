/**
 * The messages between seeder and leecher, and their bytes. README.md beside this file has the table.
 *
 * A message is `u8 number`, then its fields, inside one sealed record. Numbers are never reused. An unknown
 * number is ignored, so that a later minor version can add messages. 13 was never released.
 *
 * @module
 */
import { ByteReader, ByteWriter } from "../../relay/protocol/bytes.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import {
  CHUNK_BYTES_MAX,
  CHUNK_BYTES_MIN,
  REGION_BYTES_MAX,
  TEXT_BYTES_MAX,
} from "../../relay/protocol/limits.ts";
import { MigrationError } from "../errors.ts";
import {
  BITMAP_PAGE_BYTES,
  BATCH_CHUNKS_MAX,
  CHUNKS_MAX,
  FAULTS_PER_MESSAGE_MAX,
  PARTED_CHUNK_BYTES_MAX,
  PARTS_MAX,
  KNOWS_CHUNKS_MAX,
  REGIONS_MAX,
} from "./limits.ts";

/** One of the regions that migrate together. */
export interface OfferedRegion {
  readonly name: string;
  readonly bytes: number;
}

/** Seeder: what is offered. Chunks are numbered through all regions in order; each begins with a new chunk. */
export interface OfferMessage {
  readonly kind: "offer";
  readonly regions: readonly OfferedRegion[];
  readonly chunkBytes: number;
  /** 32 bytes: the key of every chunk hash. */
  readonly hashKey: Uint8Array;
  /**
   * 0, or the epoch whose dirty set takes the place of all before it: the seeder was started again and what it
   * knew of them is lost.
   */
  readonly folded: number;
}

export const MODES = ["hybrid", "precopy", "postcopy"] as const;
/**
 * - `hybrid`: rounds while the workload runs, then hand over and pull what is still missing.
 * - `precopy`: everything is at the destination before it takes over.
 * - `postcopy`: hand over at once, pull everything afterwards.
 */
export type Mode = (typeof MODES)[number];

/** Leecher: it takes the offer. */
export interface AcceptMessage {
  readonly kind: "accept";
  readonly mode: Mode;
}

/** Leecher: begin epoch 1 of dirty tracking, then send. */
export interface TrackMessage {
  readonly kind: "track";
}

/** Seeder: writes are tracked since the beginning of this epoch. */
export interface TrackingMessage {
  readonly kind: "tracking";
  readonly epoch: number;
}

/** One page of a bitmap over chunks, from `first` (a multiple of 8) on. Pages that are all zero are not sent. */
export interface BitmapPage {
  readonly first: number;
  readonly bits: Uint8Array;
}

/** Leecher: chunks it already holds, in their state of the last epoch it acknowledged. */
export interface HaveMessage extends BitmapPage {
  readonly kind: "have";
}

/**
 * Leecher: what stands in chunks from `first` on, though it cannot say of which epoch it is. The seeder answers a
 * chunk that still hashes to this by its hash alone (`SAME_OFFSET`).
 */
export interface KnowsMessage {
  readonly kind: "knows";
  readonly first: number;
  /** 32 bytes per chunk; all zeros: unknown. */
  readonly hashes: Uint8Array;
}

/** Leecher: all `have` and `knows` pages are sent; everything that it does not have is wanted. */
export interface WantMessage {
  readonly kind: "want";
  /** The last epoch whose dirty set was acknowledged. */
  readonly epoch: number;
}

/** Leecher: the seeder may have sent this many payload bytes since the channel opened. */
export interface CreditMessage {
  readonly kind: "credit";
  readonly bytes: number;
}

/** Seeder: chunks that were written during `epoch`. What was sent of them with a tag up to `epoch` is stale. */
export interface DirtyMessage extends BitmapPage {
  readonly kind: "dirty";
  readonly epoch: number;
}

/** Seeder: `epoch` is closed and all its `dirty` pages are sent. */
export interface RoundMessage {
  readonly kind: "round";
  readonly round: number;
  readonly epoch: number;
  readonly dirtyChunks: number;
  /** Measured over the round. */
  readonly dirtyBytesPerS: number;
}

/** Leecher: the dirty set of `epoch` is merged; the seeder may forget it. */
export interface DirtyAckMessage {
  readonly kind: "dirtyAck";
  readonly epoch: number;
}

/** Leecher: suspend the workload and close the last epoch. Asked twice, the answer is the same. */
export interface FinalizeMessage {
  readonly kind: "finalize";
  /** The seeder rolls back if the commit has not happened within this time. */
  readonly deadlineMs: number;
}

/** Seeder: the workload stands still, `dirty` pages of `epoch` are sent, nothing will change any more. */
export interface FinalizedMessage {
  readonly kind: "finalized";
  readonly epoch: number;
  /** From the suspend hook's start to the sending of this message. */
  readonly suspendedForMs: number;
  readonly dirtyChunks: number;
  /** Root of the manifest; absent while some chunk was never hashed: `done` is then the first comparison. */
  readonly root: Uint8Array | undefined;
}

/** Leecher: the relay recorded it as the owner. */
export interface CommittedMessage {
  readonly kind: "committed";
  readonly epoch: number;
}

/** Leecher, on the urgent stream: somebody waits for these chunks. */
export interface FaultMessage {
  readonly kind: "fault";
  readonly indexes: Uint32Array;
}

/** Leecher: every chunk is present, verified and durable. */
export interface DoneMessage {
  readonly kind: "done";
  readonly root: Uint8Array;
}

/** Seeder: the roots are equal; it may drop its image. */
export interface ReleasedMessage {
  readonly kind: "released";
}

/** Either: the migration is over before the commit; the source goes on. */
export interface AbortMessage {
  readonly kind: "abort";
  readonly reason: string;
}

export interface PingMessage {
  readonly kind: "ping";
  readonly nonce: number;
}

export interface PongMessage {
  readonly kind: "pong";
  readonly nonce: number;
}

/** Chunks from one read of the seeder. Sent on data streams, and on the urgent stream for faults. */
export interface ChunksMessage {
  readonly kind: "chunks";
  /** The epoch in which they were read: they hold every write of earlier epochs. */
  readonly epoch: number;
  readonly indexes: Uint32Array;
  /** Where each chunk starts in `payload`; `ZERO_OFFSET` and `SAME_OFFSET` have no bytes. */
  readonly offsets: Uint32Array;
  readonly hashes: Uint8Array;
  readonly payload: Uint8Array;
}

/** A piece of one chunk, for a connection that can carry no whole one at once. Only to a leecher with `FEATURES.parts`. */
export interface PartMessage {
  readonly kind: "part";
  /** The same for all parts of one sending, and for no other of the channel. */
  readonly serial: number;
  readonly epoch: number;
  readonly index: number;
  /** Which of how many; `partStart` says where each begins. */
  readonly part: number;
  readonly partCount: number;
  /** Of the whole chunk. */
  readonly hash: Uint8Array;
  readonly payload: Uint8Array;
}

export type Message =
  | OfferMessage
  | AcceptMessage
  | TrackMessage
  | TrackingMessage
  | HaveMessage
  | KnowsMessage
  | WantMessage
  | CreditMessage
  | DirtyMessage
  | RoundMessage
  | DirtyAckMessage
  | FinalizeMessage
  | FinalizedMessage
  | CommittedMessage
  | FaultMessage
  | DoneMessage
  | ReleasedMessage
  | AbortMessage
  | PingMessage
  | PongMessage
  | ChunksMessage
  | PartMessage;

/** A chunk of zeros. */
export const ZERO_OFFSET = 0xffff_ffff;
/** A chunk of which the leecher said by `knows` that it has these very bytes. */
export const SAME_OFFSET = 0xffff_fffe;

const HASH_KEY_BYTES = 32;
/** `u32 index, u32 offset, 32 bytes of hash`. */
const CHUNK_ENTRY_BYTES = 8 + HASH_BYTES;
const CHUNKS_HEADER_BYTES = 1 + 4 + 4;

/** Everything of a `chunks` message before its payload. */
export function chunksHeaderBytes(chunkCount: number): number {
  return CHUNKS_HEADER_BYTES + chunkCount * CHUNK_ENTRY_BYTES;
}

interface Codec<M extends Message> {
  readonly number: number;
  encode(message: M, writer: ByteWriter): void;
  decode(reader: ByteReader): M;
}

type Codecs = { readonly [K in Message["kind"]]: Codec<Extract<Message, { kind: K }>> };

const codecs: Codecs = {
  offer: {
    number: 1,
    encode: (m, w) => {
      w.u32(m.chunkBytes).bytes(m.hashKey).u32(m.folded).u8(m.regions.length);
      for (const { name, bytes } of m.regions) w.text(name, TEXT_BYTES_MAX).u53(bytes);
    },
    decode: decodeOffer,
  },
  accept: {
    number: 2,
    encode: (m, w) => w.u8(MODES.indexOf(m.mode)),
    decode: (r) => {
      const mode = MODES[r.u8()];
      if (mode === undefined) throw malformed("mode is unknown");
      return { kind: "accept", mode };
    },
  },
  track: { number: 3, encode: () => undefined, decode: () => ({ kind: "track" }) },
  tracking: {
    number: 4,
    encode: (m, w) => w.u32(m.epoch),
    decode: (r) => ({ kind: "tracking", epoch: r.u32() }),
  },
  have: {
    number: 5,
    encode: (m, w) => encodePage(m, w),
    decode: (r) => ({ kind: "have", ...decodePage(r) }),
  },
  want: {
    number: 6,
    encode: (m, w) => w.u32(m.epoch),
    decode: (r) => ({ kind: "want", epoch: r.u32() }),
  },
  knows: {
    number: 22,
    encode: (m, w) => w.u32(m.first).blob(m.hashes),
    decode: (r) => {
      const first = r.u32();
      const hashes = r.blob(KNOWS_CHUNKS_MAX * HASH_BYTES);
      const count = within(hashes.length / HASH_BYTES, 1, KNOWS_CHUNKS_MAX, "hash count");
      if (!Number.isInteger(count)) throw malformed("a hash is cut short");
      return { kind: "knows", first, hashes };
    },
  },
  credit: {
    number: 7,
    encode: (m, w) => w.u53(m.bytes),
    decode: (r) => ({ kind: "credit", bytes: r.u53() }),
  },
  dirty: {
    number: 8,
    encode: (m, w) => {
      w.u32(m.epoch);
      encodePage(m, w);
    },
    decode: (r) => ({ kind: "dirty", epoch: r.u32(), ...decodePage(r) }),
  },
  round: {
    number: 9,
    encode: (m, w) => w.u32(m.round).u32(m.epoch).u32(m.dirtyChunks).f64(m.dirtyBytesPerS),
    decode: (r) => ({
      kind: "round",
      round: r.u32(),
      epoch: r.u32(),
      dirtyChunks: r.u32(),
      dirtyBytesPerS: within(r.f64(), 0, Number.MAX_SAFE_INTEGER, "dirty rate"),
    }),
  },
  dirtyAck: {
    number: 10,
    encode: (m, w) => w.u32(m.epoch),
    decode: (r) => ({ kind: "dirtyAck", epoch: r.u32() }),
  },
  finalize: {
    number: 11,
    encode: (m, w) => w.u32(m.deadlineMs),
    decode: (r) => ({ kind: "finalize", deadlineMs: r.u32() }),
  },
  finalized: {
    number: 12,
    encode: (m, w) => {
      w.u32(m.epoch)
        .f64(m.suspendedForMs)
        .u32(m.dirtyChunks)
        .u8(m.root === undefined ? 0 : 1);
      if (m.root !== undefined) w.bytes(m.root);
    },
    decode: (r) => ({
      kind: "finalized",
      epoch: r.u32(),
      suspendedForMs: within(r.f64(), 0, Number.MAX_SAFE_INTEGER, "suspend time"),
      dirtyChunks: r.u32(),
      root: within(r.u8(), 0, 1, "flag") === 1 ? r.bytes(HASH_BYTES) : undefined,
    }),
  },
  committed: {
    number: 14,
    encode: (m, w) => w.u32(m.epoch),
    decode: (r) => ({ kind: "committed", epoch: r.u32() }),
  },
  fault: {
    number: 15,
    encode: (m, w) => {
      w.u32(m.indexes.length);
      for (const index of m.indexes) w.u32(index);
    },
    decode: (r) => {
      const count = within(r.u32(), 1, FAULTS_PER_MESSAGE_MAX, "fault count");
      const indexes = new Uint32Array(count);
      for (let i = 0; i < count; i++) indexes[i] = r.u32();
      return { kind: "fault", indexes };
    },
  },
  done: {
    number: 16,
    encode: (m, w) => w.bytes(m.root),
    decode: (r) => ({ kind: "done", root: r.bytes(HASH_BYTES) }),
  },
  released: { number: 17, encode: () => undefined, decode: () => ({ kind: "released" }) },
  abort: {
    number: 18,
    encode: (m, w) => w.text(m.reason, TEXT_BYTES_MAX),
    decode: (r) => ({ kind: "abort", reason: r.text(TEXT_BYTES_MAX) }),
  },
  ping: {
    number: 19,
    encode: (m, w) => w.u32(m.nonce),
    decode: (r) => ({ kind: "ping", nonce: r.u32() }),
  },
  pong: {
    number: 20,
    encode: (m, w) => w.u32(m.nonce),
    decode: (r) => ({ kind: "pong", nonce: r.u32() }),
  },
  chunks: {
    number: 21,
    encode: (m, w) => w.bytes(encodeChunksHeader(m).subarray(1)).bytes(m.payload),
    decode: decodeChunks,
  },
  part: {
    number: 23,
    encode: (m, w) => w.bytes(encodePartHeader(m).subarray(1)).bytes(m.payload),
    decode: (r) => {
      const [serial, epoch, index] = [r.u32(), r.u32(), r.u32()];
      const partCount = within(r.u8(), 2, PARTS_MAX, "part count");
      const part = within(r.u8(), 0, partCount - 1, "part");
      const hash = r.bytes(HASH_BYTES);
      const payload = r.rest();
      within(payload.length, 1, PARTED_CHUNK_BYTES_MAX, "bytes of a part");
      return { kind: "part", serial, epoch, index, part, partCount, hash, payload };
    },
  },
};

const kindByNumber = new Map<number, Message["kind"]>();
for (const [kind, codec] of Object.entries(codecs)) {
  kindByNumber.set(codec.number, kind as Message["kind"]);
}

export function encodeMessage(message: Message): Uint8Array {
  const writer = new ByteWriter();
  // The table is keyed by kind, so the codec is the one of this message; the type system cannot see it.
  const codec = codecs[message.kind] as Codec<Message>;
  writer.u8(codec.number);
  codec.encode(message, writer);
  return writer.finish();
}

/**
 * @returns `undefined` for a number that this version does not know.
 * @throws MigrationError `MESSAGE_MALFORMED`
 */
export function decodeMessage(bytes: Uint8Array): Message | undefined {
  const reader = new ByteReader(bytes);
  try {
    const kind = kindByNumber.get(reader.u8());
    if (kind === undefined) return undefined;
    const message = codecs[kind].decode(reader);
    reader.end();
    return message;
  } catch (cause) {
    if (cause instanceof MigrationError) throw cause;
    throw malformed("a field is missing or out of range", { cause });
  }
}

/** The bytes of a `chunks` message up to its payload, which follows without a copy. */
export function encodeChunksHeader(message: Omit<ChunksMessage, "kind" | "payload">): Uint8Array {
  const count = message.indexes.length;
  const bytes = new Uint8Array(chunksHeaderBytes(count));
  const view = new DataView(bytes.buffer);
  view.setUint8(0, codecs.chunks.number);
  view.setUint32(1, message.epoch, true);
  view.setUint32(5, count, true);
  let offset = CHUNKS_HEADER_BYTES;
  for (let i = 0; i < count; i++) {
    view.setUint32(offset, message.indexes[i] ?? 0, true);
    view.setUint32(offset + 4, message.offsets[i] ?? 0, true);
    offset += 8;
  }
  bytes.set(message.hashes, offset);
  return bytes;
}

/** The bytes of a `part` message up to its payload, which follows without a copy. */
export function encodePartHeader(message: Omit<PartMessage, "kind" | "payload">): Uint8Array {
  const { serial, epoch, index, part, partCount, hash } = message;
  const writer = new ByteWriter().u8(codecs.part.number);
  return writer.u32(serial).u32(epoch).u32(index).u8(partCount).u8(part).bytes(hash).finish();
}

/** Where a part begins in a chunk of so many bytes, and with `part` = `partCount` where the last one ends. */
export function partStart(part: number, partCount: number, chunkLength: number): number {
  return Math.floor((part * chunkLength) / partCount);
}

function decodeOffer(r: ByteReader): OfferMessage {
  const chunkBytes = within(r.u32(), CHUNK_BYTES_MIN, CHUNK_BYTES_MAX, "chunk bytes");
  if ((chunkBytes & (chunkBytes - 1)) !== 0) throw malformed(`chunk bytes ${chunkBytes}`);
  const hashKey = r.bytes(HASH_KEY_BYTES);
  const folded = r.u32();
  const count = within(r.u8(), 1, REGIONS_MAX, "region count");
  const regions: OfferedRegion[] = [];
  let [bytesTotal, chunksTotal] = [0, 0];
  for (let i = 0; i < count; i++) {
    const name = r.text(TEXT_BYTES_MAX);
    const bytes = within(r.u53(), 1, REGION_BYTES_MAX, "region bytes");
    if (regions.some((region) => region.name === name)) throw malformed("two regions of one name");
    bytesTotal += bytes;
    chunksTotal += Math.ceil(bytes / chunkBytes);
    regions.push({ name, bytes });
  }
  within(bytesTotal, 1, REGION_BYTES_MAX, "bytes of all regions");
  // Above are the offsets with a meaning of their own, and bitmaps of this many bits stay below 256 MiB.
  within(chunksTotal, 1, CHUNKS_MAX, "chunk count");
  return { kind: "offer", regions, chunkBytes, hashKey, folded };
}

function decodeChunks(reader: ByteReader): ChunksMessage {
  const epoch = reader.u32();
  const count = within(reader.u32(), 1, BATCH_CHUNKS_MAX, "chunk count");
  const indexes = new Uint32Array(count);
  const offsets = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    indexes[i] = reader.u32();
    offsets[i] = reader.u32();
  }
  const hashes = reader.bytes(count * HASH_BYTES);
  const payload = reader.rest();
  return { kind: "chunks", epoch, indexes, offsets, hashes, payload };
}

function encodePage(page: BitmapPage, writer: ByteWriter): void {
  writer.u32(page.first).blob(page.bits);
}

function decodePage(reader: ByteReader): BitmapPage {
  const first = reader.u32();
  if (first % 8 !== 0) throw malformed("a bitmap page starts inside a byte");
  return { first, bits: reader.blob(BITMAP_PAGE_BYTES) };
}

/** Whether two offers are of the same regions; `folded` may differ. */
export function isSameOffer(a: OfferMessage, b: OfferMessage): boolean {
  return (
    a.chunkBytes === b.chunkBytes &&
    Buffer.compare(a.hashKey, b.hashKey) === 0 &&
    a.regions.length === b.regions.length &&
    a.regions.every(
      ({ name, bytes }, i) => name === b.regions[i]?.name && bytes === b.regions[i].bytes,
    )
  );
}

function within(value: number, least: number, most: number, what: string): number {
  if (!(value >= least && value <= most)) throw malformed(`${what} ${value} is out of range`);
  return value;
}

function malformed(message: string, options?: ErrorOptions): MigrationError {
  return new MigrationError(
    "MESSAGE_MALFORMED",
    `message from the other peer: ${message}`,
    options,
  );
}
