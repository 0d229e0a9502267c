/**
 * What a measurement over the emulated network says, and how a person reads it.
 *
 * @module
 */

/** The network between the three nodes. */
export interface Conditions {
  /** Between the peers, also by way of the relay. */
  readonly rttMs: number;
  /** Of the segments that each node sends, 0 to 1. */
  readonly lossRatio: number;
}

export interface Job extends Conditions {
  readonly bytes: number;
  readonly mbit: number;
  /** Gives up then. */
  readonly limitMs: number;
}

export interface Figures {
  readonly bytes: number;
  /** From the start of the receiving program to its end. */
  readonly seconds: number;
  /** `seconds` over bytes / rate. */
  readonly overIdeal: number;
  readonly mibPerSecond: number;
  /** CPU seconds per GiB, of each program. */
  readonly cpuPerGib?: Readonly<Record<string, number>>;
  /** Paths that the peers said they used, in order. */
  readonly paths?: readonly string[];
  /** The receiving program's own start, to its first packet. */
  readonly startMs?: number;
  /** From its first packet until a byte of the region was stored. */
  readonly firstByteMs?: number;
}

export interface Row extends Conditions {
  readonly what: string;
  readonly figures?: Figures;
  /** Why there are none. */
  readonly skipped?: string;
}

export function figures(
  { bytes, mbit }: Job,
  seconds: number,
  more: Partial<Figures> = {},
): Figures {
  return {
    bytes,
    seconds,
    overIdeal: seconds / (bytes / (mbit * 125_000)),
    mibPerSecond: bytes / seconds / 2 ** 20,
    ...more,
  };
}

const WIDTHS = [8, 7, 28, 7, 9, 8, 22] as const;

export function heading(): string {
  const names = ["RTT ms", "loss %", "what", "MiB", "/ ideal", "MiB/s", "first byte"];
  return columns([...names, "CPU s/GiB"]);
}

export function lineOf({ what, rttMs, lossRatio, figures: got, skipped }: Row): string {
  const conditions = [String(rttMs), String(Number((lossRatio * 100).toFixed(3))), what];
  if (got === undefined) return columns([...conditions, `skipped: ${skipped ?? "no figures"}`]);
  const { bytes, overIdeal, mibPerSecond, firstByteMs, cpuPerGib = {}, paths } = got;
  const inRtts = rttMs > 0 ? `, ${((firstByteMs ?? 0) / rttMs).toFixed(1)} RTT` : "";
  const cpu = Object.entries(cpuPerGib).map(([name, seconds]) => `${name} ${seconds.toFixed(2)}`);
  return columns([
    ...conditions,
    (bytes / 2 ** 20).toFixed(0),
    overIdeal.toFixed(2),
    mibPerSecond.toFixed(1),
    firstByteMs === undefined ? "" : `${firstByteMs.toFixed(0)} ms${inRtts}`,
    [cpu.join(", "), paths === undefined ? "" : `over ${paths.join(", ")}`].join("  "),
  ]);
}

function columns(cells: readonly string[]): string {
  return cells
    .map((cell, i) => cell.padEnd(WIDTHS[i] ?? 0))
    .join("  ")
    .trimEnd();
}
