/**
 * `memferry seed`: offers a region and migrates it to whoever brings the ticket.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { loadNative } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { decodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { peerEnvironment } from "../config.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import type { SeederHooks } from "../migration/seeder-options.ts";
import { Seeder } from "../migration/seeder.ts";
import { dialLink, type LinkChoice } from "../net/dial.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { measured, openPaths, type PathOptions } from "../net/paths/session-paths.ts";
import { RelayControl } from "../net/relay-control.ts";
import { relayOf } from "../net/relay-pins.ts";
import { createOffer } from "../session/offer.ts";
import { Supervision } from "../supervisor/held.ts";
import { VERSION } from "../version.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { errorCode, withTicketCure } from "./failure.ts";
import { runHook } from "./hook.ts";
import { showLook, warnOfScans } from "./file-export.ts";
import { Interrupt } from "./interrupt.ts";
import { LINK_CHOICES, LINK_OPTION } from "./link-option.ts";
import { PATH_OPTIONS, pathOptions, showPathEvent } from "./path-option.ts";
import { LocalRegions } from "./local-regions.ts";
import { showEvent, showProgress } from "./migration-output.ts";
import type { Output } from "./output.ts";
import { EXPORT_OPTIONS, REGION_OPTION, seededRegions } from "./region-options.ts";
import { readSecret, RELAY_OPTIONS, relayAccess } from "./relay-access.ts";
import { joinPatiently, STATE_OPTIONS, stateDirectory, type Resumed } from "./resumption.ts";
import { formatBytes } from "./size.ts";
import { throttledWarning } from "../session/throttled.ts";

const HASH_KEY_BYTES = 32;
const TICKET_TTL_DEFAULT_MS = 3_600_000;
/** Wait before a new session is made for a region that goes on being served. */
const RETRY_DELAY_MS = 1_000;

export const seedSpec: CommandSpec = {
  name: "seed",
  usage: "(--file PATH | --size SIZE | --region NAME=PLACE... | --export file:PATH) [options]",
  summary:
    "Offers a region and prints the one-use ticket with which `memferry leech` takes it over.",
  positionalsMax: 0,
  options: {
    file: { value: "PATH", help: "the region is this file" },
    size: { value: "SIZE", help: "the region is new memory of this size, all zeros" },
    region: REGION_OPTION,
    ...EXPORT_OPTIONS,
    chunk: {
      value: "SIZE",
      help: "transfer unit, a power of two from 4KiB to 4MiB (default 64KiB)",
    },
    link: LINK_OPTION,
    ...PATH_OPTIONS,
    ...RELAY_OPTIONS,
    "ticket-ttl": { value: "TIME", help: "how long the ticket may be used (default 1h)" },
    "ticket-file": {
      value: "PATH",
      help: "write the ticket there (mode 0600) and do not print it",
    },
    join: {
      value: "PATH",
      help: "take part in a session that is there already, with the seeder's ticket in this file; - reads standard input",
    },
    "on-suspend": {
      value: "CMD",
      help: "stops the workload; it must not write after CMD has ended",
    },
    "on-rollback": {
      value: "CMD",
      help: "starts it here again if the migration ended after the suspend",
    },
    "on-release": { value: "CMD", help: "runs when the destination has everything" },
    once: { help: "end with status 1 when a migration fails, although the export is in use" },
    ...STATE_OPTIONS,
  },
  examples: [
    ["memferry seed --file disk.img", "migrate a file that may be written meanwhile"],
    [
      "memferry seed --file data.db --export fuse:/mnt/ferry --on-suspend 'systemctl stop app'",
      "a database that an application uses as /mnt/ferry/data.db",
    ],
    [
      "memferry seed --file disk.img --join - < seeder-ticket",
      "a session that the console or the REST API made",
    ],
    ["memferry seed --size 256MiB --region heap --export fuse:/mnt/ferry", "new memory"],
    [
      "memferry seed --file disk.img --export nbd:unix:/run/disk.sock",
      "a disk for QEMU: -drive file=nbd+unix:///disk.img?socket=/run/disk.sock",
    ],
    [
      "memferry seed --export file:/dev/shm/heap --on-suspend 'kill -STOP 4711'",
      "a file that a program maps already",
    ],
    [
      "memferry seed --region ram=size:1GiB --region disk=file:disk.img --export fuse:/mnt/vm",
      "several regions that are handed over together",
    ],
  ],
  notes: [
    "Hooks run with /bin/sh and find MEMFERRY_REGION, MEMFERRY_BYTES, MEMFERRY_PATH and MEMFERRY_PATHS in their environment.",
    "With --export a supervisor starts the peer again if it is killed; else `memferry resume` goes on.",
    "If a migration fails before its commit, an exported region goes on being served and a new ticket is printed.",
    "Exit status: 0 done; 1 failed, the region is still here; 2 usage; 3 failed after the commit.",
  ],
};

