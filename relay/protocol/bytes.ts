/**
 * Reading and writing bytes, little-endian, with every bound checked.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";

const encoder = new TextEncoder();
// What was encoded is what is decoded: a byte order mark at the front is a character as any other.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Appends fields to a growing buffer. */
export class ByteWriter {
  #bytes: Uint8Array<ArrayBuffer>;
  #view: DataView;
  #length = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#length;
  }

  u8(value: number): this {
    const at = this.#grow(1);
    this.#view.setUint8(at, value);
    return this;
  }

  u16(value: number): this {
    const at = this.#grow(2);
    this.#view.setUint16(at, value, true);
    return this;
  }

  u32(value: number): this {
    const at = this.#grow(4);
    this.#view.setUint32(at, value, true);
    return this;
  }

  /** A non-negative integer up to 2^53 - 1, as 64 bits. */
  u53(value: number): this {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, BigInt(value), true);
    return this;
  }

  f64(value: number): this {
    const at = this.#grow(8);
    this.#view.setFloat64(at, value, true);
    return this;
  }

  bytes(value: Uint8Array): this {
    const at = this.#grow(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  /** A length in 32 bits, then that many bytes. */
  blob(value: Uint8Array): this {
    return this.u32(value.length).bytes(value);
  }

  /** A length in 16 bits, then UTF-8, cut at a character so that it fits `bytesMax`. */
  text(value: string, bytesMax: number): this {
    let encoded = encoder.encode(value);
    if (encoded.length > bytesMax) {
      let end = bytesMax;
      while (end > 0 && ((encoded[end] ?? 0) & 0xc0) === 0x80) end--;
      encoded = encoded.subarray(0, end);
    }
    return this.u16(encoded.length).bytes(encoded);
  }

  /** Overwrites a field that was written before its value was known. */
  setU32(offset: number, value: number): this {
    this.#view.setUint32(offset, value, true);
    return this;
  }

  /** What was written: a view, valid until the next write. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Makes room for `count` bytes and returns where they start. Replaces the buffer: call it before using it. */
  #grow(count: number): number {
    const start = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#length, this.#bytes.length * 2));
      grown.set(this.#bytes.subarray(0, start));
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return start;
  }
}

/**
 * Takes fields off a buffer that came from outside.
 *
 * Every method throws `ProtocolError` `FRAME_MALFORMED` when the bytes run out or are not what was asked.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u53(): number {
    const value = this.#view.getBigUint64(this.#take(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(`integer ${value} is too large`);
    return Number(value);
  }

  f64(): number {
    const value = this.#view.getFloat64(this.#take(8), true);
    if (!Number.isFinite(value)) throw malformed("number is not finite");
    return value;
  }

  /** A view of the next `count` bytes, not a copy. */
  bytes(count: number): Uint8Array {
    const start = this.#take(count);
    return this.#bytes.subarray(start, start + count);
  }

  blob(bytesMax: number): Uint8Array {
    const length = this.u32();
    if (length > bytesMax) throw malformed(`blob of ${length} bytes, at most ${bytesMax}`);
    return this.bytes(length);
  }

  text(bytesMax: number): string {
    const length = this.u16();
    if (length > bytesMax) throw malformed(`text of ${length} bytes, at most ${bytesMax}`);
    try {
      return decoder.decode(this.bytes(length));
    } catch (cause) {
      if (cause instanceof ProtocolError) throw cause;
      throw malformed("text is not UTF-8", { cause });
    }
  }

  rest(): Uint8Array {
    return this.bytes(this.remaining);
  }

  /** Refuses bytes after the last field. */
  end(): void {
    if (this.remaining > 0) throw malformed(`${this.remaining} bytes after the last field`);
  }

  #take(count: number): number {
    const start = this.#offset;
    if (count > this.#bytes.length - start) {
      throw malformed(`${count} bytes wanted, ${this.#bytes.length - start} left`);
    }
    this.#offset = start + count;
    return start;
  }
}

export function malformed(message: string, options?: ErrorOptions): ProtocolError {
  return new ProtocolError("FRAME_MALFORMED", message, options);
}

/** Base64 in the URL alphabet without padding (RFC 4648, section 5). */
export function toBase64Url(bytes: Uint8Array): string {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** @throws ProtocolError `FRAME_MALFORMED` */
export function fromBase64Url(text: string): Uint8Array<ArrayBuffer> {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) throw malformed("not base64url");
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

export function toHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}
