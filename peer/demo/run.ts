/**
 * The demo itself: relay, seeder, writer, leecher, second writer, audit, each a process of its own.
 *
 * @module
 */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import type { Expectation, Verdict } from "./auditor.ts";
import { denoBinary, denoRelayFlags } from "./deno-relay.ts";
import { DemoError } from "./errors.ts";
import type { DemoOptions } from "./options.ts";
import { number, text, type Crew, type Message, type Program } from "./program.ts";
import type { Pipes, Scratch } from "./scratch.ts";
import type { Outcome, Show } from "./show.ts";
import { monotonicMs, Tally } from "./tally.ts";

const REGION_NAME = "demo.db";
/** How long the writer is alone, and how long it goes on at the destination. */
const WRITE_BEFORE_MS = 3_000;
const WRITE_AFTER_RESUME_MS = 2_000;
const WRITE_AFTER_DONE_MS = 1_000;
const START_DEADLINE_MS = 60_000;
const STOP_DEADLINE_MS = 20_000;
const PREPARE_DEADLINE_MS = 600_000;
const MIGRATION_DEADLINE_MS = 600_000;
/** Between the two sides' last words. */
const FAREWELL_DEADLINE_MS = 30_000;
const AUDIT_DEADLINE_MS = 600_000;
const REFRESH_INTERVAL_MS = 100;
/** A writer that goes on for whoever watches need not fill the file within minutes. */
const ROWS_PER_SECOND_STAYING = 20;

/** What is stopped first has the lowest. */
const Rank = { helper: 0, peer: 1, relay: 2 } as const;

const MEMFERRY = fileURLToPath(new URL("../main.ts", import.meta.url));
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const RELAY = fileURLToPath(new URL("../../relay/main.ts", import.meta.url));
/** node:sqlite calls itself experimental in every process; the user cannot do anything about it. */
const NODE_FLAGS = ["--disable-warning=ExperimentalWarning"];

export interface Stage {
  readonly options: DemoOptions;
  readonly crew: Crew;
  readonly scratch: Scratch;
  readonly show: Show;
  /** Whether the peers export the region by FUSE. */
  readonly exported: boolean;
}

interface Side {
  readonly file: string;
  /** What programs open. */
  readonly path: string;
  readonly exportArgs: readonly string[];
  readonly pipes: Pipes;
}

