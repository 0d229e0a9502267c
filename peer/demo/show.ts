/**
 * What a person sees: a line for each step, a bar while it lasts, and a summary at the end.
 *
 * @module
 */
import { formatBytes, formatDuration } from "../cli/size.ts";

/** The same figures that `--json` prints. */
export interface Outcome {
  /** The two sides' root hashes are equal. */
  readonly identical: boolean;
  /** What SQLite's integrity check says: `ok`. */
  readonly integrity: string;
  readonly rowsLost: number;
  readonly rowsDuplicated: number;
  /** There with a wrong checksum. */
  readonly rowsDamaged: number;
  /** There as before a change that was acknowledged. */
  readonly rowsStale: number;
  /** There without having been acknowledged. */
  readonly rowsUnacknowledged: number;
  /** What memferry measured, from suspend to the first request served at the destination. */
  readonly downtimeMs: number;
  /** What the workload felt: from its last commit at the source to its first at the destination. */
  readonly writerPauseMs: number;
  /** From the leecher's start to `done`. */
  readonly totalMs: number;
  readonly path: string;
  readonly rounds: number;
  readonly bytesTotal: number;
  readonly bytesWire: number;
  readonly rootHash: string;
  readonly export: "fuse" | "none";
  readonly relayRuntime: string;
  readonly databaseBytes: number;
  readonly regionBytes: number;
  readonly rowsPrior: number;
  readonly rowsBefore: number;
  readonly rowsDuring: number;
  readonly rowsAfter: number;
  readonly rowsRewritten: number;
  readonly rowsPerSecond: number;
  /** With `--stay`. */
  readonly dashboard?: string;
  readonly database?: string;
}

/** Nothing lost, nothing twice, nothing damaged. */
export function isFlawless(outcome: Outcome): boolean {
  return (
    outcome.identical &&
    outcome.integrity === "ok" &&
    outcome.rowsLost === 0 &&
    outcome.rowsDuplicated === 0 &&
    outcome.rowsDamaged === 0 &&
    outcome.rowsStale === 0 &&
    // The writers end in good order, so that not even the last row is in doubt.
    outcome.rowsUnacknowledged === 0
  );
}

export interface ShowOptions {
  /** Prints nothing at all. */
  readonly silent: boolean;
  readonly colour: boolean;
  readonly stream: NodeJS.WriteStream;
}

const LABEL_WIDTH = 10;
const BAR_WIDTH = 24;
const DRAW_INTERVAL_MS = 80;
const SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏";
const PATHS: Readonly<Record<string, string>> = {
  webtransport: "WebTransport",
  websocket: "WebSocket",
};

export class Show {
  readonly #options: ShowOptions;
  readonly #live: boolean;
  #label = "";
  #beganAtMs = 0;
  #drawnAtMs = 0;
  #drawn = false;

  constructor(options: ShowOptions) {
    this.#options = options;
    this.#live = !options.silent && options.stream.isTTY;
    // A reader that goes away (`| head`) is no reason to leave processes behind.
    options.stream.on("error", () => undefined);
  }

  title(): void {
    this.#line("");
    this.#line(this.#bold("A SQLite database moves to another host while a program writes to it"));
    this.#line("");
  }

  begin(label: string, what: string): void {
    this.#label = label;
    this.#beganAtMs = performance.now();
    this.#drawnAtMs = 0;
    this.update(what);
  }

