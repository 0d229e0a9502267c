/**
 * `npm run example:qemu`: a guest moves while it runs, to look at, and by `--json` to check.
 *
 * @module
 */
import { existsSync } from "node:fs";

import { formatBytes } from "../../../peer/cli/size.ts";
import { Stage } from "../../e2e/harness.ts";
import { debianKernel } from "../../support/guest/kernel.ts";
import { requireFuse, requireTool } from "../../support/requires.ts";
import { migrateGuest, type Outcome, type Requirements } from "./migration.ts";
import { ExampleError, HELP, parseOptions, type ExampleOptions } from "./options.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
/** As a shell reports a program that a Ctrl-C ended. */
const EXIT_INTERRUPTED = 130;

/** @throws ExampleError with everything that is missing, and the lines to type */
function requirements({ kernel }: ExampleOptions): Requirements {
  const emulator = requireTool("qemu-system-x86_64");
  const own = kernel === undefined ? (["depmod"] as const) : [];
  const needs = [
    requireFuse(),
    emulator,
    ...(["busybox", "cpio", ...own] as const).map((tool) => requireTool(tool)),
  ];
  const missing = needs.filter(({ available }) => !available).map(({ skipReason }) => skipReason);
  if (missing.length > 0) throw new ExampleError(missing.join("\n  "));
  if (kernel !== undefined) {
    if (existsSync(kernel)) return { emulator: emulator.path, kernel };
    throw new ExampleError(`--kernel ${kernel}: there is no such file`);
  }
  try {
    return { emulator: emulator.path, kernel: debianKernel().image };
  } catch (cause) {
    const why = cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause);
    throw new ExampleError(
      `no kernel for the guest (${why}): on Debian type apt-get update and try again, ` +
        "elsewhere give a bzImage by --kernel FILE",
      { cause },
    );
  }
}

function isFlawless({ countGoesOn, blob, regionsEqual }: Outcome): boolean {
  return countGoesOn && regionsEqual && blob.source === blob.destination;
}

function summary(outcome: Outcome): string {
  const { blob } = outcome;
  const ms = (value: number): string => `${Math.round(value)} ms`;
  return `
  counter     ${outcome.countGoesOn ? `goes on: 1 to ${outcome.ticks}, none missing` : "MISSES NUMBERS"}
  checksum    ${blob.source === blob.destination ? `unchanged: ${blob.destination}` : `CHANGED: ${blob.source}, ${blob.destination}`}
  regions     ${outcome.regionsEqual ? "equal when all had come" : "DIFFERENT"}
  downtime    ${ms(outcome.downtimeMs)} by memferry, ${ms(outcome.consoleGapMs)} from line to line, ${ms(outcome.guestGapMs)} by the guest's own clock
  memory      ${formatBytes(outcome.memoryBytes)} in ${ms(outcome.totalMs)}, ${formatBytes(outcome.bytesWire)} over ${outcome.path}, ${outcome.rounds} rounds
  at the end  ${outcome.lastPages} pages written since they were sent, ${outcome.faults} chunks that the guest had to wait for
`;
}

async function example(options: ExampleOptions, leaving: AbortSignal): Promise<number> {
  const needs = requirements(options);
  const startedMs = performance.now();
  const say = (line: string): void => {
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(1).padStart(6);
    if (!options.json) process.stdout.write(`${seconds} s  ${line}\n`);
  };
  let outcome;
  {
    await using stage = await Stage.open();
    const left = new Promise<never>((_, reject) => {
      leaving.addEventListener("abort", () => reject(new ExampleError("stopped")));
    });
    outcome = await Promise.race([migrateGuest(stage, options, needs, say), left]);
  }
  process.stdout.write(options.json ? `${JSON.stringify(outcome)}\n` : summary(outcome));
  return isFlawless(outcome) ? 0 : EXIT_FAILED;
}

function tell(json: boolean, error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  if (json) process.stdout.write(`${JSON.stringify({ error: message })}\n`);
  else process.stderr.write(`example:qemu: ${message}\n`);
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
    process.on(signal, () => leaving.abort());
  }
  try {
    return await example(options, leaving.signal);
  } catch (error) {
    // A terminal's Ctrl-C reaches all of its programs, and one of them may have been heard first.
    tell(json, leaving.signal.aborted ? new ExampleError("stopped, and cleaned up") : error);
    return leaving.signal.aborted ? EXIT_INTERRUPTED : EXIT_FAILED;
  }
}

process.exitCode = await main(process.argv.slice(2));