/** @throws DemoError, or the crew's reason to stop. */
export async function run(stage: Stage): Promise<Outcome> {
  const { options, crew, show } = stage;
  const source = await side(stage, "source");
  const destination = await side(stage, "destination");

  const starting = startRelay(stage);
  // Awaited below; a failure in the meantime ends what is awaited before it.
  starting.catch(() => undefined);
  const priorRows = await makePriorData(stage, source);
  show.begin("relay", `starting on ${options.relayRuntime}`);
  const relay = await starting;
  const ready = await relay.waitFor("ready", START_DEADLINE_MS, crew.signal);
  show.end(`${text(ready, "url")} on ${text(ready, "runtime")}, with its own database`);

  show.begin("seeder", "opening the region");
  const seeder = startPeer(stage, "the seeder", [
    "seed",
    ...flags({ file: source.file, region: REGION_NAME, link: options.link, path: "relay" }),
    ...source.exportArgs,
    "--once",
    ...flags({ "on-suspend": stopHook(source.pipes) }),
  ]);
  const offered = await seeder.waitFor("ticket", START_DEADLINE_MS, crew.signal);
  show.end(stage.exported ? `exports the region as ${source.path}` : `offers ${source.path}`);

  show.begin("writer", "starting");
  const there = new Tally();
  const here = new Tally();
  const writer = startWriter(stage, "the writer", source, here, []);
  await writer.waitFor("committed", START_DEADLINE_MS, crew.signal);
  const writtenSinceMs = monotonicMs();
  await until(stage, () => {
    show.update(`${here.rows} rows committed`);
    return monotonicMs() - writtenSinceMs >= WRITE_BEFORE_MS;
  });
  const rowsPerSecond = (here.rows * 1000) / (monotonicMs() - (here.firstAtMs ?? 0));
  show.end(`process ${writer.pid} commits ${Math.round(rowsPerSecond)} rows/s, each one synced`);

  const standby = startWriter(stage, "the writer at the destination", destination, there, [
    "--wait",
  ]);
  await standby.waitFor("ready", START_DEADLINE_MS, crew.signal);
  const rowsBefore = here.rows;
  const leecher = startPeer(
    stage,
    "the leecher",
    [
      "leech",
      "-",
      ...flags({ file: destination.file, link: options.link, path: "relay" }),
      ...destination.exportArgs,
      // Nothing holds a reader of a plain file back until its chunk is there: it must be complete before.
      ...(stage.exported ? [] : ["--mode", "precopy"]),
      ...flags({ "on-resume": `echo start > ${quoted(destination.pipes.control)}` }),
    ],
    `${text(offered, "ticket")}\n`,
  );
  const done = await watchMigration(stage, { seeder, leecher, writer, standby });
  const doneAtMs = monotonicMs();
  const resumedAtMs = there.firstAtMs ?? doneAtMs;
  const stopAtMs = Math.max(doneAtMs + WRITE_AFTER_DONE_MS, resumedAtMs + WRITE_AFTER_RESUME_MS);
  show.begin("writer", "goes on at the destination");
  await until(stage, () => {
    show.update(`${there.rows} rows committed at the destination`);
    return monotonicMs() >= stopAtMs;
  });
  await stopWriter(stage, standby, destination.pipes);
  show.end(`committed ${there.rows} more rows at the destination`);

  show.begin("audit", "reading every row at the destination");
  const tallies = [here, there];
  const verdict = await audit(stage, destination.path, {
    priorRows,
    committed: tallies.flatMap((tally) => tally.committed),
    rewritten: tallies.flatMap((tally) => tally.rewritten),
  });
  show.end(`${verdict.rows} rows read, integrity_check says ${verdict.integrity}`);

  const rowsUntilDone = here.rows + there.rowsUntil(doneAtMs);
  const outcome = {
    ...migrationFigures(done, verdict),
    export: stage.exported ? ("fuse" as const) : ("none" as const),
    relayRuntime: options.relayRuntime,
    databaseBytes: options.databaseBytes,
    regionBytes: options.regionBytes,
    writerPauseMs: round((there.firstAtMs ?? Number.NaN) - (here.lastAtMs ?? Number.NaN)),
    rowsPrior: priorRows,
    rowsBefore,
    rowsDuring: rowsUntilDone - rowsBefore,
    rowsAfter: here.rows + there.rows - rowsUntilDone,
    rowsRewritten: here.rewritten.length + there.rewritten.length,
    rowsPerSecond: Math.round(rowsPerSecond),
  };
  if (!options.stay) return outcome;
  startWriter(stage, "the writer at the destination", destination, new Tally(), [
    "--rows-per-second",
    String(ROWS_PER_SECOND_STAYING),
  ]);
  return { ...outcome, dashboard: text(ready, "dashboard"), database: destination.path };
}

async function side({ scratch, exported }: Stage, name: string): Promise<Side> {
  const file = path.join(await scratch.folder(`${name}-data`), REGION_NAME);
  const pipes = scratch.pipes(name);
  if (!exported) return { file, path: file, exportArgs: [], pipes };
  const mount = await scratch.folder(name);
  return {
    file,
    path: path.join(mount, REGION_NAME),
    exportArgs: ["--export", `fuse:${mount}`],
    pipes,
  };
}

async function makePriorData({ options, crew, show }: Stage, { file }: Side): Promise<number> {
  const { databaseBytes, regionBytes } = options;
  show.begin("database", "writing what was there before");
  const maker = crew.start({
    name: "the maker of the database",
    command: process.execPath,
    args: [
      ...NODE_FLAGS,
      script("prior-data.ts"),
      file,
      String(databaseBytes),
      String(regionBytes),
    ],
    onMessage: (message) => {
      const bytes = number(message, "bytes");
      if (bytes > 0) show.bar("writing what was there before", bytes / databaseBytes);
    },
    endsAfter: "made",
    rank: Rank.helper,
    stopSignal: "SIGTERM",
  });
  const made = await maker.waitFor("made", PREPARE_DEADLINE_MS, crew.signal);
  const rows = number(made, "rows");
  show.end(
    `${show.bytes(databaseBytes)} of SQLite, ${rows} rows, in a file of ${show.bytes(regionBytes)}`,
  );
  return rows;
}

