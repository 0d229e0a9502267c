/**
 * `memferry leech`: takes a region over.
 *
 * @module
 */
import { loadNative } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { decodeTicket, TICKET_PREFIX } from "../../relay/protocol/ticket.ts";
import { peerEnvironment } from "../config.ts";
import { MigrationError } from "../errors.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import type { FinalizePolicy } from "../migration/leecher-options.ts";
import { warmUpHandshake } from "../migration/handshake.ts";
import { Leecher } from "../migration/leecher.ts";
import { DATA_STREAMS_DEFAULT } from "../migration/limits.ts";
import { MODES, type Mode } from "../migration/messages.ts";
import { dialLink } from "../net/dial.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { measured, openPaths } from "../net/paths/session-paths.ts";
import { RelayControl } from "../net/relay-control.ts";
import { relayOf } from "../net/relay-pins.ts";
import { Supervision } from "../supervisor/held.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { errorCode, withTicketCure } from "./failure.ts";
import { Interrupt } from "./interrupt.ts";
import { LeechedRegions } from "./leeched-region.ts";
import { LINK_CHOICES, LINK_OPTION } from "./link-option.ts";
import { PATH_OPTIONS, pathOptions, showPathEvent } from "./path-option.ts";
import { showEvent, showProgress } from "./migration-output.ts";
import type { Output } from "./output.ts";
import { EXPORT_OPTIONS, ExportOptions, requireReceivedPlace } from "./region-options.ts";
import { readSecret } from "./relay-access.ts";
import { joinPatiently, STATE_OPTIONS, stateDirectory, type Resumed } from "./resumption.ts";
import { throttledWarning } from "../session/throttled.ts";

const DOWNTIME_BUDGET_DEFAULT_MS = 300;
/** Between two looks at the path, for the read-ahead of exports. */
const FOLLOW_INTERVAL_MS = 1_000;

export const leechSpec: CommandSpec = {
  name: "leech",
  usage:
    "(TICKET | - | --ticket-file PATH) (--file PATH | --directory DIR | --export file:PATH) [options]",
  summary: "Takes a region over with a ticket that `memferry seed` printed.",
  positionalsMax: 1,
  options: {
    file: { value: "PATH", help: "the region is kept in this new file" },
    directory: { value: "DIR", help: "several regions: each is kept as DIR/NAME" },
    region: {
      value: "NAME=file:PATH",
      help: "one of several regions is kept there; may be repeated",
      repeatable: true,
    },
    "ticket-file": { value: "PATH", help: "read the ticket there; TICKET - reads standard input" },
    ...EXPORT_OPTIONS,
    mode: {
      value: "MODE",
      help: "hybrid: rounds, then hand over; precopy: all before; postcopy: all after (default hybrid; precopy without --export)",
    },
    finalize: {
      value: "WHEN",
      help: "auto, manual (`memferry sessions finalize`), or the percentage that is to be ready first",
    },
    "downtime-budget": { value: "TIME", help: "downtime that is acceptable (default 300ms)" },
    streams: { value: "COUNT", help: `data streams, 1 to 64 (default ${DATA_STREAMS_DEFAULT})` },
    link: LINK_OPTION,
    ...PATH_OPTIONS,
    "on-resume": { value: "CMD", help: "starts the workload here" },
    "max-bytes": { value: "SIZE", help: "refuse an offer of more than this" },
    overwrite: { help: "replace an existing file of the region's size" },
    sparse: {
      help: "do not reserve the file's blocks beforehand: a disk that fills up later is your risk",
    },
    ...STATE_OPTIONS,
  },
  examples: [
    ["memferry leech memferry1_AbC... --file disk.img", "receive into a new file"],
    [
      "memferry leech - --file data.db --export fuse:/mnt/ferry --on-resume 'systemctl start app' < ticket",
      "an application goes on here, with the ticket from standard input",
    ],
    [
      "memferry leech --ticket-file t --file disk.img --export nbd:unix:/run/disk.sock",
      "QEMU goes on here with the disk as nbd+unix:///disk.img?socket=/run/disk.sock",
    ],
    [
      "memferry leech --ticket-file t --export file:/dev/shm/heap --on-resume 'kill -CONT 815'",
      "into a file that is there already: only what differs travels",
    ],
    [
      "memferry leech --ticket-file t --file vm.ram --export fuse:/mnt/vm --mode postcopy",
      "hand over at once, pull afterwards",
    ],
  ],
  notes: [
    "The ticket names the relay, so nothing else is needed. It works once.",
    "Hooks run with /bin/sh and find MEMFERRY_REGION, MEMFERRY_BYTES, MEMFERRY_PATH and MEMFERRY_PATHS in their environment.",
    "With --export a supervisor starts the peer again if it is killed; else `memferry resume` goes on.",
    "Exit status: 0 done; 1 failed, the region is still at the source; 2 usage; 3 failed after the commit.",
  ],
};

