/**
 * Takes regions over into this process.
 *
 * @module
 */
import { resolve } from "node:path";
import { loadNative } from "../../native/index.ts";
import { decodeTicket } from "../../relay/protocol/ticket.ts";
import type { NbdTlsOptions } from "../export/nbd-tls.ts";
import { formatExport, type ServedExport } from "../export/spec.ts";
import type { FinalizePolicy } from "../migration/leecher-options.ts";
import { DATA_STREAMS_DEFAULT } from "../migration/limits.ts";
import { MODES, type Mode } from "../migration/messages.ts";
import { MigrationError } from "../errors.ts";
import { Arrival, type Place, type Places } from "./arrival.ts";
import { COMMON_OPTIONS, commonSetup, type CommonOptions } from "./common-options.ts";
import type { HookRunner } from "./hooks.ts";
import type { Ask, LeechSetup, Outcome } from "./messages.ts";
import { servedExport, Shown } from "./mount.ts";
import { Options, usage } from "./options.ts";
import { regionOf, type Region } from "./region.ts";
import { requireNotAborted, Session, type Side } from "./session.ts";

const DOWNTIME_BUDGET_DEFAULT_MS = 300;
const DOWNTIME_BUDGET_MAX_MS = 3_600_000;
const DATA_STREAMS_MAX = 64;

export interface LeechOptions extends CommonOptions {
  /** Receive into this new file. */
  readonly file?: string;
  /** Receive into memory of this process. */
  readonly memory?: boolean;
  /** Several regions: each is kept as `directory/NAME`. */
  readonly directory?: string;
  /** Where each region of a group is kept, by its name. */
  readonly regions?: Readonly<Record<string, Place>>;
  /** Show the regions to programs, as `mount` does; by name for one of several. */
  readonly export?: string | Readonly<Record<string, string>>;
  /** NBD clients need TLS. */
  readonly tls?: NbdTlsOptions;
  /**
   * `hybrid`: rounds, then hand over; `precopy`: all before; `postcopy`: all after. Default `hybrid`, and `precopy` for
   * a file without an export: nobody could be held back from what is missing there.
   */
  readonly mode?: Mode;
  /** When to hand over. Default `auto`. `manual`: at `session.finalize()` or by the relay's API. */
  readonly finalize?: "auto" | "manual" | { readonly readyRatio: number };
  /** Downtime that is acceptable. Default 300. */
  readonly downtimeBudgetMs?: number;
  /** Streams that carry chunks, 1 to 64. Default 4. */
  readonly streams?: number;
  /** Replace an existing file of the region's size. */
  readonly overwrite?: boolean;
  /** Do not reserve the file's blocks beforehand. */
  readonly sparse?: boolean;
  /** Starts the workload here; `region` is the first of them. */
  readonly onResume?: (
    region: Region,
    more: { readonly regions: readonly Region[]; readonly signal: AbortSignal },
  ) => void | Promise<void>;
}

const OPTIONS = [
  ...COMMON_OPTIONS,
  "file",
  "memory",
  "directory",
  "regions",
  "export",
  "tls",
  "mode",
  "finalize",
  "downtimeBudgetMs",
  "streams",
  "overwrite",
  "sparse",
  "onResume",
] as const;

/** The destination of a migration. It has the regions until it is disposed of, or they are taken by `release`. */
export class LeechSession extends Session implements AsyncDisposable {
  /** The workload may run: `region` can be used, and what is missing follows. */
  readonly resumed: Promise<Region>;
  readonly #side: LeechingSide;

  private constructor(side: LeechingSide) {
    super(side);
    this.#side = side;
    this.resumed = side.resumed;
  }

  /** @internal */
  static async start(side: LeechingSide): Promise<LeechSession> {
    let session: LeechSession;
    try {
      session = new LeechSession(side);
      await session.joined();
    } catch (error) {
      await side.arrival.discard();
      throw error;
    }
    return session;
  }

  /** The region, or the first of several. @throws MigrationError `REGION_MOVED` before `resumed` */
  get region(): Region {
    const [first] = this.regions;
    if (first === undefined) {
      throw new MigrationError("REGION_MOVED", "no region is here yet: await session.resumed");
    }
    return first;
  }

  get regions(): readonly Region[] {
    return this.#side.regions;
  }

  /** Where programs find them. */
  get paths(): string[] {
    return this.#side.arrival.shown.paths;
  }

  /** Hand over now. */
  finalize(): void {
    this.askFinalize();
  }

