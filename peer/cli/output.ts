/**
 * What a command prints: JSON lines for programs, lines and a progress bar for people.
 *
 * Standard output carries what was asked for (tickets, JSON lines), standard error the rest, so that both can
 * be redirected.
 *
 * @module
 */
import type { MigrationProgress } from "../migration/events.ts";
import { formatBytes, formatDuration } from "./size.ts";

const BAR_WIDTH = 24;

export interface OutputOptions {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly colour: boolean;
  readonly stdout?: NodeJS.WriteStream;
  readonly stderr?: NodeJS.WriteStream;
}

export class Output {
  readonly #options: OutputOptions;
  readonly #stdout: NodeJS.WriteStream;
  readonly #stderr: NodeJS.WriteStream;
  readonly #live: boolean;
  #barShown = false;

  constructor(options: OutputOptions) {
    this.#options = options;
    this.#stdout = options.stdout ?? process.stdout;
    this.#stderr = options.stderr ?? process.stderr;
    this.#live = !options.json && !options.quiet && this.#stderr.isTTY;
    // A reader that goes away (`| head`) is no reason to stop a migration.
    this.#stdout.on("error", () => undefined);
    this.#stderr.on("error", () => undefined);
  }

  get json(): boolean {
    return this.#options.json;
  }

  /** One JSON line; nothing without `--json`. */
  event(event: Readonly<Record<string, unknown>> & { readonly event: string }): void {
    if (this.#options.json) this.#stdout.write(`${JSON.stringify(event)}\n`);
  }

  /** A line that was asked for. */
  result(line: string): void {
    if (this.#options.json) return;
    this.#clear();
    this.#stdout.write(`${line}\n`);
  }

  /** A line for a person who watches. */
  note(line: string): void {
    if (this.#options.json || this.#options.quiet) return;
    this.#clear();
    this.#stderr.write(`${line}\n`);
  }

  /** Always printed: as an event, or as one line. */
  error(code: string, message: string, details: Readonly<Record<string, unknown>> = {}): void {
    if (this.#options.json) {
      this.event({ event: "error", code, message, ...details });
      return;
    }
    this.#clear();
    this.#stderr.write(`memferry: ${message}\n`);
  }

  /** Redraws the bar on a terminal; an event with `--json`; else nothing. */
  progress(progress: MigrationProgress): void {
    if (this.#options.json) {
      const etaMs = eta(progress);
      this.event({ event: "progress", ...progress, ...(etaMs === undefined ? {} : { etaMs }) });
      return;
    }
    this.status(progressLine(progress));
  }

  /** A line that takes the place of the last one, on a terminal. */
  status(line: string): void {
    if (!this.#live) return;
    const columns = this.#stderr.columns > 0 ? this.#stderr.columns : 80;
    this.#stderr.write(`\r\u001b[2K${line.slice(0, columns - 1)}`);
    this.#barShown = true;
  }

  /** Leaves the terminal clean. */
  close(): void {
    this.#clear();
  }

  #clear(): void {
    if (!this.#barShown) return;
    this.#stderr.write("\r\u001b[2K");
    this.#barShown = false;
  }
}

/** Milliseconds until everything is ready at the present rates; `undefined` if it never will be. */
export function eta(progress: MigrationProgress): number | undefined {
  const netBytesPerS = progress.bytesPerS - progress.dirtyBytesPerS;
  const remaining = progress.bytesTotal - progress.bytesReady;
  if (remaining <= 0) return 0;
  return netBytesPerS > 0 ? (remaining / netBytesPerS) * 1000 : undefined;
}

export function progressLine(progress: MigrationProgress): string {
  const { phase, round, bytesTotal, bytesReady, bytesPerS, dirtyBytesPerS } = progress;
  const ratio = bytesTotal === 0 ? 0 : bytesReady / bytesTotal;
  const filled = Math.round(ratio * BAR_WIDTH);
  const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
  const etaMs = eta(progress);
  const parts = [
    `${phase}${phase === "precopy" && round > 0 ? ` ${round + 1}` : ""}`.padEnd(11),
    bar,
    `${(ratio * 100).toFixed(0).padStart(3)} %`,
    `${formatBytes(bytesReady)}/${formatBytes(bytesTotal)}`,
    `${formatBytes(bytesPerS)}/s`,
  ];
  if (dirtyBytesPerS > 0) parts.push(`dirty ${formatBytes(dirtyBytesPerS)}/s`);
  if (etaMs !== undefined && etaMs > 0) parts.push(`ETA ${formatDuration(etaMs)}`);
  return parts.join("  ");
}
