/**
 * Hexadecimal identifiers as bytes.
 *
 * @module
 */
import { Buffer } from "node:buffer";

/** @param text Hexadecimal digits, as the database or a checked request gave them. */
export function fromHex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "hex"));
}
