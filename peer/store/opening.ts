/**
 * What every store is opened with, and what it says of what it finds.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import { StoreError, type StoreErrorCode } from "./store.ts";

export interface OpenStoreOptions {
  /** The length that is wanted; a store that is not there yet is made with it. */
  readonly bytes?: number;
  /** Of a store that is made now. One that is there has its own. */
  readonly blockBytes: number;
  readonly readOnly: boolean;
}

/** @throws StoreError `STORE_MISMATCH`: it is there, and is of another length than was asked for */
export function requireFits(
  name: string,
  found: { readonly bytes: number },
  asked: OpenStoreOptions,
): void {
  if (asked.bytes === undefined || asked.bytes === found.bytes) return;
  throw new StoreError(
    "STORE_MISMATCH",
    `${name} has ${found.bytes} bytes and not ${asked.bytes}: leave --size out to take it as it is`,
  );
}

const CODES: Readonly<Record<string, StoreErrorCode>> = {
  ENOENT: "STORE_MISSING",
  ENOTDIR: "STORE_MISSING",
  EACCES: "STORE_DENIED",
  EPERM: "STORE_DENIED",
  EROFS: "STORE_READ_ONLY",
  ENOSPC: "STORE_NO_SPACE",
  EDQUOT: "STORE_NO_SPACE",
  EFBIG: "STORE_NO_SPACE",
  // A network file system that is away for a while.
  ESTALE: "STORE_UNAVAILABLE",
  ETIMEDOUT: "STORE_UNAVAILABLE",
  EMFILE: "STORE_UNAVAILABLE",
};

/** What a file system said. */
export function fileError(name: string, error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return new StoreError(CODES[code] ?? "STORE_INTERNAL", `${name}: ${messageOf(error)}`, {
    cause: error,
  });
}
