/**
 * What the region must hold: for each cell the version that the workload wrote last, and the one that it knows to
 * be durable.
 *
 * @module
 */
import type { RegionSlice } from "../../peer/region/region.ts";
import { lengthOfChunk } from "../../peer/region/region.ts";

export const CELL_BYTES = 64;
/** Stands in every cell that is not zeros: nobody but the two peers may ever see it. */
export const PLAINTEXT = "PLAINTEXT-OF-THE-REGION!";

interface Place {
  readonly chunk: number;
  readonly offset: number;
}

export class Shadow {
  /** In the layout of an image: a slot of `chunkBytes` per chunk. */
  readonly bytes: Uint8Array;
  readonly cellCount: number;
  readonly #places: Place[] = [];
  readonly #written: Uint32Array;
  readonly #durable: Uint32Array;

  constructor(slices: readonly RegionSlice[], chunkBytes: number) {
    const last = slices.at(-1);
    const chunkCount = last === undefined ? 0 : last.firstChunk + last.chunkCount;
    for (let chunk = 0; chunk < chunkCount; chunk++) {
      const length = lengthOfChunk(slices, chunkBytes, chunk);
      for (let at = 0; at + CELL_BYTES <= length; at += CELL_BYTES) {
        this.#places.push({ chunk, offset: chunk * chunkBytes + at });
      }
    }
    this.cellCount = this.#places.length;
    this.bytes = new Uint8Array(chunkCount * chunkBytes);
    this.#written = new Uint32Array(this.cellCount);
    this.#durable = new Uint32Array(this.cellCount);
  }

  place(cell: number): Place {
    const place = this.#places[cell];
    if (place === undefined) throw new RangeError(`cell ${cell}`);
    return place;
  }

  /** A write by the workload has taken effect. @returns The cell's new bytes */
  write(cell: number): Uint8Array {
    const version = (this.#written[cell] ?? 0) + 1;
    this.#written[cell] = version;
    const content = contentOf(cell, version);
    this.bytes.set(content, this.place(cell).offset);
    return content;
  }

  expected(cell: number): Uint8Array {
    const { offset } = this.place(cell);
    return this.bytes.subarray(offset, offset + CELL_BYTES);
  }

  /** What an fsync that begins now makes durable. */
  snapshot(): Uint32Array {
    return this.#written.slice();
  }

  fsynced(snapshot: Uint32Array): void {
    for (let cell = 0; cell < this.cellCount; cell++) {
      this.#durable[cell] = Math.max(this.#durable[cell] ?? 0, snapshot[cell] ?? 0);
    }
  }

  /**
   * The owner's host crashed: the region is what its disk says.
   *
   * @returns The first cell that went back behind what was durable, or holds what was never written there.
   */
  fallBack(found: (cell: number) => Uint8Array): number | undefined {
    for (let cell = 0; cell < this.cellCount; cell++) {
      const content = found(cell);
      const version = this.#versionOf(cell, content);
      if (version === undefined) return cell;
      this.#written[cell] = version;
      this.#durable[cell] = version;
      this.bytes.set(content, this.place(cell).offset);
    }
    return undefined;
  }

  /** The first cell of which there is no version that is as new as what is durable. */
  behind(found: (cell: number) => Uint8Array): number | undefined {
    for (let cell = 0; cell < this.cellCount; cell++) {
      if (this.#versionOf(cell, found(cell)) === undefined) return cell;
    }
    return undefined;
  }

  #versionOf(cell: number, content: Uint8Array): number | undefined {
    let version = this.#written[cell] ?? 0;
    const least = this.#durable[cell] ?? 0;
    while (version >= least && Buffer.compare(contentOf(cell, version), content) !== 0) version--;
    return version < least ? undefined : version;
  }

  describe(cell: number): string {
    return `cell ${cell} of chunk ${this.place(cell).chunk}: written ${this.#written[cell]}, durable ${this.#durable[cell]}`;
  }
}

/** At times zeros, so that there are chunks of zeros that were not always such. */
function contentOf(cell: number, version: number): Uint8Array {
  const content = new Uint8Array(CELL_BYTES);
  if (version === 0 || (cell * 31 + version * 17) % 11 === 0) return content;
  content.set(marker);
  const view = new DataView(content.buffer);
  view.setUint32(marker.length, cell, true);
  view.setUint32(marker.length + 4, version, true);
  content.fill((cell ^ version) & 0xff, marker.length + 8);
  return content;
}

const marker = new TextEncoder().encode(PLAINTEXT);
