/**
 * What became of a session, for people and for files.
 *
 * @module
 */
import type { SessionBody } from "../../../relay/app.ts";
import { nameOf } from "./session.ts";

export interface Part {
  readonly label: string;
  readonly value: number;
}

export interface Report {
  readonly id: string;
  readonly name: string;
  readonly state: SessionBody["state"];
  readonly source: string;
  readonly destination: string;
  readonly regionBytes: number | null;
  readonly totalMs: number | null;
  readonly downtimeMs: number | null;
  /** What the standstill was made of, in milliseconds, in order. */
  readonly downtime: readonly Part[];
  /** Bytes by what they were. */
  readonly bytes: readonly Part[];
  readonly rounds: number | null;
  readonly path: string | null;
  readonly rootHash: string | null;
}

const between = (from: string | null, to: string | null): number | null =>
  from === null || to === null ? null : Math.max(0, Date.parse(to) - Date.parse(from));

export function reportOf(session: SessionBody): Report {
  const { timings, progress, region } = session;
  const steps: readonly (readonly [string, number | null])[] = [
    ["suspend and last round", between(timings.finalizeAt, timings.suspendedAt)],
    ["commit", between(timings.suspendedAt, timings.committedAt)],
    ["resume", between(timings.committedAt, timings.resumedAt)],
  ];
  const chunkBytes = region?.chunkBytes ?? 0;
  const firstBytes = Math.min(progress?.bytesSent ?? 0, region?.bytes ?? 0);
  const kinds: readonly Part[] =
    progress === null
      ? []
      : [
          { label: "first copies", value: firstBytes },
          { label: "sent again", value: Math.max(0, progress.bytesSent - firstBytes) },
          { label: "zero, not sent", value: progress.chunksZero * chunkBytes },
          { label: "protocol", value: Math.max(0, progress.bytesWire - progress.bytesSent) },
        ];
  return {
    id: session.id,
    name: nameOf(session),
    state: session.state,
    source: session.seeder.host ?? "",
    destination: session.leecher.host ?? "",
    regionBytes: region?.bytes ?? null,
    totalMs: timings.totalMs,
    downtimeMs: timings.downtimeMs,
    downtime: steps.flatMap(([label, value]) => (value === null ? [] : [{ label, value }])),
    bytes: kinds,
    rounds: progress?.round ?? null,
    path: session.path?.kind ?? null,
    rootHash: region?.rootHash ?? null,
  };
}

const COLUMNS = [
  "id",
  "name",
  "state",
  "source",
  "destination",
  "regionBytes",
  "totalMs",
  "downtimeMs",
  "rounds",
  "path",
  "rootHash",
] as const satisfies readonly (keyof Report)[];

/** RFC 4180, for programs that take a cell that begins like a formula for one. */
export function toCsv(reports: readonly Report[]): string {
  const lines = [
    COLUMNS.join(","),
    ...reports.map((report) => COLUMNS.map((name) => csvCell(report[name])).join(",")),
  ];
  return `${lines.join("\r\n")}\r\n`;
}

function csvCell(value: string | number | null): string {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  // A spreadsheet would run what begins like this.
  const harmless = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}