async function startRelay({ options, crew, scratch }: Stage): Promise<Program> {
  const args = ["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--json"];
  args.push("--data", await scratch.folder("relay"));
  const [command, ...first] =
    options.relayRuntime === "deno" ? relayOnDeno(scratch) : [process.execPath, MEMFERRY, "relay"];
  return crew.start({
    name: "the relay",
    command: command ?? "",
    args: [...first, ...args],
    environment: environment(scratch),
    rank: Rank.relay,
    stopSignal: "SIGTERM",
  });
}

function startPeer(stage: Stage, name: string, args: readonly string[], input?: string): Program {
  return stage.crew.start({
    name,
    command: process.execPath,
    args: [MEMFERRY, ...args, "--json"],
    environment: environment(stage.scratch),
    ...(input === undefined ? {} : { input }),
    endsAfter: "done",
    rank: Rank.peer,
    stopSignal: "SIGINT",
  });
}

function startWriter(
  { crew, options }: Stage,
  name: string,
  { path: file, pipes }: Side,
  tally: Tally,
  more: readonly string[],
): Program {
  return crew.start({
    name,
    command: process.execPath,
    args: [
      ...NODE_FLAGS,
      script("writer.ts"),
      file,
      ...flags({
        ...pipes,
        "rows-per-second": String(options.rowsPerSecond),
        "bytes-max": String(options.regionBytes),
      }),
      ...more,
    ],
    onMessage: tally.note,
    endsAfter: "stopped",
    rank: Rank.helper,
    stopSignal: "SIGTERM",
  });
}

interface Cast {
  readonly seeder: Program;
  readonly leecher: Program;
  readonly writer: Program;
  readonly standby: Program;
}

/** Follows the migration to its end on both sides. */
async function watchMigration(
  { crew, show }: Stage,
  { seeder, leecher, writer, standby }: Cast,
): Promise<{ readonly here: Message; readonly there: Message }> {
  show.begin("leecher", "joining");
  const channel = await leecher.waitFor("channel", START_DEADLINE_MS, crew.signal);
  show.end(
    `connected over ${show.path(text(channel, "path"))}, fingerprint ${text(channel, "fingerprint")}`,
  );
  show.begin("pre-copy", "the writer keeps writing");
  const detach = leecher.listen((message) => {
    if (message["event"] !== "progress") return;
    const { phase, round: roundIndex } = message;
    const ready = number(message, "bytesReady") / number(message, "bytesTotal");
    const rate = `${show.bytes(number(message, "bytesPerS"))}/s`;
    show.bar(`${String(phase)} ${Number(roundIndex) + 1}, ${rate}`, ready);
  });
  try {
    const suspended = await seeder.waitFor("suspended", MIGRATION_DEADLINE_MS, crew.signal);
    const rounds = seeder.count("round");
    show.end(`${show.plural(rounds, "round")} while the writer kept writing`);
    show.begin("hand-over", "the writer is suspended");
    await leecher.waitFor("committed", MIGRATION_DEADLINE_MS, crew.signal);
    const committed = await standby.waitFor("committed", START_DEADLINE_MS, crew.signal);
    const pause = number(committed, "firstAtMs") - number(writer.last("committed"), "lastAtMs");
    const left = show.bytes(number(suspended, "dirtyBytes"));
    show.end(`${left} left over, the writer paused for ${show.duration(pause)}`);
    show.begin("post-copy", "the rest follows while the writer writes over there");
    const here = await seeder.waitFor("done", MIGRATION_DEADLINE_MS, crew.signal);
    const there = await leecher.waitFor("done", FAREWELL_DEADLINE_MS, crew.signal);
    show.end(`complete after ${show.duration(number(there, "totalMs"))}`);
    return { here, there };
  } finally {
    detach();
  }
}

