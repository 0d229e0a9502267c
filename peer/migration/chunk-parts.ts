/**
 * Puts chunks together that came in parts, on several streams at once.
 *
 * Bounded: of chunks that are not whole at most `PARTED_BYTES_MAX` bytes are held; they are gone with the channel.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import { PARTED_BYTES_MAX, PARTED_CHUNK_BYTES_MAX } from "./limits.ts";
import { partStart, type ChunksMessage, type PartMessage } from "./messages.ts";

export interface ChunkPartsOptions {
  /** @throws MigrationError if there is no such chunk */
  readonly chunkLength: (index: number) => number;
  /** Other parts left no room for those of this chunk: it is to be asked for. */
  readonly onDropped: (index: number) => void;
}

interface Incomplete {
  readonly first: PartMessage;
  readonly bytes: Uint8Array;
  readonly here: Uint8Array;
  partsHere: number;
}

export class ChunkParts {
  readonly #options: ChunkPartsOptions;
  /** By serial, oldest first. */
  readonly #incomplete = new Map<number, Incomplete>();
  #heldBytes = 0;

  constructor(options: ChunkPartsOptions) {
    this.#options = options;
  }

  /** What is held for chunks that are not whole. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /**
   * @returns The chunk, when this was its last part.
   * @throws MigrationError `MESSAGE_MALFORMED`
   */
  add(message: PartMessage): ChunksMessage | undefined {
    const { serial, part, partCount, payload } = message;
    const incomplete = this.#incomplete.get(serial) ?? this.#begin(message);
    const { first, bytes, here } = incomplete;
    const isOfIt =
      first.index === message.index &&
      first.epoch === message.epoch &&
      first.partCount === partCount &&
      Buffer.compare(first.hash, message.hash) === 0;
    const start = partStart(part, partCount, bytes.length);
    const end = partStart(part + 1, partCount, bytes.length);
    if (!isOfIt || here[part] === 1 || payload.length !== end - start) {
      throw new MigrationError(
        "MESSAGE_MALFORMED",
        `part ${part} of chunk ${message.index} does not fit the others`,
      );
    }
    bytes.set(payload, start);
    here[part] = 1;
    incomplete.partsHere++;
    if (incomplete.partsHere < partCount) return undefined;
    this.#forget(serial, incomplete);
    return {
      kind: "chunks",
      epoch: first.epoch,
      indexes: Uint32Array.of(first.index),
      offsets: Uint32Array.of(0),
      hashes: first.hash,
      payload: bytes,
    };
  }

  #begin(first: PartMessage): Incomplete {
    const length = this.#options.chunkLength(first.index);
    if (length > PARTED_CHUNK_BYTES_MAX) {
      throw new MigrationError(
        "MESSAGE_MALFORMED",
        `chunk ${first.index} is too large to come in parts`,
      );
    }
    for (const [serial, oldest] of this.#incomplete) {
      if (this.#heldBytes + length <= PARTED_BYTES_MAX) break;
      this.#forget(serial, oldest);
      this.#options.onDropped(oldest.first.index);
    }
    const incomplete = {
      // Not its payload, which would be held twice.
      first: { ...first, payload: new Uint8Array(0), hash: first.hash.slice() },
      bytes: new Uint8Array(length),
      here: new Uint8Array(first.partCount),
      partsHere: 0,
    };
    this.#incomplete.set(first.serial, incomplete);
    this.#heldBytes += length;
    return incomplete;
  }

  #forget(serial: number, { bytes }: Incomplete): void {
    this.#incomplete.delete(serial);
    this.#heldBytes -= bytes.length;
  }
}
