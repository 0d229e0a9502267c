/**
 * A QEMU guest goes from one memferry to another while it runs: what `docs/examples/qemu.md` tells, step by step.
 *
 * @module
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";

import { eventually, number, text, type Stage } from "../../e2e/harness.ts";
import { packInitramfs } from "../../support/guest/kernel.ts";
import { Machine, type Tick } from "./machine.ts";
import { ExampleError, type ExampleOptions } from "./options.ts";

/** QEMU writes some 100 KiB for so small a machine. */
const STATE_SIZE = "4MiB";
const PAGE_BYTES = 4096;
/** Emulated and on a busy machine. */
const BOOT_MS = 120_000;
const MIGRATION_MS = 180_000;
const TICKS_BEFORE = 10;
const TICKS_AFTER = 10;
const HOOK = fileURLToPath(new URL("../../../docs/examples/qemu/hook.mjs", import.meta.url));

export interface Outcome {
  readonly memoryBytes: number;
  readonly mode: string;
  readonly path: string;
  /** Suspend hook to the first read after the resume, by memferry. */
  readonly downtimeMs: number;
  /** Between the last line of the guest at the source and its first at the destination. */
  readonly consoleGapMs: number;
  /** The same by the guest's own clock, which stands still while it is moved. */
  readonly guestGapMs: number;
  readonly totalMs: number;
  readonly rounds: number;
  readonly bytesWire: number;
  /** Written since it was sent, when the guest stopped. */
  readonly lastPages: number;
  /** What the guest touched before it had come. */
  readonly faults: number;
  readonly ticks: number;
  readonly countGoesOn: boolean;
  readonly blob: { readonly source: string; readonly destination: string };
  readonly regionsEqual: boolean;
}

export interface Requirements {
  readonly emulator: string;
  readonly kernel: string;
}

export async function migrateGuest(
  stage: Stage,
  options: ExampleOptions,
  { emulator, kernel }: Requirements,
  say: (line: string) => void,
): Promise<Outcome> {
  const { memoryBytes, mode, link } = options;
  const initramfs = stage.file("initramfs.cpio");
  packInitramfs({ init: path.join(import.meta.dirname, "init"), out: initramfs });
  const [here, there] = [await stage.folder("source"), await stage.folder("destination")];
  const place = { emulator, kernel, initramfs, bytes: memoryBytes };

  await stage.relay();
  const hook = (action: string, machine: string): string =>
    `${quoted(process.execPath)} ${quoted(HOOK)} ${action} --qmp ${quoted(stage.file(`${machine}.qmp`))}`;
  const { seeder, ticket, sessionId } = await stage.seed([
    "--region",
    `ram=size:${memoryBytes}`,
    "--region",
    `state=size:${STATE_SIZE}`,
    "--export",
    `fuse:${here}`,
    "--link",
    link,
    "--on-suspend",
    hook("suspend", "source"),
    "--on-rollback",
    hook("rollback", "source"),
    "--on-release",
    hook("release", "source"),
  ]);
  say(`a relay and a seeder run; the region ${here}/ram is empty`);

  const memory = path.join(here, "ram");
  const source = new Machine(stage, "source", {
    ...place,
    name: "the source's QEMU",
    memory,
    incoming: false,
  });
  await source.tickAfter(TICKS_BEFORE, BOOT_MS);
  const before = await source.blob();
  say(`the guest runs, ${memory} is its memory; 16 MiB of it have the checksum ${before}`);

  const startedMs = performance.now();
  const leecher = stage.leech(ticket, [
    "--directory",
    await stage.folder("received"),
    "--export",
    `fuse:${there}`,
    "--mode",
    mode,
    "--link",
    link,
    "--on-resume",
    hook("resume", "destination"),
  ]);
  // Ahead of time, for this is most of what it would stand still for: QEMU looks at no byte of its memory
  // before it is given the guest's state, and if it did, it would wait for the commit.
  await leecher.waitFor("channel");
  await eventually(() => existsSync(path.join(there, "ram")));
  const destination = new Machine(stage, "destination", {
    ...place,
    name: "the destination's QEMU",
    memory: path.join(there, "ram"),
    incoming: true,
  });
  say("a leecher has the ticket; a second QEMU maps the region that it receives, and waits");

  let lastHereMs = performance.now();
  let firstThereMs = 0;
  const watching = watch(source, () => (lastHereMs = performance.now()));
  const arrived = destination.tickAfter(0, MIGRATION_MS).then(() => {
    firstThereMs = performance.now();
    say(`the guest runs here after ${Math.round(firstThereMs - lastHereMs)} ms, and counts on`);
  });
  // Awaited below; what fails first is told.
  for (const later of [watching, arrived]) later.catch(() => undefined);
  const suspended = await leecher.waitFor("suspended", undefined, MIGRATION_MS);
  say(
    `stopped; ${number(suspended, "dirtyBytes") / PAGE_BYTES} pages were written since they were sent`,
  );
  const resumed = await leecher.waitFor("resumed", undefined, MIGRATION_MS);
  await arrived;
  await watching;
  const first = destination.count;
  await destination.tickAfter(first + TICKS_AFTER, MIGRATION_MS);
  const after = await destination.blob(MIGRATION_MS);
  const done = await leecher.waitFor("done", undefined, MIGRATION_MS);
  await seeder.expectExit(0, MIGRATION_MS);
  const totalMs = performance.now() - startedMs;

  // One console: what the guest began to print there it has ended here.
  const printed = ticksIn(source.console + destination.console);
  const gap = gapOf(ticksIn(source.console), ticksIn(destination.console));
  const session = await stage.run(["sessions", "show", sessionId, "--json"]);
  if (session.code !== 0) throw new ExampleError(`the relay: ${session.stderr}`);
  return {
    memoryBytes,
    mode,
    path: text(done, "path"),
    downtimeMs: number(resumed, "downtimeMs"),
    consoleGapMs: firstThereMs - lastHereMs,
    guestGapMs: gap,
    totalMs,
    rounds: number(done, "rounds"),
    bytesWire: number(done, "bytesWire"),
    lastPages: number(suspended, "dirtyBytes") / PAGE_BYTES,
    faults: Number(/"faults":(\d+)/.exec(session.stdout)?.[1] ?? Number.NaN),
    ticks: printed.length,
    countGoesOn: printed.every(({ n }, i) => n === i + 1),
    blob: { source: before, destination: after },
    regionsEqual: text(done, "rootHash") === text(seeder.last("done"), "rootHash"),
  };
}

/** Calls for each line until the machine is gone. */
async function watch(machine: Machine, onTick: () => void): Promise<void> {
  let ended = false;
  void machine.program.exited.then(() => (ended = true));
  for (let last = machine.count; ; last = machine.count) {
    try {
      await machine.tickAfter(last, MIGRATION_MS);
    } catch (error) {
      if (ended) return; // its guest lives elsewhere
      throw error;
    }
    onTick();
  }
}

function ticksIn(console: string): Tick[] {
  const pattern = /^\{"event":"tick","n":(\d+),"uptimeS":([\d.]+)\}\r?$/gm;
  return [...console.matchAll(pattern)].map(([, n, uptimeS]) => ({
    n: Number(n),
    uptimeS: Number(uptimeS),
  }));
}

function gapOf(here: readonly Tick[], there: readonly Tick[]): number {
  const [last, first] = [here.at(-1), there.at(0)];
  if (last === undefined || first === undefined) return Number.NaN;
  return Math.round((first.uptimeS - last.uptimeS) * 1000);
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