/** @param resumed A session that an earlier process began. */
export async function leech(
  args: Arguments,
  output: Output,
  resumed?: Resumed,
): Promise<ExitCodeValue> {
  requireReceivedPlace(args);
  const ticket = resumed?.setup.ticket ?? decodeTicket(await ticketText(args));
  const identity = resumed?.setup.identity ?? PeerIdentity.generate();
  const link = args.oneOf("link", LINK_CHOICES, "auto");
  const path = pathOptions(args);
  const options = {
    mode: migrationMode(args),
    finalize: finalizePolicy(args.text("finalize")),
    downtimeBudgetMs: args.duration("downtime-budget", DOWNTIME_BUDGET_DEFAULT_MS),
    dataStreams: dataStreams(args.text("streams")),
  };
  if (ticket.role !== "leecher") {
    throw usage("this ticket is the seeder's: the one for `leech` is printed after `ticket:`");
  }
  using interrupt = new Interrupt();
  const supervision = new Supervision(peerEnvironment().holdings);
  const directory =
    resumed?.directory ??
    (await SessionDirectory.create(stateDirectory(args), {
      ticket,
      identity,
      argv: withoutTicket(args),
      cwd: process.cwd(),
      createdAtMs: Date.now(),
    }).catch((error: unknown) => {
      throw withTicketCure(error);
    }));
  const unlock = await directory.lock(supervision.lockPid);
  try {
    const journal = await directory.leecherJournal();
    const { phase } = journal.record ?? {};
    await using place = new LeechedRegions({ args, output, supervision, directory, phase });
    // Before the ticket is used up: a mount point that is not fit costs nothing then.
    await place.openExports();
    void warmUpHandshake();
    let leecher: Leecher | undefined;
    const control = await joinPatiently(output, interrupt, {
      patient: phase !== undefined,
      join: () =>
        RelayControl.join({
          ticket,
          identity,
          rejoin: phase !== undefined,
          dial: (signal, greeting) => dialLink(link, { ...relayOf(ticket), signal, greeting }),
          describe: () => place.describe(),
          onOwnership: (ownership) => leecher?.ownershipChanged(ownership),
          onCommand: (command) => {
            if (command === "finalize") leecher?.finalize();
            else if (command === "postcopy") leecher?.finalize({ postcopy: true });
          },
          onThrottled: (held) => output.event(throttledWarning(held)),
          onConnection: (connected, detail) => {
            if (!connected) output.note(`the relay is out of reach (${detail}), trying again`);
          },
        }),
    }).catch((error: unknown) => {
      throw withTicketCure(error);
    });
    supervision.session(directory.path);
    output.event({ event: "joined", session: directory.id, pid: process.pid });
    const paths = openPaths(control, ticket, {
      ...path,
      measure: () => measured(leecher?.progress()),
      onEvent: (event) => showPathEvent(output, event),
    });
    leecher = new Leecher({
      session: paths,
      sessionId: ticket.sessionId,
      secret: ticket.secret,
      keyedHash: (hashKey) => (data) => loadNative().blake3(data, hashKey),
      journal,
      workloadStayed: supervision.tookOver,
      prepare: async (offer) => {
        const destination = await place.prepare(offer);
        control.sendDescription();
        return destination;
      },
      onEvent: (event) => showEvent(output, event),
      ...options,
      onResume: async (signal) => {
        // A file keeps the read-ahead that was in force when it was opened.
        place.follow(running.progress());
        await place.onResume(signal);
      },
    });
    const running = leecher;
    interrupt.handle((count) => interrupted(running, output, count));
    const stopProgress = showProgress(output, () => running.progress());
    const following = setInterval(() => place.follow(running.progress()), FOLLOW_INTERVAL_MS);
    try {
      await running.run();
      stopProgress();
      clearInterval(following);
      place.follow(undefined);
      place.keep();
      if (place.exported && interrupt.count === 0) {
        output.note(`${place.paths.join(", ")} stays until Ctrl-C`);
        output.event({ event: "serving", path: place.paths[0], paths: place.paths });
        await new Promise<void>((resolve) => interrupt.handle(() => resolve()));
      }
      return running.hookFailed ? ExitCode.recoverable : ExitCode.done;
    } catch (error) {
      stopProgress();
      if (running.committed) {
        place.keep();
        await place.stop();
        tellHowToGoOn(output, error, running, directory);
        return ExitCode.recoverable;
      }
      output.error(errorCode(error), `${messageOf(error)}; the region is still at the source`, {
        owner: "seeder",
      });
      await directory.remove();
      return ExitCode.failed;
    } finally {
      stopProgress();
      clearInterval(following);
      output.close();
      await paths.close();
      await control.close();
    }
  } catch (error) {
    if (resumed === undefined) await directory.remove();
    throw error;
  } finally {
    await unlock();
    supervision.release();
  }
}

