/**
 * Numbers for people. A figure that is not known is a dash, never a zero; the width of a figure changes as
 * seldom as possible, so that a column of them stands still.
 *
 * @module
 */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;
export const UNKNOWN = "–";

type Known = number | null | undefined;

export function bytes(count: Known): string {
  if (count === null || count === undefined || !Number.isFinite(count)) return UNKNOWN;
  let value = count;
  let unit = 0;
  // 1023.96 would be shown as 1024.0.
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit] ?? ""}`;
}

export function rate(bytesPerS: Known): string {
  return bytesPerS === null || bytesPerS === undefined ? UNKNOWN : `${bytes(bytesPerS)}/s`;
}

export function duration(ms: Known): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return UNKNOWN;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function percent(ratio: Known, digits = 1): string {
  if (ratio === null || ratio === undefined || !Number.isFinite(ratio)) return UNKNOWN;
  // Not 100 before it is all.
  const floor = 10 ** digits;
  const value = ratio >= 1 ? 100 : Math.floor(ratio * 100 * floor) / floor;
  return `${value.toFixed(digits)} %`;
}

export function count(value: Known): string {
  return value === null || value === undefined ? UNKNOWN : value.toLocaleString("en");
}

export function clock(at: Date): string {
  return at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** The time of day, and the day unless it is today. */
export function moment(iso: string | null | undefined): string {
  if (iso === null || iso === undefined) return UNKNOWN;
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock(at) : `${at.toLocaleDateString()} ${clock(at)}`;
}

export function ago(iso: string | null | undefined, nowMs: number): string {
  if (iso === null || iso === undefined) return UNKNOWN;
  const ms = Math.max(0, nowMs - Date.parse(iso));
  if (ms < 60_000) return `${Math.floor(ms / 1000)} s ago`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ago`;
  if (ms < 172_800_000) return `${Math.floor(ms / 3_600_000)} h ago`;
  return `${Math.floor(ms / 86_400_000)} d ago`;
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}