/** @param resumed A session that an earlier process began. */
export async function seed(
  args: Arguments,
  output: Output,
  resumed?: Resumed,
): Promise<ExitCodeValue> {
  const options: AttemptOptions = {
    args,
    output,
    link: args.oneOf("link", LINK_CHOICES, "auto"),
    path: pathOptions(args),
    ticketTtlMs: args.duration("ticket-ttl", TICKET_TTL_DEFAULT_MS),
    name: seededRegions(args)
      .map(({ name }) => name)
      .join("+"),
    supervision: new Supervision(peerEnvironment().holdings),
    hashKey: resumed?.setup.hashKey ?? randomBytes(HASH_KEY_BYTES),
  };
  using interrupt = new Interrupt();
  // Made before anything is opened: a relay that does not answer is the first thing to be told.
  let attempt =
    resumed === undefined
      ? await SeedAttempt.create(options)
      : await SeedAttempt.resume(options, resumed);
  let local: LocalRegions | undefined;
  try {
    local = await attempt.open();
    for (;;) {
      const result = await attempt.run(local, interrupt);
      const once = args.flag("once") || args.text("join") !== undefined;
      const goesOn = local.exported && !once && interrupt.count === 0;
      if (result !== ExitCode.failed || !goesOn) return result;
      output.note("the region goes on being served here; a new ticket follows");
      attempt = await renew(attempt, output, interrupt);
      if (interrupt.count > 0) return ExitCode.failed;
    }
  } catch (error) {
    if (resumed === undefined && local === undefined) await attempt.forget();
    throw error;
  } finally {
    await local?.close();
    await attempt.leave();
    output.close();
    options.supervision.release();
  }
}

/** Keeps trying while the relay does not answer: the workload runs here and is in no hurry. */
async function renew(
  attempt: SeedAttempt,
  output: Output,
  interrupt: Interrupt,
): Promise<SeedAttempt> {
  for (let told = false; ; told = true) {
    await new Promise((resolve) => {
      setTimeout(resolve, RETRY_DELAY_MS);
      interrupt.handle(resolve);
    });
    if (interrupt.count > 0) return attempt;
    try {
      return await attempt.again();
    } catch (error) {
      if (!told) output.error(errorCode(error), messageOf(error));
    }
  }
}

interface AttemptOptions {
  readonly args: Arguments;
  readonly output: Output;
  readonly link: LinkChoice;
  readonly path: PathOptions;
  readonly ticketTtlMs: number;
  readonly name: string;
  readonly supervision: Supervision;
  readonly hashKey: Uint8Array;
}

/** A new one, or with `--join` the one that its ticket is for. @throws MigrationError `USAGE`, LinkError, ApiError */
async function sessionFor({
  args,
  name,
  ticketTtlMs,
}: AttemptOptions): Promise<{ readonly ticket: Ticket; readonly leecherTicket?: string }> {
  const place = args.text("join");
  if (place === undefined) {
    return await createOffer({ access: await relayAccess(args), name, ticketTtlMs });
  }
  const text = await readSecret(place, "--join");
  let ticket: Ticket;
  try {
    ticket = decodeTicket(text);
  } catch (error) {
    throw withTicketCure(error);
  }
  if (ticket.role === "seeder") return { ticket };
  throw usage(
    "--join: this ticket is the leecher's: the destination needs it, for `memferry leech`",
  );
}

