/**
 * `memferry seed`: offers a region and migrates it to whoever brings the ticket.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { hostname } from "node:os";
import { basename } from "node:path";
import { loadNative, type FuseMount, type NativeRegion } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { TICKET_SECRET_BYTES } from "../../relay/protocol/ids.ts";
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN } from "../../relay/protocol/limits.ts";
import { encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { ExportedWrites, openExport, parseExport } from "../export/export.ts";
import { ScannedWrites } from "../export/scanned-writes.ts";
import { Seeder, type SeederHooks } from "../migration/seeder.ts";
import { ApiClient, type RelayAccess } from "../net/api-client.ts";
import { dialLink, type LinkChoice } from "../net/dial.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { RelayControl } from "../net/relay-control.ts";
import type { DirtySource } from "../region/region.ts";
import { VERSION } from "../version.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { errorCode } from "./failure.ts";
import { runHook } from "./hook.ts";
import { Interrupt } from "./interrupt.ts";
import { LINK_CHOICES, LINK_OPTION } from "./link-option.ts";
import { showEvent, showProgress } from "./migration-output.ts";
import type { Output } from "./output.ts";
import { RELAY_OPTIONS, relayAccess } from "./relay-access.ts";
import { formatBytes } from "./size.ts";

const CHUNK_BYTES_DEFAULT = 64 * 1024;
const HASH_KEY_BYTES = 32;
const TICKET_TTL_DEFAULT_MS = 3_600_000;
/** Wait before a new session is made for a region that goes on being served. */
const RETRY_DELAY_MS = 1_000;

