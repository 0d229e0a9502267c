/**
 * Lists in pages, by cursors that say where the last page ended.
 *
 * To a client a cursor is opaque. It holds no more than the position, so one that was tampered with leads to another
 * part of the same list or is refused.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

import { fromBase64Url, toBase64Url } from "../protocol/bytes.ts";
import { RelayError } from "../errors.ts";

export const PAGE_LIMIT_MAX = 200;
export const PAGE_LIMIT_DEFAULT = 50;
const CURSOR_CHARS_MAX = 200;

export const pageLimit = z.coerce
  .number()
  .int()
  .min(1)
  .max(PAGE_LIMIT_MAX)
  .default(PAGE_LIMIT_DEFAULT);

/** What every list takes. */
export const pageQuerySchema = z.object({
  cursor: z.string().max(CURSOR_CHARS_MAX).optional().openapi({
    description: "`nextCursor` of the page before, as it is.",
  }),
  limit: pageLimit,
});

/** Where a page ended in a list that is newest first, the id breaking ties. */
export interface Position {
  readonly createdAt: Date;
  /** 32 hexadecimal digits, or 64. */
  readonly id: string;
}

export function positionCursor({ createdAt, id }: Position): string {
  return toBase64Url(new TextEncoder().encode(`${createdAt.getTime()}.${id}`));
}

/** @throws RelayError `CURSOR_INVALID` */
export function positionOf(cursor: string): Position {
  const [, ms, id] = /^(\d{1,14})\.((?:[0-9a-f]{32}){1,2})$/.exec(textOf(cursor)) ?? [];
  if (ms === undefined || id === undefined) throw cursorInvalid();
  return { createdAt: new Date(Number(ms)), id };
}

/** For lists in the order of a number, such as an event's. */
export function numberCursor(value: number): string {
  return toBase64Url(new TextEncoder().encode(`n${value}`));
}

/** @throws RelayError `CURSOR_INVALID` */
export function numberOf(cursor: string): number {
  const [, digits] = /^n(\d{1,16})$/.exec(textOf(cursor)) ?? [];
  const value = Number(digits ?? Number.NaN);
  if (!Number.isSafeInteger(value)) throw cursorInvalid();
  return value;
}

/** For lists in the order of a text, such as a name's. */
export function textCursor(value: string): string {
  return toBase64Url(new TextEncoder().encode(`t${value}`));
}

/** @throws RelayError `CURSOR_INVALID` */
export function textPositionOf(cursor: string): string {
  const text = textOf(cursor);
  if (!text.startsWith("t") || text.includes("\0")) throw cursorInvalid();
  return text.slice(1);
}

/**
 * Cuts a page off.
 *
 * @param rows One more than `limit`, if there are so many: it says whether there is a next page.
 */
export function pageOf<Row>(
  rows: readonly Row[],
  limit: number,
  cursorOf: (last: Row) => string,
): { readonly page: readonly Row[]; readonly nextCursor: string | null } {
  const page = rows.slice(0, limit);
  const last = rows.length > limit ? page.at(-1) : undefined;
  return { page, nextCursor: last === undefined ? null : cursorOf(last) };
}

function textOf(cursor: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(fromBase64Url(cursor));
  } catch {
    throw cursorInvalid();
  }
}

function cursorInvalid(): RelayError {
  return new RelayError("CURSOR_INVALID", "this cursor is none that the relay gave out");
}
