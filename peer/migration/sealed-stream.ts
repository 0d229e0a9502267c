/**
 * Messages on a byte stream that only the two peers can read.
 *
 * A record is `u32 length`, `u8 0x80`, AES-256-GCM ciphertext, 16-byte tag, and holds one message. Each
 * stream has its own key in each direction and its nonce counts records, so one that is repeated, left out,
 * moved, or taken from another stream does not open. Keys move on every 65,536 records.
 *
 * @module
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import { decodeFrame } from "../../relay/protocol/frame.ts";
import {
  MessageReader,
  type Message as StreamMessage,
} from "../../relay/protocol/message-stream.ts";
import type { ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import { MigrationError } from "../errors.ts";

const RECORD = 0x80;
const HEADER_BYTES = 5;
const TAG_BYTES = 16;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const RECORDS_PER_KEY = 65_536;

/**
 * What the relay says on a stream that it does not join, where a message of the other peer was due.
 *
 * @returns `PEER_LOST`; `undefined` if that is not what came.
 */
export function relayRefusal({ kind, payload }: StreamMessage): MigrationError | undefined {
  try {
    const frame = decodeFrame(kind, payload);
    if (frame?.kind !== "error") return undefined;
    return new MigrationError(
      "PEER_LOST",
      `the relay does not join the peers' streams: ${frame.message}`,
    );
  } catch {
    return undefined;
  }
}

/** What sealing adds to a message on the wire. */
export const RECORD_OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES;

/** The key of one direction of one stream, and how many records it has seen. */
class RecordKey {
  #key: Uint8Array;
  #count = 0;

  constructor(secret: Uint8Array, streamIndex: number) {
    this.#key = derive(secret, `stream ${streamIndex}`);
  }

  /** The key and nonce of the next record. */
  next(): { key: Uint8Array; nonce: Uint8Array } {
    if (this.#count > 0 && this.#count % RECORDS_PER_KEY === 0)
      this.#key = derive(this.#key, "next");
    const nonce = new Uint8Array(NONCE_BYTES);
    new DataView(nonce.buffer).setBigUint64(0, BigInt(this.#count), true);
    this.#count++;
    return { key: this.#key, nonce };
  }
}

export interface SealedStreamOptions {
  readonly streamIndex: number;
  readonly sendSecret: Uint8Array;
  readonly receiveSecret: Uint8Array;
  /** A longer message from the other side is refused before it is read. */
  readonly messageBytesMax: number;
}

export class SealedStream {
  readonly #stream: ByteStream;
  readonly #reader: MessageReader;
  readonly #sendKey: RecordKey;
  readonly #receiveKey: RecordKey;
  readonly #messageBytesMax: number;
  #bytesSent = 0;
  #bytesReceived = 0;

  /** @param reader The stream's reader, if something was read from it before. */
  constructor(stream: ByteStream, options: SealedStreamOptions, reader?: MessageReader) {
    this.#stream = stream;
    this.#reader = reader ?? new MessageReader(stream);
    this.#sendKey = new RecordKey(options.sendSecret, options.streamIndex);
    this.#receiveKey = new RecordKey(options.receiveSecret, options.streamIndex);
    this.#messageBytesMax = options.messageBytesMax;
  }

  /** Bytes on the wire so far. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  get closed(): Promise<CloseInfo> {
    return this.#stream.closed;
  }

  /**
   * Sends one message, given in parts so that a payload needs no copy into place.
   *
   * Records leave in the order of the calls. Resolves when the stream will take more.
   */
  send(...parts: readonly Uint8Array[]): Promise<void> {
    const { key, nonce } = this.#sendKey.next();
    const cipher = createCipheriv("aes-256-gcm", key, nonce);
    let length = TAG_BYTES;
    for (const part of parts) length += part.length;
    // One copy: OpenSSL's output goes into the record that the transport will own.
    const record = new Uint8Array(HEADER_BYTES + length);
    const view = new DataView(record.buffer);
    view.setUint32(0, length, true);
    view.setUint8(4, RECORD);
    let offset = HEADER_BYTES;
    for (const part of parts) {
      record.set(cipher.update(part), offset);
      offset += part.length;
    }
    cipher.final();
    record.set(cipher.getAuthTag(), offset);
    this.#bytesSent += record.length;
    return this.#stream.write(record);
  }

  /**
   * @returns The next message, the caller's own; `null` at the end of the stream.
   * @throws MigrationError `CHANNEL_CORRUPT`
   */
  async receive(): Promise<Uint8Array | null> {
    const record = await this.#reader.next(this.#messageBytesMax + TAG_BYTES);
    if (record === null) return null;
    this.#bytesReceived += HEADER_BYTES + record.payload.length;
    if (record.kind !== RECORD || record.payload.length <= TAG_BYTES) {
      throw relayRefusal(record) ?? corrupt();
    }
    const { key, nonce } = this.#receiveKey.next();
    const decipher = createDecipheriv("aes-256-gcm", key, nonce);
    const split = record.payload.length - TAG_BYTES;
    decipher.setAuthTag(record.payload.subarray(split));
    const plain = decipher.update(record.payload.subarray(0, split));
    try {
      decipher.final();
    } catch (cause) {
      throw corrupt(cause);
    }
    return plain;
  }

  end(): Promise<void> {
    return this.#stream.end();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    this.#stream.abort(code, reason);
  }
}

function derive(secret: Uint8Array, label: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", secret, "", `memferry ${label}`, KEY_BYTES));
}

function corrupt(cause?: unknown): MigrationError {
  return new MigrationError(
    "CHANNEL_CORRUPT",
    "a record from the other peer does not open: something between the peers changed, dropped or repeated it",
    cause === undefined ? undefined : { cause },
  );
}