export const seedSpec: CommandSpec = {
  name: "seed",
  usage: "(--file PATH | --size SIZE) [options]",
  summary:
    "Offers a region and prints the one-use ticket with which `memferry leech` takes it over.",
  positionalsMax: 0,
  options: {
    file: { value: "PATH", help: "the region is this file" },
    size: { value: "SIZE", help: "the region is new memory of this size, all zeros" },
    export: { value: "fuse:DIR", help: "show the region to programs as DIR/NAME" },
    region: { value: "NAME", help: "its name (default: the file's)" },
    chunk: {
      value: "SIZE",
      help: "transfer unit, a power of two from 4KiB to 4MiB (default 64KiB)",
    },
    link: LINK_OPTION,
    ...RELAY_OPTIONS,
    "ticket-ttl": { value: "TIME", help: "how long the ticket may be used (default 1h)" },
    "ticket-file": {
      value: "PATH",
      help: "write the ticket there (mode 0600) and do not print it",
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
  },
  examples: [
    ["memferry seed --file disk.img", "migrate a file that may be written meanwhile"],
    [
      "memferry seed --file data.db --export fuse:/mnt/ferry --on-suspend 'systemctl stop app'",
      "a database that an application uses as /mnt/ferry/data.db",
    ],
    ["memferry seed --size 256MiB --region heap --export fuse:/mnt/ferry", "new memory"],
  ],
  notes: [
    "Hooks run with /bin/sh and find MEMFERRY_REGION, MEMFERRY_BYTES and MEMFERRY_PATH in their environment.",
    "If a migration fails before its commit, an exported region goes on being served and a new ticket is printed.",
    "Exit status: 0 done; 1 failed, the region is still here; 2 usage; 3 failed after the commit.",
  ],
};

/** The region on this host, for as long as the command runs. */
interface LocalRegion {
  readonly region: NativeRegion;
  readonly hashKey: Uint8Array;
  readonly name: string;
  readonly path: string;
  readonly dirty: DirtySource;
  readonly mount: FuseMount | undefined;
  close(): Promise<void>;
}

export async function seed(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const link = args.oneOf("link", LINK_CHOICES, "auto");
  const ticketTtlMs = args.duration("ticket-ttl", TICKET_TTL_DEFAULT_MS);
  const access = await relayAccess(args);
  using interrupt = new Interrupt();
  // Made before anything is opened: a relay that does not answer is the first thing to be told.
  let attempt = await SeedAttempt.create({ access, link, ticketTtlMs, name: regionName(args) });
  const local = await openLocalRegion(args);
  try {
    for (;;) {
      const result = await attempt.run(args, local, output, interrupt);
      const goesOn = local.mount !== undefined && !args.flag("once") && interrupt.count === 0;
      if (result !== ExitCode.failed || !goesOn) return result;
      output.note("the region goes on being served here; a new ticket follows");
      attempt = await renew(attempt, output, interrupt);
      if (interrupt.count > 0) return ExitCode.failed;
    }
  } finally {
    await local.close();
    output.close();
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
  readonly access: RelayAccess;
  readonly link: LinkChoice;
  readonly ticketTtlMs: number;
  readonly name: string;
}

/** One session at the relay. */
class SeedAttempt {
  readonly #options: AttemptOptions;
  readonly #sessionId: Uint8Array;
  readonly #ticket: Ticket;
  readonly #leecherTicket: string;

  private constructor(
    options: AttemptOptions,
    sessionId: Uint8Array,
    ticket: Ticket,
    other: Ticket,
  ) {
    this.#options = options;
    this.#sessionId = sessionId;
    this.#ticket = ticket;
    this.#leecherTicket = encodeTicket(other);
  }

  static async create(options: AttemptOptions): Promise<SeedAttempt> {
    const { access, name, ticketTtlMs } = options;
    const created = await new ApiClient(access).createSession({ name, ticketTtlMs });
    const common = {
      relayUrl: access.url,
      certificateHashes: access.certificateHashes,
      sessionId: created.id,
      secret: randomBytes(TICKET_SECRET_BYTES),
    };
    return new SeedAttempt(
      options,
      created.id,
      { ...common, role: "seeder", token: created.seederToken },
      { ...common, role: "leecher", token: created.leecherToken },
    );
  }

  again(): Promise<SeedAttempt> {
    return SeedAttempt.create(this.#options);
  }

  async run(
    args: Arguments,
    local: LocalRegion,
    output: Output,
    interrupt: Interrupt,
  ): Promise<ExitCodeValue> {
    const { access, link } = this.#options;
    const { region, name } = local;
    let seeder: Seeder | undefined;
    const control = await RelayControl.join({
      ticket: this.#ticket,
      identity: PeerIdentity.generate(),
      dial: (signal) => dialLink(link, { ...access, signal }),
      describe: () => ({
        regionName: name,
        regionBytes: region.bytes,
        chunkBytes: region.chunkBytes,
        host: hostname(),
        version: VERSION,
      }),
      onOwnership: (ownership) => seeder?.ownershipChanged(ownership),
      onConnection: (connected, detail) => {
        if (!connected) output.note(`the relay is out of reach (${detail}), trying again`);
      },
    });
    seeder = new Seeder({
      session: control,
      sessionId: this.#sessionId,
      secret: this.#ticket.secret,
      hashKey: local.hashKey,
      region,
      regionName: name,
      dirty: local.dirty,
      keyedHash: (data) => loadNative().blake3(data, local.hashKey),
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
        output.error(
          errorCode(error),
          `${messageOf(error)}; the destination owns the region: keep ${local.path} until it is complete there`,
          { owner: "leecher" },
        );
        return ExitCode.recoverable;
      }
      output.error(errorCode(error), `${messageOf(error)}; the region is still here`, {
        owner: "seeder",
      });
      return ExitCode.failed;
    } finally {
      stopProgress();
      await control.close();
    }
  }

  async #tell(args: Arguments, output: Output, local: LocalRegion): Promise<void> {
    const file = args.text("ticket-file");
    const where = local.mount === undefined ? local.path : `${local.path} (exported)`;
    output.note(`offering ${local.name}: ${formatBytes(local.region.bytes)} at ${where}`);
    if (file !== undefined) {
      await writeSecretFile(file, `${this.#leecherTicket}\n`);
      output.event({ event: "ticket", ticketFile: file });
      output.result(`ticket written to ${file}`);
      return;
    }
    output.event({ event: "ticket", ticket: this.#leecherTicket });
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

async function openLocalRegion(args: Arguments): Promise<LocalRegion> {
  const addon = loadNative();
  const hashKey = randomBytes(HASH_KEY_BYTES);
  const name = regionName(args);
  const file = args.text("file");
  const size = args.size("size");
  const exportText = args.text("export");
  const exportSpec = exportText === undefined ? undefined : parseExport(exportText);
  const bytes = file === undefined ? size : await fileBytes(file);
  if (bytes === undefined || (file !== undefined && size !== undefined)) {
    throw usage("give either --file PATH or --size SIZE: what is to be migrated?");
  }
  const region = addon.openRegion({
    store:
      file === undefined
        ? { kind: "memory" }
        : {
            kind: "file",
            path: file,
            create: false,
            reserve: false,
            readOnly: exportSpec === undefined,
          },
    bytes,
    chunkBytes: chunkBytes(args),
    hashKey,
    present: "all",
    gate: "open",
  });
  try {
    if (exportSpec === undefined) {
      if (file === undefined) {
        throw usage("--size needs --export fuse:DIR: without it nobody can use the memory");
      }
      const dirty = await ScannedWrites.open(region, file);
      return {
        region,
        hashKey,
        name,
        path: file,
        dirty,
        mount: undefined,
        close: async () => {
          await dirty.close();
          await region.close();
        },
      };
    }
    const mount = openExport(addon, exportSpec);
    try {
      mount.add(name, region);
    } catch (error) {
      await mount.unmount();
      throw error;
    }
    return {
      region,
      hashKey,
      name,
      path: `${exportSpec.directory}/${name}`,
      dirty: new ExportedWrites(region, mount, name),
      mount,
      close: async () => {
        await mount.unmount();
        await region.close();
      },
    };
  } catch (error) {
    await region.close();
    throw error;
  }
}

async function fileBytes(path: string): Promise<number> {
  const found = await stat(path).catch((cause: unknown) => {
    throw usage(`--file ${path}: ${messageOf(cause)}`);
  });
  if (!found.isFile()) throw usage(`--file ${path} is not a file: give the path of one`);
  const { size } = found;
  if (size === 0) throw usage(`--file ${path} is empty: there is nothing to migrate`);
  return size;
}

function regionName(args: Arguments): string {
  const file = args.text("file");
  const name = args.text("region") ?? (file === undefined ? "region" : basename(file));
  if (
    name === "" ||
    name === "." ||
    name === ".." ||
    /[/\0]/.test(name) ||
    Buffer.byteLength(name) > 255
  ) {
    throw usage(`--region ${name} cannot be the name of a file`);
  }
  return name;
}

function chunkBytes(args: Arguments): number {
  const bytes = args.size("chunk") ?? CHUNK_BYTES_DEFAULT;
  if (bytes < CHUNK_BYTES_MIN || bytes > CHUNK_BYTES_MAX || (bytes & (bytes - 1)) !== 0) {
    throw usage(`--chunk ${args.text("chunk") ?? ""} is not a power of two from 4KiB to 4MiB`);
  }
  return bytes;
}

function seederHooks(args: Arguments, local: LocalRegion): SeederHooks {
  const environment = {
    MEMFERRY_REGION: local.name,
    MEMFERRY_BYTES: String(local.region.bytes),
    MEMFERRY_PATH: local.path,
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
