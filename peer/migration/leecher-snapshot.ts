/**
 * What a leecher that stops after the commit must keep to go on later, and its bytes.
 *
 * The snapshot is taken while nobody reads or writes the region, so it says exactly which chunks are here; the
 * others are still at the source.
 *
 * ```
 * "memferry leecher 1\n"
 * offer, u32 epoch, u8 has root, root?, blob ready bitmap, blob hashes (32 bytes per chunk; zeros where missing)
 * ```
 *
 * @module
 */
import { ByteReader, ByteWriter } from "../../relay/protocol/bytes.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { MigrationError } from "../errors.ts";
import {
  decodeMessage,
  encodeMessage,
  type FinalizedMessage,
  type OfferMessage,
} from "./messages.ts";

export interface LeecherSnapshot {
  readonly offer: OfferMessage;
  /** The epoch at which this side became the owner. */
  readonly epoch: number;
  /** The source's root at that epoch, if it was known then. */
  readonly root: Uint8Array | undefined;
  /** Bitmap of the chunks that are here. */
  readonly ready: Uint8Array;
  /** Their hashes as the source had them. */
  readonly hashes: Uint8Array;
}

/** The source's last word, as far as the snapshot has it. */
export function finalizedOf(snapshot: LeecherSnapshot): FinalizedMessage {
  const { epoch, root } = snapshot;
  return { kind: "finalized", epoch, root, suspendedForMs: 0, dirtyChunks: 0 };
}

const HEAD = new TextEncoder().encode("memferry leecher 1\n");
const OFFER_BYTES_MAX = 1024;

export function encodeSnapshot(snapshot: LeecherSnapshot): Uint8Array {
  const writer = new ByteWriter(
    HEAD.length + snapshot.hashes.length + snapshot.ready.length + 2048,
  );
  writer.bytes(HEAD).blob(encodeMessage(snapshot.offer)).u32(snapshot.epoch);
  writer.u8(snapshot.root === undefined ? 0 : 1);
  if (snapshot.root !== undefined) writer.bytes(snapshot.root);
  return writer.blob(snapshot.ready).blob(snapshot.hashes).finish();
}

/** @throws MigrationError `RESUME_INVALID` */
export function decodeSnapshot(bytes: Uint8Array): LeecherSnapshot {
  try {
    const reader = new ByteReader(bytes);
    if (Buffer.compare(reader.bytes(HEAD.length), HEAD) !== 0) throw new Error("another format");
    const offer = decodeMessage(reader.blob(OFFER_BYTES_MAX));
    if (offer?.kind !== "offer") throw new Error("no offer");
    const epoch = reader.u32();
    const root = reader.u8() === 1 ? reader.bytes(HASH_BYTES) : undefined;
    const chunkCount = Math.ceil(offer.regionBytes / offer.chunkBytes);
    const ready = reader.blob(Math.ceil(chunkCount / 8));
    const hashes = reader.blob(chunkCount * HASH_BYTES);
    reader.end();
    if (ready.length !== Math.ceil(chunkCount / 8) || hashes.length !== chunkCount * HASH_BYTES) {
      throw new Error("a part is missing");
    }
    return { offer, epoch, root, ready, hashes };
  } catch (cause) {
    throw new MigrationError("RESUME_INVALID", "what was saved to go on with is damaged", {
      cause,
    });
  }
}
