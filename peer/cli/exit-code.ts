/**
 * What the command's exit status means.
 *
 * @module
 */
export const ExitCode = {
  /** The command did what it says. */
  done: 0,
  /** It failed, and the source still owns the region. */
  failed: 1,
  /** The command line is wrong. */
  usage: 2,
  /** It failed after the commit: the destination owns the region and can still be completed. */
  recoverable: 3,
} as const;

export type ExitCodeValue = (typeof ExitCode)[keyof typeof ExitCode];
