/**
 * `npm run demo`: a live migration to look at, and one to check by `--json`.
 *
 * @module
 */
import { loadNative } from "../../native/index.ts";
import { peerEnvironment } from "../config.ts";
import { DemoError } from "./errors.ts";
import { HELP, parseOptions, type DemoOptions } from "./options.ts";
import { Crew } from "./program.ts";
import { run } from "./run.ts";
import { Scratch } from "./scratch.ts";
import { isFlawless, Show } from "./show.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
/** As a shell reports a program that a Ctrl-C ended. */
const EXIT_INTERRUPTED = 130;

/** The user wants to leave: everything is cleaned up as after an error. */
class Interrupted extends DemoError {}

async function demo(options: DemoOptions, leaving: AbortSignal): Promise<number> {
  const show = new Show({
    silent: options.json,
    colour: process.stdout.isTTY && peerEnvironment().colour,
    stream: process.stdout,
  });
  try {
    show.title();
    const exported = options.export && canExport(show);
    // Disposed last to first: the programs are gone before their folder goes.
    await using scratch = await Scratch.create(options.directory, options.regionBytes);
    await using crew = new Crew(leaving, options.trace);
    const outcome = await run({ options, crew, scratch, show, exported });
    if (options.json) process.stdout.write(`${JSON.stringify(outcome)}\n`);
    else show.summary(outcome);
    if (options.stay) {
      show.staying(outcome);
      await ended(crew.signal);
      // To leave is how this ends well; that a program failed is not.
      if (!leaving.aborted) throw crew.signal.reason;
    }
    return isFlawless(outcome) ? 0 : EXIT_FAILED;
  } finally {
    show.clear();
  }
}

/** Says why, if this machine will not have the region exported. */
function canExport(show: Show): boolean {
  const probe = loadNative().probeFuse();
  if (probe.available) return true;
  const why = probe.reason ?? "FUSE is not to be had";
  const remedy = probe.remedy === undefined ? "" : ` (${probe.remedy})`;
  show.clear();
  process.stderr.write(
    `memferry demo: ${why}${remedy}: migrating plain files, without an export\n`,
  );
  return false;
}

function ended(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function tell(json: boolean, error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  if (json) process.stdout.write(`${JSON.stringify({ error: message })}\n`);
  else process.stderr.write(`memferry demo: ${message}\n`);
}

async function main(argv: readonly string[]): Promise<number> {
  const json = argv.includes("--json");
  let options;
  try {
    options = parseOptions(argv);
  } catch (error) {
    tell(json, error);
    return EXIT_USAGE;
  }
  if (options === undefined) {
    process.stdout.write(HELP);
    return 0;
  }
  const leaving = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    // Told twice, once by the terminal and once by npm, or out of impatience: one cleaning up is enough.
    process.on(signal, () => leaving.abort(new Interrupted("stopped, and cleaned up")));
  }
  // A mistake of our own must not leave processes and mounts behind either.
  process.on("uncaughtException", (error) => leaving.abort(error));
  try {
    return await demo(options, leaving.signal);
  } catch (error) {
    tell(json, error);
    return error instanceof Interrupted ? EXIT_INTERRUPTED : EXIT_FAILED;
  }
}

process.exitCode = await main(process.argv.slice(2));