/** One session at the relay. */
class SeedAttempt {
  readonly #options: AttemptOptions;
  readonly #directory: SessionDirectory;
  readonly #ticket: Ticket;
  readonly #identity: PeerIdentity;
  /** `undefined` in a later process: it was told by the first. */
  readonly #leecherTicket: string | undefined;
  #unlock: () => Promise<void> = () => Promise.resolve();

  private constructor(
    options: AttemptOptions,
    directory: SessionDirectory,
    own: { readonly ticket: Ticket; readonly identity: PeerIdentity },
    leecherTicket: string | undefined,
  ) {
    this.#options = options;
    this.#directory = directory;
    this.#ticket = own.ticket;
    this.#identity = own.identity;
    this.#leecherTicket = leecherTicket;
  }

  static async create(options: AttemptOptions): Promise<SeedAttempt> {
    const { args, supervision, hashKey } = options;
    const { ticket, leecherTicket } = await sessionFor(options);
    const identity = PeerIdentity.generate();
    const directory = await SessionDirectory.create(stateDirectory(args), {
      ticket,
      identity,
      hashKey,
      argv: args.argv,
      cwd: process.cwd(),
      createdAtMs: Date.now(),
    });
    const attempt = new SeedAttempt(options, directory, { ticket, identity }, leecherTicket);
    attempt.#unlock = await directory.lock(supervision.lockPid);
    return attempt;
  }

  static async resume(
    options: AttemptOptions,
    { directory, setup }: Resumed,
  ): Promise<SeedAttempt> {
    const attempt = new SeedAttempt(options, directory, setup, undefined);
    attempt.#unlock = await directory.lock(options.supervision.lockPid);
    return attempt;
  }

