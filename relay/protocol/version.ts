/**
 * Version of the relay protocol. History in README.md beside this file.
 *
 * @module
 */

/** Another major version is refused, with both named. */
export const PROTOCOL_MAJOR = 1;
/** A higher minor version only adds frames that an older side may ignore. */
export const PROTOCOL_MINOR = 1;

/** Bit of `features`: a peer may look for a direct path, and the relay helps it. */
export const FEATURE_DIRECT = 1;