function migrationFigures({ here, there }: { here: Message; there: Message }, verdict: Verdict) {
  const rootHash = text(there, "rootHash");
  return {
    identical: rootHash !== "" && rootHash === text(here, "rootHash"),
    integrity: verdict.integrity,
    rowsLost: verdict.rowsLost,
    rowsDuplicated: verdict.rowsDuplicated,
    rowsDamaged: verdict.rowsDamaged,
    rowsStale: verdict.rowsStale,
    rowsUnacknowledged: verdict.rowsUnacknowledged,
    downtimeMs: round(number(there, "downtimeMs")),
    totalMs: round(number(there, "totalMs")),
    path: text(there, "path"),
    rounds: number(there, "rounds"),
    bytesTotal: number(there, "bytesTotal"),
    bytesWire: number(there, "bytesWire"),
    rootHash,
  };
}

async function stopWriter({ crew }: Stage, writer: Program, pipes: Pipes): Promise<void> {
  const hook = crew.start({
    name: "the command that stops the writer",
    command: "/bin/sh",
    args: ["-c", `${stopHook(pipes)} && echo '{"event":"stopped"}'`],
    endsAfter: "stopped",
    rank: Rank.helper,
    stopSignal: "SIGTERM",
  });
  await hook.waitFor("stopped", STOP_DEADLINE_MS, crew.signal);
  await writer.ended;
}

async function audit({ crew }: Stage, file: string, expectation: Expectation): Promise<Verdict> {
  const auditor = crew.start({
    name: "the audit",
    command: process.execPath,
    args: [...NODE_FLAGS, script("verify.ts"), file],
    input: JSON.stringify(expectation),
    endsAfter: "verdict",
    rank: Rank.helper,
    stopSignal: "SIGTERM",
  });
  const message = await auditor.waitFor("verdict", AUDIT_DEADLINE_MS, crew.signal);
  // `verify.ts` prints a Verdict and the event's name.
  return message as unknown as Verdict;
}

/** For `/bin/sh`. The answer's pipe is open before the question is put, so no answer is missed. */
function stopHook({ control, answer }: Pipes): string {
  return `exec 3<>${quoted(answer)} 4<>${quoted(control)}; echo stop >&4; read -r said <&3; test "$said" = stopped`;
}

/** `{ file: "a" }` as `--file a`. */
function flags(values: Readonly<Record<string, string>>): string[] {
  return Object.entries(values).flatMap(([name, value]) => [`--${name}`, value]);
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A configuration of the demo's own, and nothing of the user's that would change what it shows. */
function environment(scratch: Scratch): Record<string, string | undefined> {
  return {
    XDG_CONFIG_HOME: scratch.file("config"),
    XDG_STATE_HOME: scratch.file("state"),
    DATABASE_URL: undefined,
    MEMFERRY_KEY: undefined,
    MEMFERRY_LISTEN: undefined,
    MEMFERRY_DASHBOARD: undefined,
    MEMFERRY_DATA: undefined,
    MEMFERRY_PUBLIC_URL: undefined,
    MEMFERRY_CERTIFICATE: undefined,
    MEMFERRY_PRIVATE_KEY: undefined,
  };
}

/** The file itself: a link or a wrapper would be another process, and not the one that we stop. */
function relayOnDeno(scratch: Scratch): string[] {
  try {
    const flags = denoRelayFlags({ root: ROOT, writable: [scratch.path] });
    return [denoBinary(), ...flags, RELAY];
  } catch (cause) {
    throw new DemoError("Deno is not installed: run npm ci, or leave --relay-runtime away", {
      cause,
    });
  }
}

function script(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

async function until({ crew }: Stage, condition: () => boolean): Promise<void> {
  while (!condition()) {
    crew.signal.throwIfAborted();
    await sleep(REFRESH_INTERVAL_MS);
  }
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
