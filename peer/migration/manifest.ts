/**
 * The hash of every chunk, and one root over them.
 *
 * The root is a keyed tree of two levels: 1,024 chunk hashes make a segment (the index's segment), all segment
 * hashes make the root. Changing one chunk rehashes one segment, so a root within the downtime stays cheap:
 * a 1 TiB region has 16,384 segments.
 *
 * @module
 */
import { toHex } from "../../relay/protocol/bytes.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { INDEX_SEGMENT_CHUNKS } from "../../relay/protocol/limits.ts";
import { MigrationError } from "../errors.ts";
import type { ChunkStore } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";

/** BLAKE3-256 keyed with the session's chunk hash key. */
export type KeyedHash = (data: Uint8Array) => Uint8Array;

export class Manifest {
  readonly chunkCount: number;
  readonly #keyedHash: KeyedHash;
  readonly #onChange: ((index: number) => void) | undefined;
  readonly #hashes: Uint8Array;
  /**
   * In which epoch each hash was taken, or must be taken at least: a read that ends late must not replace a
   * newer one, nor stand for a chunk that was written since.
   */
  readonly #epochs: Uint32Array;
  readonly #known: ChunkSet;
  readonly #segmentHashes: Uint8Array;
  readonly #staleSegments: ChunkSet;

  /** @param onChange Told of each chunk whose hash is new. */
  constructor(chunkCount: number, keyedHash: KeyedHash, onChange?: (index: number) => void) {
    this.chunkCount = chunkCount;
    this.#keyedHash = keyedHash;
    this.#onChange = onChange;
    this.#hashes = new Uint8Array(chunkCount * HASH_BYTES);
    this.#epochs = new Uint32Array(chunkCount);
    this.#known = new ChunkSet(chunkCount);
    const segmentCount = Math.ceil(chunkCount / INDEX_SEGMENT_CHUNKS);
    this.#segmentHashes = new Uint8Array(segmentCount * HASH_BYTES);
    this.#staleSegments = ChunkSet.all(segmentCount);
  }

  get knownCount(): number {
    return this.#known.size;
  }

  get complete(): boolean {
    return this.#known.size === this.chunkCount;
  }

  isKnown(index: number): boolean {
    return this.#known.has(index);
  }

  /** In which epoch the hash was taken; 0 if it is unknown. */
  epochOf(index: number): number {
    return this.#known.has(index) ? (this.#epochs[index] ?? 0) : 0;
  }

  /** The chunk was written during `epoch`: only a hash taken later counts. */
  invalidate(index: number, epoch: number): void {
    if ((this.#epochs[index] ?? 0) > epoch) return;
    this.#epochs[index] = epoch + 1;
    this.#known.delete(index);
  }

  /** @param hash 32 bytes, copied. Ignored if one of a later epoch is there or due. */
  set(index: number, epoch: number, hash: Uint8Array): void {
    if ((this.#epochs[index] ?? 0) > epoch) return;
    this.#epochs[index] = epoch;
    this.#hashes.set(hash, index * HASH_BYTES);
    this.#known.add(index);
    this.#staleSegments.add(Math.floor(index / INDEX_SEGMENT_CHUNKS));
    this.#onChange?.(index);
  }

  /** A view of 32 bytes; zeros if unknown. */
  hash(index: number): Uint8Array {
    return this.#hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
  }

  /** A copy of all hashes; zeros where unknown. */
  allHashes(): Uint8Array {
    const hashes = new Uint8Array(this.#hashes.length);
    for (const index of this.#known) hashes.set(this.hash(index), index * HASH_BYTES);
    return hashes;
  }

  /** A view of the hashes of one segment, or `undefined` while one of them is unknown. */
  segment(segment: number): Uint8Array | undefined {
    const first = segment * INDEX_SEGMENT_CHUNKS;
    const end = Math.min(first + INDEX_SEGMENT_CHUNKS, this.chunkCount);
    for (let index = first; index < end; index++) if (!this.#known.has(index)) return undefined;
    return this.#hashes.subarray(first * HASH_BYTES, end * HASH_BYTES);
  }

  /** 32 bytes, or `undefined` while some chunk's hash is unknown. */
  root(): Uint8Array | undefined {
    if (!this.complete) return undefined;
    for (const segment of this.#staleSegments) {
      const start = segment * INDEX_SEGMENT_CHUNKS * HASH_BYTES;
      const hashes = this.#hashes.subarray(start, start + INDEX_SEGMENT_CHUNKS * HASH_BYTES);
      this.#segmentHashes.set(this.#keyedHash(hashes), segment * HASH_BYTES);
    }
    this.#staleSegments.clear();
    return this.#keyedHash(this.#segmentHashes);
  }
}

/** Chunks that are hashed in one call. */
const HASH_BATCH_CHUNKS = 256;

/** Hashes chunks where they are and takes their hashes down as of `epoch`. */
export async function hashInto(
  manifest: Manifest,
  region: Pick<ChunkStore, "hash">,
  chunks: ChunkSet,
  epoch: number,
): Promise<void> {
  const indexes = Uint32Array.from(chunks);
  for (let start = 0; start < indexes.length; start += HASH_BATCH_CHUNKS) {
    const batch = indexes.slice(start, start + HASH_BATCH_CHUNKS);
    const { hashes } = await region.hash(batch);
    batch.forEach((index, i) => {
      manifest.set(index, epoch, hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES));
    });
  }
}

/** The root over all chunks; what the manifest does not know is hashed where it is and taken down as of `epoch`. */
export async function wholeRoot(
  manifest: Manifest,
  region: Pick<ChunkStore, "hash">,
  epoch: number,
): Promise<Uint8Array> {
  const unknown = new ChunkSet(manifest.chunkCount);
  for (let index = 0; index < manifest.chunkCount; index++) {
    if (!manifest.isKnown(index)) unknown.add(index);
  }
  await hashInto(manifest, region, unknown, epoch);
  const root = manifest.root();
  if (root === undefined) throw new Error("every chunk is hashed, but the manifest has no root");
  return root;
}

/** Of what is whole. @param theirs The other side's, as far as it was said. @throws as `requireEqualRoots` */
export function verifiedRoot(
  manifest: Manifest | undefined,
  theirs: Uint8Array | undefined,
): Uint8Array {
  const root = manifest?.root();
  if (root === undefined) throw new Error("complete, but the manifest is not");
  requireEqualRoots(root, theirs);
  return root;
}

/** @throws MigrationError `ROOT_MISMATCH`, with both roots. An unknown one is compared elsewhere. */
export function requireEqualRoots(here: Uint8Array, there: Uint8Array | undefined): void {
  if (there === undefined || Buffer.compare(here, there) === 0) return;
  throw new MigrationError(
    "ROOT_MISMATCH",
    `source and destination differ: ${toHex(here)} here, ${toHex(there)} there`,
  );
}

/** A chunk that is damaged, with what both sides are as a whole. */
export function withRoots(
  error: unknown,
  manifest: Manifest | undefined,
  there: Uint8Array | undefined,
): unknown {
  if (!(error instanceof MigrationError) || error.code !== "CHUNK_MISMATCH") return error;
  const [here, source] = [manifest?.root(), there].map((root) =>
    root ? toHex(root) : "not known",
  );
  const message = `${error.message} (root of the source: ${source}, here: ${here})`;
  return new MigrationError("CHUNK_MISMATCH", message, { cause: error });
}
