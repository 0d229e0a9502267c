/**
 * What was measured during the soak, and whether it stays flat.
 *
 * @module
 */
export interface Sample {
  readonly relayBytes: number;
  readonly seederBytes: number;
  readonly leecherBytes: number;
  /** JavaScript's own, and what it holds outside its heap. */
  readonly seederHeapBytes: number;
  readonly leecherHeapBytes: number;
  readonly relaySockets: number;
  /** Of the database, mostly, which opens them as it comes to them. */
  readonly relayFiles: number;
  readonly seederDescriptors: number;
  readonly leecherDescriptors: number;
}

export type Column = keyof Sample;

/** What the last fifth may be of the second. */
export const LIMITS: Readonly<Record<Column, (early: number) => number>> = {
  relayBytes: (early) => 1.2 * early,
  seederBytes: (early) => 1.2 * early,
  leecherBytes: (early) => 1.2 * early,
  seederHeapBytes: (early) => 1.2 * early,
  leecherHeapBytes: (early) => 1.2 * early,
  relaySockets: (early) => early,
  relayFiles: (early) => early + 20,
  seederDescriptors: (early) => early,
  leecherDescriptors: (early) => early,
};
// The keys are the columns: the table has each of them.
export const COLUMNS = Object.keys(LIMITS) as readonly Column[];

/** Medians of the second and of the last fifth: the first is for warming up. */
export function medians(samples: readonly Sample[], column: Column): readonly [number, number] {
  const fifth = Math.floor(samples.length / 5);
  const values = samples.map((sample) => sample[column]);
  return [median(values.slice(fifth, 2 * fifth)), median(values.slice(-fifth))];
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
}

export function table(samples: readonly Sample[]): string {
  const fifth = Math.floor(samples.length / 5);
  const rows = COLUMNS.map((column) => {
    const fifths = Array.from({ length: 5 }, (_, i) =>
      median(samples.slice(i * fifth, (i + 1) * fifth).map((sample) => sample[column])),
    );
    const shown = fifths.map((value) =>
      (column.endsWith("Bytes") ? `${(value / 1e6).toFixed(1)} MB` : String(value)).padStart(10),
    );
    return `${column.padEnd(20)}${shown.join("")}`;
  });
  return [`${"median of each fifth".padEnd(20)}`, ...rows].join("\n");
}
