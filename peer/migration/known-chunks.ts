/**
 * What the leecher said by `knows`, for the channel on which it said so.
 *
 * @module
 */
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { MigrationError } from "../errors.ts";
import type { KnowsMessage } from "./messages.ts";

export class KnownChunks {
  readonly #chunkCount: number;
  /** Made when it is first needed: a peer that was not started again knows nothing. */
  #hashes: Uint8Array | undefined;

  constructor(chunkCount: number) {
    this.#chunkCount = chunkCount;
  }

  /** @throws MigrationError `MESSAGE_MALFORMED` past the last chunk */
  add(message: KnowsMessage): void {
    if (message.first * HASH_BYTES + message.hashes.length > this.#chunkCount * HASH_BYTES) {
      throw new MigrationError("MESSAGE_MALFORMED", "knows names chunks past the region's end");
    }
    this.#hashes ??= new Uint8Array(this.#chunkCount * HASH_BYTES);
    this.#hashes.set(message.hashes, message.first * HASH_BYTES);
  }

  /**
   * Whether the leecher has these bytes. Said once: if it asks again, what it had is gone.
   *
   * @param hash Never all zeros: no content hashes to that.
   */
  take(index: number, hash: Uint8Array): boolean {
    const known = this.#hashes?.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
    if (known === undefined || Buffer.compare(known, hash) !== 0) return false;
    known.fill(0);
    return true;
  }
}
