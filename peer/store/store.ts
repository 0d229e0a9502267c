/**
 * Where the bytes of a region live when they do not live here.
 *
 * A store is a run of bytes of a fixed length. Reads and writes come in whole blocks of the store's own size; what
 * stands above (`AlignedStore`) makes any range out of them. Every call may be under way with others, and those that
 * overlap are never made by one mount at once: ordering is the caller's.
 *
 * @module
 */

/** What a store is good at, so that whoever uses it need not know which one it is. */
export interface StoreTraits {
  /**
   * Reads and writes start at a multiple of this and are a multiple of it long, up to the store's end, which may lie
   * within a block. 1: any bytes.
   */
  readonly blockBytes: number;
  /** The longest read or write; a multiple of `blockBytes`. */
  readonly maxBytes: number;
  /** Requests under way beyond which it gets no faster. 1: one after another, as a tape has it. */
  readonly concurrency: number;
  readonly readOnly: boolean;
  /** Whether another writer is kept out while this one is at work, or can only be warned of. */
  readonly fenced: boolean;
}

export interface StoreExtent {
  readonly offset: number;
  readonly length: number;
}

/**
 * All methods throw `StoreError`. A range that was never written reads as zeros where the store itself says that it
 * holds nothing there; a store that cannot be asked is an error and never zeros.
 */
export interface Store {
  /** To be shown: without credentials. */
  readonly name: string;
  readonly traits: StoreTraits;
  /** Its length. */
  readonly bytes: number;
  /**
   * Fills `into` with what stands at `offset`.
   *
   * @returns `false` where nothing was ever written to the whole range: `into` is zeros then.
   */
  read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<boolean>;
  /**
   * Each block becomes visible as a whole: whoever reads after a crash finds its old bytes or these. Durable after
   * the next `flush`, or before.
   */
  write(offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** `write` of zeros, which need not be kept or sent. */
  writeZeroes(offset: number, length: number, signal?: AbortSignal): Promise<void>;
  /** What was written before the call survives a crash of the store once this resolves. */
  flush(signal?: AbortSignal): Promise<void>;
  /** Where something was written, in order, as far as the store can tell cheaply. */
  list?(signal?: AbortSignal): AsyncIterable<StoreExtent>;
  /** Idempotent. What is under way fails with `CLOSED`. */
  close(): Promise<void>;
}

/** Stable across releases; docs/errors.md gives cause and remedy for each. */
export type StoreErrorCode =
  /** It does not answer, or says that it cannot now: worth another try. */
  | "STORE_UNAVAILABLE"
  /** Wrong credentials, or none for what was asked. */
  | "STORE_DENIED"
  /** No such bucket, table, directory or region. */
  | "STORE_MISSING"
  /** Its length or its blocks are not what was asked for, or it is no store of memferry. */
  | "STORE_MISMATCH"
  /** Full, or past a quota. */
  | "STORE_NO_SPACE"
  /** Another writer has it, or had it since. */
  | "STORE_FENCED"
  /** What it gave back is not what was written. */
  | "STORE_CORRUPT"
  | "STORE_READ_ONLY"
  /** A range past its end or off its blocks: a defect of the caller. */
  | "STORE_RANGE"
  | "STORE_CLOSED"
  | "STORE_INTERNAL";

export class StoreError extends Error {
  override readonly name = "StoreError";
  readonly code: StoreErrorCode;

  constructor(code: StoreErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Whether the same call may do better later. */
export function isPassing(error: unknown): boolean {
  return error instanceof StoreError && error.code === "STORE_UNAVAILABLE";
}

/** @throws StoreError `STORE_RANGE` unless the range is one of whole blocks within the store */
export function requireBlocks(
  { bytes, traits }: Pick<Store, "bytes" | "traits">,
  offset: number,
  length: number,
): void {
  const { blockBytes, maxBytes } = traits;
  const end = offset + length;
  const whole = offset % blockBytes === 0 && (end % blockBytes === 0 || end === bytes);
  if (
    Number.isSafeInteger(offset) &&
    offset >= 0 &&
    length > 0 &&
    end <= bytes &&
    whole &&
    length <= maxBytes
  )
    return;
  throw new StoreError(
    "STORE_RANGE",
    `${length} bytes at ${offset} are no blocks of ${blockBytes} bytes within ${bytes}`,
  );
}
