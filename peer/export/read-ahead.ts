/**
 * How far the kernel should read ahead of a program that reads one chunk after the other.
 *
 * @module
 */
const MIB = 1024 * 1024;

/** No more than the addon takes: a mapping that is touched anywhere fetches as much around it. */
export const READ_AHEAD_BYTES_MAX = 64 * MIB;
/** Of a path that has carried too little to be measured. */
const UNKNOWN_BYTES_PER_S = 125_000_000;

/** The path to the peer that has what is missing here. */
export interface PeerPath {
  /** Smoothed; 0: not measured. */
  readonly rttMs: number;
  /** What it has carried lately; 0: nothing. */
  readonly bytesPerS: number;
}

/**
 * What is under way on a full path, in whole MiB: the kernel asks for the next window as soon as it begins with one,
 * so one bandwidth-delay product keeps the path full.
 *
 * @param floorBytes What pays where everything is local.
 */
export function readAheadBytes({ rttMs, bytesPerS }: PeerPath, floorBytes: number): number {
  const rate = bytesPerS > 0 ? bytesPerS : UNKNOWN_BYTES_PER_S;
  const product = Math.ceil((rate * (rttMs / 1_000)) / MIB) * MIB;
  return Math.min(READ_AHEAD_BYTES_MAX, Math.max(floorBytes, product));
}

/**
 * Follows a path. Its rate is the most it has carried and its length the shortest round trip (as BBR has it, Cardwell
 * and others 2016): a reader that pauses makes a path look slow, and a queue makes it look long.
 */
export class ReadAhead {
  readonly #floorBytes: number;
  readonly #set: (bytes: number) => void;
  #bytes: number;
  #path: PeerPath = { rttMs: Infinity, bytesPerS: 0 };

  /** @param set Told of each new value; the floor is in force already. */
  constructor(floorBytes: number, set: (bytes: number) => void) {
    this.#floorBytes = floorBytes;
    this.#set = set;
    this.#bytes = floorBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** @param path As it was just measured; `undefined`: everything is here. */
  follow(path: PeerPath | undefined): void {
    if (path === undefined) {
      this.#put(this.#floorBytes);
      return;
    }
    if (path.rttMs === 0) return;
    this.#path = {
      rttMs: Math.min(this.#path.rttMs, path.rttMs),
      bytesPerS: Math.max(this.#path.bytesPerS, path.bytesPerS),
    };
    this.#put(readAheadBytes(this.#path, this.#floorBytes));
  }

  #put(bytes: number): void {
    if (bytes === this.#bytes) return;
    this.#bytes = bytes;
    this.#set(bytes);
  }
}