function tellHowToGoOn(
  output: Output,
  error: unknown,
  leecher: Leecher,
  directory: SessionDirectory,
): void {
  const command = `memferry resume ${directory.id}`;
  const { missingChunks } = leecher;
  output.error(
    errorCode(error),
    `${messageOf(error)}; this side owns the region and ${missingChunks} chunks are still at the source: leave the seeder running and type: ${command}`,
    { owner: "leecher", missingChunks, command },
  );
}

/** The command line for a later process: the ticket is kept elsewhere, and is used up. */
function withoutTicket(args: Arguments): string[] {
  const [ticket] = args.positionals;
  return args.argv.filter((word) => word !== ticket);
}

function interrupted(leecher: Leecher, output: Output, count: number): void {
  if (!leecher.committed) {
    if (count > 1) process.exit(ExitCode.failed);
    output.note("cancelling");
    leecher.cancel("cancelled at the destination").catch((error: unknown) => {
      leecher.abandon(error);
    });
    return;
  }
  if (count === 1 && leecher.missingChunks > 0) {
    output.note(
      `${leecher.missingChunks} chunks are still at the source; once more to leave all the same`,
    );
    return;
  }
  leecher.abandon(new MigrationError("CANCELLED", "interrupted after the commit"));
}

/**
 * Without an export nobody can be held back from a chunk that is missing, so everything is there before the
 * workload is started.
 */
function migrationMode(args: Arguments): Mode {
  const exports = new ExportOptions(args);
  const exported = exports.served.length > 0;
  const early = exported && !exports.hasFiles;
  const mode = args.oneOf("mode", MODES, early ? "hybrid" : "precopy");
  if (mode !== "precopy" && exports.hasFiles) {
    throw usage(
      `--mode ${mode} hands over before all is there, and nothing can hold back who reads a missing chunk of --export file:PATH: use --mode precopy, or another export (fuse:DIR, for one)`,
    );
  }
  if (mode !== "precopy" && !exported && args.text("on-resume") !== undefined) {
    throw usage(
      `--mode ${mode} starts the workload before all is there: add --export (fuse:DIR, for one) so that it can wait for what is missing, or use --mode precopy`,
    );
  }
  return mode;
}

async function ticketText(args: Arguments): Promise<string> {
  const [given] = args.positionals;
  const file = args.text("ticket-file");
  if (given === undefined && file === undefined) {
    throw usage(
      `no ticket: give the text that begins with ${TICKET_PREFIX}, or --ticket-file PATH, or - for standard input`,
    );
  }
  if (given !== undefined && file !== undefined) throw usage("give one ticket, not two");
  if (file !== undefined) return await readSecret(file, "--ticket-file");
  return given === "-" ? await readSecret("-", "TICKET") : (given ?? "");
}

function finalizePolicy(text: string | undefined): FinalizePolicy {
  if (text === undefined || text === "auto") return { kind: "auto" };
  if (text === "manual") return { kind: "manual" };
  const percent = Number(/^(\d+(?:\.\d+)?)\s*%?$/.exec(text)?.[1] ?? Number.NaN);
  if (!(percent >= 0 && percent <= 100)) {
    throw usage(`--finalize ${text} is neither auto, manual nor a percentage`);
  }
  return { kind: "ready", ratio: percent / 100 };
}

function dataStreams(text: string | undefined): number {
  if (text === undefined) return DATA_STREAMS_DEFAULT;
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 64) {
    throw usage(`--streams ${text} is not a count from 1 to 64`);
  }
  return count;
}