  /** What the step is at; on a terminal only. */
  update(what: string): void {
    const now = performance.now();
    if (!this.#live || now - this.#drawnAtMs < DRAW_INTERVAL_MS) return;
    this.#drawnAtMs = now;
    const frame = SPINNER[Math.floor(now / DRAW_INTERVAL_MS) % SPINNER.length] ?? "";
    const columns = this.#options.stream.columns > 0 ? this.#options.stream.columns : 80;
    // Cut before it is coloured: an escape sequence must not be cut in two.
    const line = `${this.#label.padEnd(LABEL_WIDTH)}  ${what}`.slice(0, columns - 6);
    this.#options.stream.write(`\r\u001b[2K  ${this.#cyan(frame)} ${line}`);
    this.#drawn = true;
  }

  /** @param ratio From 0 to 1. */
  bar(what: string, ratio: number): void {
    const filled = Math.round(Math.min(1, Math.max(0, ratio)) * BAR_WIDTH);
    const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
    this.update(`${bar} ${(ratio * 100).toFixed(0).padStart(3)} %  ${what}`);
  }

  end(what: string): void {
    const took = formatDuration(performance.now() - this.#beganAtMs);
    this.#line(
      `  ${this.#green("✓")} ${this.#bold(this.#label.padEnd(LABEL_WIDTH))}  ${what}  ${this.#dim(took)}`,
    );
  }

  note(text: string): void {
    this.#line(`  ${this.#yellow("!")} ${text}`);
  }

  /** Leaves the terminal clean. */
  clear(): void {
    if (this.#drawn) this.#options.stream.write("\r\u001b[2K");
    this.#drawn = false;
  }

  summary(outcome: Outcome): void {
    const good = isFlawless(outcome);
    const verdict = good
      ? this.#green("Moved while it was being written, and nothing was lost.")
      : this.#red("Something is wrong: see below.");
    this.#line("");
    this.#line(`  ${this.#bold(verdict)}`);
    this.#line("");
    for (const [label, value] of summaryRows(outcome)) {
      this.#line(`    ${this.#dim(label.padEnd(LABEL_WIDTH))}  ${value}`);
    }
    this.#line("");
  }

  staying({ dashboard = "", database = "" }: Outcome): void {
    this.#line(`  Dashboard  ${this.#bold(dashboard)}`);
    this.#line(`  Database   ${database}`);
    this.#line("");
    this.#line("  A writer goes on at the destination. Ctrl-C ends and cleans up everything.");
    this.#line("");
  }

  bytes(bytes: number): string {
    return formatBytes(bytes);
  }

  duration(ms: number): string {
    return formatDuration(ms);
  }

  path(path: string): string {
    return PATHS[path] ?? path;
  }

  plural(count: number, noun: string): string {
    return plural(count, noun);
  }

  #line(line: string): void {
    if (this.#options.silent) return;
    this.clear();
    this.#options.stream.write(`${line}\n`);
  }

  #bold(text: string): string {
    return this.#paint("1", text);
  }

  #dim(text: string): string {
    return this.#paint("2", text);
  }

  #red(text: string): string {
    return this.#paint("31", text);
  }

  #green(text: string): string {
    return this.#paint("32", text);
  }

  #yellow(text: string): string {
    return this.#paint("33", text);
  }

  #cyan(text: string): string {
    return this.#paint("36", text);
  }

  #paint(code: string, text: string): string {
    return this.#options.colour ? `\u001b[${code}m${text}\u001b[0m` : text;
  }
}

function plural(count: number, noun: string): string {
  return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** `65,379` */
function grouped(count: number): string {
  return count.toLocaleString("en-GB");
}

function summaryRows(outcome: Outcome): (readonly [label: string, value: string])[] {
  const { rowsLost, rowsDuplicated, rowsDamaged, rowsStale, rowsUnacknowledged } = outcome;
  const flaws = [
    [rowsLost, "lost"],
    [rowsDuplicated, "there twice"],
    [rowsDamaged, "damaged"],
    [rowsStale, "out of date"],
    [rowsUnacknowledged, "that nobody was told of"],
  ] as const;
  const found = flaws.filter(([count]) => count > 0);
  const rowsTotal = outcome.rowsPrior + outcome.rowsBefore + outcome.rowsDuring + outcome.rowsAfter;
  return [
    ["path", `${PATHS[outcome.path] ?? outcome.path}, relay on ${outcome.relayRuntime}`],
    [
      "moved",
      `${formatBytes(outcome.bytesTotal)} in ${plural(outcome.rounds, "round")}, ` +
        `${formatBytes(outcome.bytesWire)} on the wire`,
    ],
    ["time", `${formatDuration(outcome.totalMs)} to done`],
    [
      "downtime",
      `${formatDuration(outcome.downtimeMs)}; the writer's commits were ` +
        `${formatDuration(outcome.writerPauseMs)} apart`,
    ],
    [
      "rows",
      `${grouped(outcome.rowsBefore)} before, ${grouped(outcome.rowsDuring)} during, ` +
        `${grouped(outcome.rowsAfter)} after; ${grouped(outcome.rowsRewritten)} older ones rewritten`,
    ],
    [
      "audit",
      found.length === 0
        ? `all ${grouped(rowsTotal)} rows are there once, with the right checksum`
        : found.map(([count, what]) => `${plural(count, "row")} ${what}`).join(", "),
    ],
    ["SQLite", `integrity_check: ${outcome.integrity}`],
    [
      "root hash",
      outcome.identical
        ? `${outcome.rootHash.slice(0, 16)}… on both sides`
        : "differs between the two sides",
    ],
  ];
}