  /** The regions, with their exports, are the caller's from here on: close them. Once all is here. */
  async release(): Promise<readonly Region[]> {
    await this.done;
    this.#side.released = true;
    return this.regions;
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    if (!this.#side.released) await this.#side.arrival.close();
  }
}

/**
 * Takes over what `seed` offers, and resolves once it has joined.
 *
 * ```ts
 * await using session = await leech(ticket, { memory: true });
 * const region = await session.resumed; // what is missing follows while it is used
 * const words = new Uint32Array(region.memory());
 * await session.done;
 * ```
 *
 * @throws MigrationError `USAGE`, `CANCELLED`; ProtocolError `TICKET_...`; LinkError if the relay cannot be reached
 */
export async function leech(ticket: string, options: LeechOptions = {}): Promise<LeechSession> {
  const given = new Options("leech", options, OPTIONS);
  if (typeof ticket !== "string") throw usage("leech: the first argument is a ticket, a text");
  if (decodeTicket(ticket).role !== "leecher") {
    throw usage(
      "leech: this ticket is the seeder's: the one for leech is session.ticket of seed()",
    );
  }
  const places = placesOf(given);
  const exports = exportsOf(given);
  const signal = given.signal();
  const arrival = {
    places,
    overwrite: given.flag("overwrite"),
    sparse: given.flag("sparse"),
  };
  const setup = leechSetup(given, ticket, { places, exports });
  requireReachable(setup, places);
  requireNotAborted(signal, "leech");
  // Before the ticket is used up: a mount point that is not fit costs nothing then.
  const shown = await Shown.open(exports, given.get("tls"));
  return await LeechSession.start(
    new LeechingSide(setup, new Arrival(arrival, shown), options.onResume, signal),
  );
}

class LeechingSide implements Side {
  readonly setup: LeechSetup;
  readonly signal: AbortSignal | undefined;
  readonly cancelReason = "cancelled at the destination";
  readonly arrival: Arrival;
  readonly resumed: Promise<Region>;
  regions: readonly Region[] = [];
  released = false;
  readonly #onResume: LeechOptions["onResume"];
  #resume: (region: Region) => void = () => undefined;
  #neverResumes: (error: Error) => void = () => undefined;

  constructor(
    setup: LeechSetup,
    arrival: Arrival,
    onResume: LeechOptions["onResume"],
    signal: AbortSignal | undefined,
  ) {
    this.setup = setup;
    this.arrival = arrival;
    this.signal = signal;
    this.#onResume = onResume;
    this.resumed = new Promise((resolve, reject) => {
      this.#resume = resolve;
      this.#neverResumes = reject;
    });
    // `done` says it too.
    this.resumed.catch(() => undefined);
  }

