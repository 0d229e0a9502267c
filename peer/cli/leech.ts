/**
 * `memferry leech`: takes a region over.
 *
 * @module
 */
import { rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { loadNative, NativeError, type FuseMount, type NativeRegion } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { decodeTicket, TICKET_PREFIX } from "../../relay/protocol/ticket.ts";
import { MigrationError } from "../errors.ts";
import { openExport, parseExport } from "../export/export.ts";
import type { Destination } from "../migration/destination.ts";
import type { FinalizePolicy } from "../migration/leecher-options.ts";
import { Leecher } from "../migration/leecher.ts";
import { MODES, type OfferMessage } from "../migration/messages.ts";
import { dialLink } from "../net/dial.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { RelayControl } from "../net/relay-control.ts";
import { VERSION } from "../version.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { errorCode, withTicketCure } from "./failure.ts";
import { runHook } from "./hook.ts";
import { Interrupt } from "./interrupt.ts";
import { LINK_CHOICES, LINK_OPTION } from "./link-option.ts";
import { showEvent, showProgress } from "./migration-output.ts";
import type { Output } from "./output.ts";
import { readSecret } from "./relay-access.ts";
import { formatBytes } from "./size.ts";

const DOWNTIME_BUDGET_DEFAULT_MS = 300;
const DATA_STREAMS_DEFAULT = 4;

export const leechSpec: CommandSpec = {
  name: "leech",
  usage: "(TICKET | - | --ticket-file PATH) --file PATH [options]",
  summary: "Takes a region over with a ticket that `memferry seed` printed.",
  positionalsMax: 1,
  options: {
    file: { value: "PATH", help: "the region is kept in this new file" },
    "ticket-file": { value: "PATH", help: "read the ticket there; TICKET - reads standard input" },
    export: { value: "fuse:DIR", help: "show the region to programs as DIR/NAME" },
    mode: {
      value: "MODE",
      help: "hybrid: rounds, then hand over; precopy: all before; postcopy: all after (default hybrid)",
    },
    finalize: {
      value: "WHEN",
      help: "auto, manual (`memferry sessions finalize`), or the percentage that is to be ready first",
    },
    "downtime-budget": { value: "TIME", help: "downtime that is acceptable (default 300ms)" },
    streams: { value: "COUNT", help: "data streams, 1 to 64 (default 4)" },
    link: LINK_OPTION,
    "on-resume": { value: "CMD", help: "starts the workload here" },
    overwrite: { help: "replace an existing file of the region's size" },
    sparse: {
      help: "do not reserve the file's blocks beforehand: a disk that fills up later is your risk",
    },
  },
  examples: [
    ["memferry leech memferry1_AbC... --file disk.img", "receive into a new file"],
    [
      "memferry leech - --file data.db --export fuse:/mnt/ferry --on-resume 'systemctl start app' < ticket",
      "an application goes on here, with the ticket from standard input",
    ],
    [
      "memferry leech --ticket-file t --file vm.ram --mode postcopy",
      "hand over at once, pull afterwards",
    ],
  ],
  notes: [
    "The ticket names the relay, so nothing else is needed. It works once.",
    "Hooks run with /bin/sh and find MEMFERRY_REGION, MEMFERRY_BYTES and MEMFERRY_PATH in their environment.",
    "Exit status: 0 done; 1 failed, the region is still at the source; 2 usage; 3 failed after the commit.",
  ],
};

export async function leech(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const ticket = decodeTicket(await ticketText(args));
  const file = args.required("file", "where is the region to be kept?");
  const link = args.oneOf("link", LINK_CHOICES, "auto");
  const exportText = args.text("export");
  const exportSpec = exportText === undefined ? undefined : parseExport(exportText);
  const options = {
    mode: args.oneOf("mode", MODES, "hybrid"),
    finalize: finalizePolicy(args.text("finalize")),
    downtimeBudgetMs: args.duration("downtime-budget", DOWNTIME_BUDGET_DEFAULT_MS),
    dataStreams: dataStreams(args.text("streams")),
  };
  if (ticket.role !== "leecher") {
    throw usage("this ticket is the seeder's: the one for `leech` is printed after `ticket:`");
  }
  using interrupt = new Interrupt();
  await using place = new LeechedRegion(args, file, exportSpec?.directory);
  let leecher: Leecher | undefined;
  const control = await RelayControl.join({
    ticket,
    identity: PeerIdentity.generate(),
    dial: (signal) =>
      dialLink(link, { url: ticket.relayUrl, certificateHashes: ticket.certificateHashes, signal }),
    describe: () => place.describe(),
    onOwnership: (ownership) => leecher?.ownershipChanged(ownership),
    onCommand: (command) => {
      if (command === "finalize") leecher?.finalize();
    },
    onConnection: (connected, detail) => {
      if (!connected) output.note(`the relay is out of reach (${detail}), trying again`);
    },
  }).catch((error: unknown) => {
    throw withTicketCure(error);
  });
  leecher = new Leecher({
    session: control,
    sessionId: ticket.sessionId,
    secret: ticket.secret,
    keyedHash: (hashKey) => (data) => loadNative().blake3(data, hashKey),
    prepare: (offer) => place.prepare(offer),
    onEvent: (event) => showEvent(output, event),
    ...options,
    ...place.resumeHook(),
  });
  const running = leecher;
  interrupt.handle((count) => interrupted(running, output, count));
  const stopProgress = showProgress(output, () => running.progress());
  try {
    await running.run();
    stopProgress();
    place.keep();
    if (exportSpec !== undefined && interrupt.count === 0) {
      output.note(`${place.path} stays until Ctrl-C`);
      output.event({ event: "serving", path: place.path });
      await new Promise<void>((resolve) => interrupt.handle(() => resolve()));
    }
    return running.hookFailed ? ExitCode.recoverable : ExitCode.done;
  } catch (error) {
    stopProgress();
    if (running.committed) {
      place.keep();
      output.error(
        errorCode(error),
        `${messageOf(error)}; this side owns the region, but ${running.missingChunks} chunks are still at the source: keep both, and see docs/errors.md, "after the commit"`,
        { owner: "leecher", missingChunks: running.missingChunks },
      );
      return ExitCode.recoverable;
    }
    output.error(errorCode(error), `${messageOf(error)}; the region is still at the source`, {
      owner: "seeder",
    });
    return ExitCode.failed;
  } finally {
    stopProgress();
    output.close();
    await control.close();
  }
}

/** The file and the export of what is received. Until `keep`, what was made here is removed again at the end. */
class LeechedRegion {
  readonly #args: Arguments;
  readonly #file: string;
  readonly #exportDirectory: string | undefined;
  #offer: OfferMessage | undefined;
  #region: NativeRegion | undefined;
  #mount: FuseMount | undefined;
  #createdFile = false;
  #keep = false;

  constructor(args: Arguments, file: string, exportDirectory: string | undefined) {
    this.#args = args;
    this.#file = file;
    this.#exportDirectory = exportDirectory;
  }

  /** Where programs find the region. */
  get path(): string {
    if (this.#exportDirectory === undefined || this.#offer === undefined) return this.#file;
    return join(this.#exportDirectory, this.#offer.regionName);
  }

  keep(): void {
    this.#keep = true;
  }

  async prepare(offer: OfferMessage): Promise<Destination> {
    if (/[/\0]/.test(offer.regionName) || ["", ".", ".."].includes(offer.regionName)) {
      throw new MigrationError(
        "MESSAGE_MALFORMED",
        "the region's name cannot be the name of a file",
      );
    }
    const addon = loadNative();
    this.#createdFile = await this.#checkFile(offer.regionBytes);
    this.#offer = offer;
    const destination: Destination & { region: NativeRegion } = {
      onFault: undefined,
      exported: this.#exportDirectory !== undefined,
      region: this.#open(offer, (indexes) => destination.onFault?.(indexes)),
    };
    this.#region = destination.region;
    if (this.#exportDirectory !== undefined) {
      const { directory } = { directory: this.#exportDirectory };
      this.#mount = openExport(addon, { kind: "fuse", directory });
      this.#mount.add(offer.regionName, this.#region);
    }
    return destination;
  }

  describe():
    | { regionName: string; regionBytes: number; chunkBytes: number; host: string; version: string }
    | undefined {
    const offer = this.#offer;
    if (offer === undefined) return undefined;
    const { regionName, regionBytes, chunkBytes } = offer;
    return { regionName, regionBytes, chunkBytes, host: hostname(), version: VERSION };
  }

  resumeHook(): { onResume?: (signal: AbortSignal) => Promise<void> } {
    const command = this.#args.text("on-resume");
    if (command === undefined) return {};
    return {
      onResume: (signal) =>
        runHook(
          "--on-resume",
          command,
          {
            MEMFERRY_REGION: this.#offer?.regionName ?? "",
            MEMFERRY_BYTES: String(this.#offer?.regionBytes ?? 0),
            MEMFERRY_PATH: this.path,
          },
          signal,
        ),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mount?.unmount();
    await this.#region?.close();
    if (this.#createdFile && !this.#keep) await rm(this.#file, { force: true });
  }

  #open(offer: OfferMessage, onFault: (indexes: Uint32Array) => void): NativeRegion {
    try {
      return loadNative().openRegion({
        store: {
          kind: "file",
          path: this.#file,
          create: true,
          reserve: !this.#args.flag("sparse"),
        },
        bytes: offer.regionBytes,
        chunkBytes: offer.chunkBytes,
        hashKey: offer.hashKey,
        present: "none",
        gate: "closed",
        onFault,
      });
    } catch (error) {
      if (!(error instanceof NativeError)) throw error;
      if (error.code === "ENOSPC" || error.code === "EDQUOT") {
        throw new MigrationError(
          "STORE_FULL",
          `no room for ${formatBytes(offer.regionBytes)} at ${this.#file}: free space there, give another --file, or add --sparse`,
          { cause: error },
        );
      }
      throw new MigrationError("STORE_FAILED", `--file ${this.#file}: ${error.message}`, {
        cause: error,
      });
    }
  }

  /** @returns Whether the file is going to be made. */
  async #checkFile(regionBytes: number): Promise<boolean> {
    let size;
    try {
      ({ size } = await stat(this.#file));
    } catch {
      // Absent, or not to be looked at: opening it says which.
      return true;
    }
    if (size !== regionBytes) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${this.#file} has ${size} bytes and the region ${regionBytes}: delete it or give another --file`,
      );
    }
    if (!this.#args.flag("overwrite")) {
      throw new MigrationError(
        "REGION_MISMATCH",
        `${this.#file} exists: add --overwrite to replace what it holds, or give another --file`,
      );
    }
    return false;
  }
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