  again(): Promise<SeedAttempt> {
    return SeedAttempt.create(this.#options);
  }

  /** Opens the regions where the journal says that they stand. */
  async open(): Promise<LocalRegions> {
    const { args, hashKey, supervision, output } = this.#options;
    const { record } = await this.#directory.seederJournal();
    const local = await LocalRegions.open({
      args,
      hashKey,
      supervision,
      session: this.#directory.path,
      phase: record?.phase,
      onLook: (path, look) => showLook(output, path, look),
    });
    const problem = await supervision.hold(
      this.#directory.path,
      local.members,
      local.exports.mounts,
    );
    if (problem !== "") output.note(`warning: the supervisor holds nothing: ${problem}`);
    if (!local.exports.serve()) {
      output.note(
        "warning: before Linux 6.9 what was being read when the peer was killed waits on",
      );
    }
    await local.attach();
    const suspended = args.text("on-suspend") !== undefined;
    for (const file of local.scannedFiles) await warnOfScans(output, { ...file, suspended });
    return local;
  }

  async leave(): Promise<void> {
    await this.#unlock();
  }

  async forget(): Promise<void> {
    await this.#unlock();
    await this.#directory.remove();
  }

  async run(local: LocalRegions, interrupt: Interrupt): Promise<ExitCodeValue> {
    const { args, output, link, supervision } = this.#options;
    supervision.session(this.#directory.path);
    const journal = await this.#directory.seederJournal();
    const { store } = local;
    let seeder: Seeder | undefined;
    const control = await joinPatiently(output, interrupt, {
      patient: journal.record !== undefined,
      join: () =>
        RelayControl.join({
          ticket: this.#ticket,
          identity: this.#identity,
          rejoin: journal.record !== undefined,
          dial: (signal, greeting) =>
            dialLink(link, { ...relayOf(this.#ticket), signal, greeting }),
          describe: () => ({
            regionName: local.name,
            regionBytes: store.bytes,
            chunkBytes: store.chunkBytes,
            host: hostname(),
            version: VERSION,
          }),
          onOwnership: (ownership) => seeder?.ownershipChanged(ownership),
          onThrottled: (held) => output.event(throttledWarning(held)),
          onConnection: (connected, detail) => {
            if (!connected) output.note(`the relay is out of reach (${detail}), trying again`);
          },
        }),
    });
    const paths = openPaths(control, this.#ticket, {
      ...this.#options.path,
      measure: () => measured(seeder?.progress()),
      onEvent: (event) => showPathEvent(output, event),
    });
    seeder = new Seeder({
      session: paths,
      sessionId: this.#ticket.sessionId,
      secret: this.#ticket.secret,
      hashKey: local.hashKey,
      region: store,
      dirty: local.dirty,
      keyedHash: (data) => loadNative().blake3(data, local.hashKey),
      journal,
      hooks: seederHooks(args, local),
      onEvent: (event) => showEvent(output, event),
    });
    await this.#tell(args, output, local);
    const running = seeder;
    interrupt.handle((count) => this.#interrupted(running, output, count));
    const stopProgress = showProgress(output, () => running.progress());
    try {
      await running.run();
      return ExitCode.done;
    } catch (error) {
      stopProgress();
      if (running.committed) {
        const command = `memferry resume ${this.#directory.id}`;
        output.error(
          errorCode(error),
          `${messageOf(error)}; the destination owns the region: keep ${local.paths.join(", ")} until it is complete there, and type: ${command}`,
          { owner: "leecher", command },
        );
        return ExitCode.recoverable;
      }
      output.error(errorCode(error), `${messageOf(error)}; the region is still here`, {
        owner: "seeder",
      });
      await this.forget();
      return ExitCode.failed;
    } finally {
      stopProgress();
      await paths.close();
      await control.close();
      await this.#unlock();
    }
  }

  async #tell(args: Arguments, output: Output, local: LocalRegions): Promise<void> {
    const file = args.text("ticket-file");
    const where = `${local.paths.join(", ")}${local.exported ? " (exported)" : ""}`;
    output.note(`offering ${local.name}: ${formatBytes(local.store.bytes)} at ${where}`);
    if (this.#leecherTicket === undefined && args.text("join") !== undefined) {
      const { id: session } = this.#directory;
      output.event({ event: "joins", session, pid: process.pid, paths: local.paths });
      output.note(`taking part in session ${session}`);
      return;
    }
    if (this.#leecherTicket === undefined) {
      output.event({ event: "goesOn", session: this.#directory.id, role: "seeder" });
      output.note(`going on with session ${this.#directory.id}`);
      return;
    }
    if (file !== undefined) {
      await writeSecretFile(file, `${this.#leecherTicket}\n`);
      output.event({
        event: "ticket",
        ticketFile: file,
        session: this.#directory.id,
        pid: process.pid,
        paths: local.paths,
      });
      output.result(`ticket written to ${file}`);
      return;
    }
    output.event({
      event: "ticket",
      ticket: this.#leecherTicket,
      session: this.#directory.id,
      pid: process.pid,
      paths: local.paths,
    });
    output.result(`ticket: ${this.#leecherTicket}`);
  }

  #interrupted(seeder: Seeder, output: Output, count: number): void {
    if (count > 1) process.exit(seeder.committed ? ExitCode.recoverable : ExitCode.failed);
    if (seeder.committed) {
      output.note("the destination still needs chunks from here; once more to leave all the same");
      return;
    }
    output.note("cancelling");
    seeder.cancel("cancelled at the source").catch((error: unknown) => {
      output.error(errorCode(error), messageOf(error));
    });
  }
}

function seederHooks(args: Arguments, local: LocalRegions): SeederHooks {
  const environment = {
    MEMFERRY_REGION: local.name,
    MEMFERRY_BYTES: String(local.store.bytes),
    MEMFERRY_PATH: local.paths[0] ?? "",
    MEMFERRY_PATHS: local.paths.join("\n"),
  };
  const hook = (option: string): ((signal: AbortSignal) => Promise<void>) | undefined => {
    const command = args.text(option);
    if (command === undefined) return undefined;
    return (signal) => runHook(`--${option}`, command, environment, signal);
  };
  const onSuspend = hook("on-suspend");
  const onRollback = hook("on-rollback");
  const onRelease = hook("on-release");
  return {
    ...(onSuspend === undefined ? {} : { onSuspend }),
    ...(onRollback === undefined ? {} : { onRollback }),
    ...(onRelease === undefined ? {} : { onRelease }),
  };
}

async function writeSecretFile(path: string, text: string): Promise<void> {
  const { rm, writeFile } = await import("node:fs/promises");
  // Never into a file that others can read already.
  await rm(path, { force: true });
  await writeFile(path, text, { mode: 0o600, flag: "wx" });
}
