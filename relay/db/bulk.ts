/**
 * Rows in PostgreSQL's binary COPY format, read whole.
 *
 * Bytes come as bytes. As the result of a query they would come as hexadecimal text, which costs twice the bytes and
 * most of the time.
 *
 * @module
 */
import { Buffer } from "node:buffer";

import pg from "pg";

/** A field's bytes, integers big-endian; null where it is null. */
export type BulkRow = readonly (Buffer | null)[];

const SIGNATURE_BYTES = 11;

/** A COPY of which all that comes is kept: what it selects must be bounded. */
export class CopyOut extends pg.Query {
  readonly #pieces: Buffer[] = [];
  readonly finished: Promise<readonly BulkRow[]>;

  constructor(select: string) {
    super({ text: copyText(select, "stdout") });
    this.finished = new Promise((resolve, reject) => {
      this.on("error", reject);
      this.on("end", () => {
        try {
          resolve(bulkRows(Buffer.concat(this.#pieces)));
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  }

  /** Called by the client for each message. Copied: the client goes on using the memory. */
  handleCopyData({ chunk }: { readonly chunk: Uint8Array }): void {
    this.#pieces.push(Buffer.from(chunk));
  }
}

export function copyText(select: string, to: "stdout" | "'/dev/blob'"): string {
  return `copy (${select}) to ${to} (format binary)`;
}

/** @throws RangeError if it is not the format. */
export function bulkRows(bytes: Buffer): BulkRow[] {
  if (bytes.toString("latin1", 0, SIGNATURE_BYTES) !== "PGCOPY\n\xff\r\n\0") {
    throw new RangeError("the database's answer to a COPY has no signature");
  }
  const rows: BulkRow[] = [];
  let at = SIGNATURE_BYTES + 8 + bytes.readInt32BE(SIGNATURE_BYTES + 4);
  for (let count = bytes.readInt16BE(at); count >= 0; count = bytes.readInt16BE(at)) {
    at += 2;
    const row: (Buffer | null)[] = [];
    for (let field = 0; field < count; field++) {
      const length = bytes.readInt32BE(at);
      at += 4;
      row.push(length < 0 ? null : bytes.subarray(at, (at += length)));
    }
    rows.push(row);
  }
  return rows;
}

/** An `int` or a `bigint` below 2^53. */
export function bulkInteger(field: Buffer | null | undefined): number {
  if (field?.length === 4) return field.readInt32BE(0);
  if (field?.length === 8) return Number(field.readBigInt64BE(0));
  throw new RangeError("a field is no integer");
}

export function bulkBytes(field: Buffer | null | undefined): Uint8Array<ArrayBuffer> {
  if (field === null || field === undefined) throw new RangeError("a field is null");
  // Never shared: it was made by `Buffer.concat` or from a blob.
  return new Uint8Array(field.buffer as ArrayBuffer, field.byteOffset, field.length);
}
