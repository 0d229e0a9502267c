/**
 * Version of the relay protocol. History in README.md beside this file.
 *
 * @module
 */

/** Another major version is refused, with both named. */
export const PROTOCOL_MAJOR = 1;
/** A higher minor version only adds frames that an older side may ignore. */
export const PROTOCOL_MINOR = 3;

/** Bits of `features` in `hello` and `welcome`. */
export const FEATURES = {
  /** A peer understands `discovery` and `peerSignal`; a relay answers address discovery. */
  direct: 1,
  /** A relay passes on `signal` and takes `renewPairing`. */
  signals: 2,
  /** A peer understands every command; a relay takes `progressMore`. */
  commands: 4,
} as const;
