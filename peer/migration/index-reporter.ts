/**
 * Tells the relay's index the chunk hashes, at checkpoints.
 *
 * Hashes are keyed with a key that the relay has not, so they tell it which chunks are equal within this
 * session and nothing else.
 *
 * @module
 */
import { HASH_BYTES, INDEX_DELTA_ENTRY_BYTES } from "../../relay/protocol/frame.ts";
import { INDEX_DELTA_ENTRIES_MAX, INDEX_SEGMENT_CHUNKS } from "../../relay/protocol/limits.ts";
import { ChunkSet } from "./bitmap.ts";
import type { Manifest } from "./manifest.ts";
import type { SessionPort } from "./session-port.ts";

export class IndexReporter {
  readonly #manifest: Manifest;
  readonly #session: SessionPort;
  /** Chunks whose hash the relay has not got in this state. */
  readonly #pending: ChunkSet;
  readonly #reportedSegments: ChunkSet;
  #busy: Promise<void> = Promise.resolve();

  constructor(manifest: Manifest, session: SessionPort) {
    this.#manifest = manifest;
    this.#session = session;
    this.#pending = new ChunkSet(manifest.chunkCount);
    this.#reportedSegments = new ChunkSet(Math.ceil(manifest.chunkCount / INDEX_SEGMENT_CHUNKS));
  }

  /** The chunk's hash is new. */
  mark(index: number): void {
    this.#pending.add(index);
  }

  /** Sends what is new. One checkpoint runs at a time; a lost connection leaves the rest for the next. */
  checkpoint(epoch: number, root?: Uint8Array): Promise<void> {
    this.#busy = this.#busy.catch(() => undefined).then(() => this.#send(epoch, root));
    return this.#busy;
  }

  async #send(epoch: number, root: Uint8Array | undefined): Promise<void> {
    let delta: { index: number; hash: Uint8Array }[] = [];
    for (let index = this.#pending.next(0); index >= 0; index = this.#pending.next(index + 1)) {
      const segment = Math.floor(index / INDEX_SEGMENT_CHUNKS);
      if (this.#reportedSegments.has(segment)) {
        delta.push({ index, hash: this.#manifest.hash(index) });
        if (delta.length === INDEX_DELTA_ENTRIES_MAX) {
          if (!(await this.#sendDelta(epoch, delta))) return;
          delta = [];
        }
        continue;
      }
      const end = Math.min((segment + 1) * INDEX_SEGMENT_CHUNKS, this.#manifest.chunkCount);
      const hashes = this.#manifest.segment(segment);
      if (hashes !== undefined) {
        for (let i = index; i < end; i++) this.#pending.delete(i);
        const frame = { kind: "indexSegment", epoch, segment, hashes } as const;
        if (!(await this.#session.reportIndex(frame))) {
          for (let i = index; i < end; i++) this.#pending.add(i);
          return;
        }
        this.#reportedSegments.add(segment);
      }
      index = end - 1;
    }
    if (delta.length > 0 && !(await this.#sendDelta(epoch, delta))) return;
    if (root !== undefined) await this.#session.reportIndex({ kind: "indexRoot", epoch, root });
  }

  async #sendDelta(
    epoch: number,
    delta: readonly { index: number; hash: Uint8Array }[],
  ): Promise<boolean> {
    const entries = new Uint8Array(delta.length * INDEX_DELTA_ENTRY_BYTES);
    const view = new DataView(entries.buffer);
    delta.forEach(({ index, hash }, i) => {
      const offset = i * INDEX_DELTA_ENTRY_BYTES;
      view.setUint32(offset, index, true);
      view.setUint32(offset + 4, epoch, true);
      entries.set(hash, offset + INDEX_DELTA_ENTRY_BYTES - HASH_BYTES);
      this.#pending.delete(index);
    });
    const sent = await this.#session.reportIndex({ kind: "indexDelta", entries });
    if (!sent) for (const { index } of delta) this.#pending.add(index);
    return sent;
  }
}
