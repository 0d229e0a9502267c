/**
 * The error of everything under `native/`.
 *
 * @module
 */

/** Where a system call failed: as in the runtime's own system errors, `errno` is negative. */
export interface NativeErrorDetails {
  readonly errno?: number;
  readonly syscall?: string;
  readonly path?: string;
  readonly cause?: unknown;
}

/**
 * `code` is the name of an errno (`ENOSPC`, `EBUSY`, ...) or one of ours: `ESIZE`, an existing file is
 * not of the region's size; `ENOADDON`, the addon does not load. `message` is one line and complete.
 */
export class NativeError extends Error {
  override readonly name = "NativeError";
  readonly code: string;
  readonly errno: number | undefined;
  readonly syscall: string | undefined;
  readonly path: string | undefined;

  constructor(code: string, message: string, details: NativeErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.errno = details.errno;
    this.syscall = details.syscall;
    this.path = details.path;
  }
}
