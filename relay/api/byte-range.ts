/**
 * One range of bytes, as `Range` asks for it (RFC 9110).
 *
 * @module
 */

export interface ByteRange {
  readonly first: number;
  readonly length: number;
}

/**
 * @param length Of the whole.
 * @returns `undefined`: the whole is to be sent; also for several ranges, and for units and forms that are none.
 */
export function byteRange(
  header: string | undefined,
  length: number,
): ByteRange | "unsatisfiable" | undefined {
  const [, from, to] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? "") ?? [];
  if (from === undefined || to === undefined || (from === "" && to === "")) return undefined;
  if (from === "") {
    const last = Math.min(Number(to), length);
    return last === 0 ? "unsatisfiable" : { first: length - last, length: last };
  }
  const first = Number(from);
  if (to !== "" && Number(to) < first) return undefined;
  if (first >= length) return "unsatisfiable";
  const end = to === "" ? length : Math.min(Number(to) + 1, length);
  return { first, length: end - first };
}