  async answer(ask: Ask, signal: AbortSignal, hooks: HookRunner): Promise<readonly number[]> {
    switch (ask.what) {
      case "prepare":
        return await this.arrival.prepare(ask.room);
      case "resume": {
        await this.arrival.attach();
        this.regions = this.arrival.cores.map(regionOf);
        const [first] = this.regions;
        if (first !== undefined) this.#resume(first);
        return [];
      }
      case "hook": {
        const { regions } = this;
        const [first] = regions;
        if (first === undefined) throw new Error("the hook came before its region");
        await hooks.run((ended) => this.#onResume?.(first, { regions, signal: ended }), signal);
        return [];
      }
      case "flush":
      case "invalidate":
      case "letGo":
        throw new Error(`${ask.what} was asked of a destination`);
    }
  }

  async onEnd(outcome: Outcome): Promise<void> {
    try {
      if (outcome.ok) this.arrival.settle();
      else if (outcome.committed) await this.arrival.breakOff();
      else await this.arrival.discard();
    } finally {
      const why = outcome.ok ? "there was nothing to resume" : outcome.error.message;
      this.#neverResumes(new MigrationError("CANCELLED", `the workload cannot run here: ${why}`));
    }
  }
}

function leechSetup(
  given: Options,
  ticket: string,
  of: { readonly places: Places; readonly exports: ReadonlyMap<string, ServedExport> },
): LeechSetup {
  const { places, exports } = of;
  const isMemory = (place: Place): boolean => "memory" in place;
  const all = [...places.named.values(), ...(places.one === undefined ? [] : [places.one])];
  const allMemory = places.directory === undefined && all.every(isMemory);
  const early = allMemory || exports.has("");
  const mode = given.oneOf("mode", MODES) ?? (early ? "hybrid" : "precopy");
  const finalize = finalizePolicy(given);
  const downtimeBudgetMs =
    given.integer("downtimeBudgetMs", { min: 0, max: DOWNTIME_BUDGET_MAX_MS }) ??
    DOWNTIME_BUDGET_DEFAULT_MS;
  const dataStreams =
    given.integer("streams", { min: 1, max: DATA_STREAMS_MAX }) ?? DATA_STREAMS_DEFAULT;
  return {
    ...commonSetup(given, {
      durable: !all.some(isMemory),
      hooks: ["onResume"],
      argv: [
        ...placeArguments(places),
        ...[...exports].flatMap(([name, spec]) => [
          "--export",
          name === "" ? formatExport(spec) : `${name}=${formatExport(spec)}`,
        ]),
        "--mode",
        mode,
        "--finalize",
        finalize.kind === "ready" ? `${finalize.ratio * 100}%` : finalize.kind,
        "--downtime-budget",
        `${downtimeBudgetMs}ms`,
        "--streams",
        `${dataStreams}`,
        ...(given.flag("overwrite") ? ["--overwrite"] : []),
        ...(given.flag("sparse") ? ["--sparse"] : []),
      ],
    }),
    role: "leecher",
    ticket,
    mode,
    finalize,
    downtimeBudgetMs,
    dataStreams,
    exported: exports.size > 0,
  };
}

/** @throws MigrationError `USAGE` if the workload could not be held back from what is missing */
function requireReachable(setup: LeechSetup, places: Places): void {
  const all = [...places.named.values(), ...(places.one === undefined ? [] : [places.one])];
  const files = places.directory !== undefined || all.some((place) => "file" in place);
  if (!setup.exported && files && setup.mode !== "precopy" && setup.hooks.length > 0) {
    throw usage(
      `leech: mode ${setup.mode} starts the workload before all is there: give export (fuse:DIR, for one) so that it can wait for what is missing, or mode: "precopy"`,
    );
  }
  if (setup.exported || !all.some((place) => "memory" in place)) return;
  const probe = loadNative().probeUffd();
  if (!probe.available) {
    throw usage(
      `leech: memory cannot be used here: ${probe.reason ?? "there is no userfaultfd"}; give export: "fuse:DIR"`,
    );
  }
}

/** @throws MigrationError `USAGE` */
function placesOf(given: Options): Places {
  const [file, directory, memory] = [
    given.text("file"),
    given.text("directory"),
    given.flag("memory"),
  ];
  const named = new Map(
    byName(given.get("regions"), "regions").map(([name, value]) => [name, placeOf(name, value)]),
  );
  const ways = [file !== undefined, memory, directory !== undefined].filter(Boolean).length;
  if (ways > 1) throw usage("leech: give one of file, memory and directory");
  if (ways === 0 && named.size === 0) {
    throw usage("leech: where is the region to be kept? Give file, memory: true or directory");
  }
  if (file !== undefined && named.size > 0) {
    throw usage("leech: file is for one region: leave out regions");
  }
  return {
    one: memory ? { memory } : file === undefined ? undefined : { file: resolve(file) },
    directory: directory === undefined ? undefined : resolve(directory),
    named,
  };
}

function placeOf(name: string, value: unknown): Place {
  const given = new Options(`leech: regions.${name}`, value, ["file", "memory"]);
  const file = given.text("file");
  if (given.flag("memory") === (file !== undefined)) {
    throw usage(`leech: regions.${name} is { file } or { memory: true }`);
  }
  return file === undefined ? { memory: true } : { file: resolve(file) };
}

/** @throws MigrationError `USAGE` */
function exportsOf(given: Options): Map<string, ServedExport> {
  const value = given.get("export");
  if (value === undefined) return new Map();
  if (typeof value === "string") return new Map([["", servedExport("leech", value)]]);
  return new Map(
    byName(value, "export").map(([name, text]) => {
      if (typeof text !== "string") throw usage(`leech: export.${name} is a text, as "fuse:DIR"`);
      return [name, servedExport("leech", text)];
    }),
  );
}

function byName(value: unknown, name: string): [string, unknown][] {
  if (value === undefined) return [];
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw usage(`leech: ${name} is an object with the regions' names`);
  }
  return Object.entries(value);
}

/** @throws MigrationError `USAGE` */
function finalizePolicy(given: Options): FinalizePolicy {
  const value = given.get("finalize");
  if (value === undefined || value === "auto") return { kind: "auto" };
  if (value === "manual") return { kind: "manual" };
  if (typeof value === "object" && value !== null && "readyRatio" in value) {
    const ratio = value.readyRatio;
    if (typeof ratio === "number" && ratio >= 0 && ratio <= 1) return { kind: "ready", ratio };
  }
  throw given.wrong("finalize", "auto, manual or { readyRatio: 0 to 1 }");
}

function placeArguments({ one, directory, named }: Places): string[] {
  return [
    ...(one !== undefined && "file" in one ? ["--file", one.file] : []),
    ...(directory === undefined ? [] : ["--directory", directory]),
    ...[...named].flatMap(([name, place]) =>
      "file" in place ? ["--region", `${name}=file:${place.file}`] : [],
    ),
  ];
}
