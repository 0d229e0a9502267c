/**
 * Offers regions of this process.
 *
 * @module
 */
import { CHUNKS_MAX, REGIONS_MAX } from "../migration/limits.ts";
import { COMMON_OPTIONS, commonSetup, type CommonOptions } from "./common-options.ts";
import type { HookRunner, LibraryHook } from "./hooks.ts";
import type { Ask, HookName, LibraryEvent, Outcome, SeedSetup } from "./messages.ts";
import { regionsOf } from "./mount.ts";
import { Options, usage } from "./options.ts";
import { coreOf, type Region, type RegionCore } from "./region.ts";
import { requireNotAborted, Session, type Side } from "./session.ts";

const TICKET_TTL_DEFAULT_MS = 3_600_000;
const TICKET_TTL_MAX_MS = 30 * 24 * 3_600_000;
const HOOKS = ["onSuspend", "onRollback", "onRelease"] as const satisfies HookName[];

export interface SeedOptions extends CommonOptions {
  /** `https://HOST:PORT`. Default: the one of `memferry login`. */
  readonly relay?: string;
  /** The API key. Default: `MEMFERRY_KEY`, or the one of `memferry login`. */
  readonly key?: string;
  /** How long the ticket may be used. Default one hour. */
  readonly ticketTtlMs?: number;
  /**
   * Stops the workload: once it returns, nothing is written any more, nor is `memory()` touched. What it throws, or
   * taking too long, ends the migration with the regions here.
   */
  readonly onSuspend?: LibraryHook;
  /** The migration ended after the suspend: the workload is to go on here. */
  readonly onRollback?: LibraryHook;
  /** The destination has everything. */
  readonly onRelease?: LibraryHook;
}

/** The source of a migration. */
export class SeedSession extends Session implements AsyncDisposable {
  readonly regions: readonly Region[];

  private constructor(side: Side, regions: readonly Region[]) {
    super(side);
    this.regions = regions;
  }

  /** One use, for `leech` on the other host. It holds a secret: bring it there on a channel that you trust. */
  get ticket(): string {
    return this.ticketText;
  }

  /** @internal */
  static async start(side: Side, regions: readonly Region[]): Promise<SeedSession> {
    const session = new SeedSession(side, regions);
    await session.joined();
    return session;
  }
}

/**
 * Offers a region, or several that are handed over together, and resolves with a ticket.
 *
 * ```ts
 * await using session = await seed(region, { onSuspend: () => pause(), onRollback: () => go() });
 * console.log(session.ticket);
 * const { downtimeMs } = await session.done;
 * ```
 *
 * The migration runs in a thread of its own. The workload may use the region meanwhile, until `onSuspend`.
 *
 * @throws MigrationError `USAGE`, `REGION_MOVED`, `CANCELLED`; LinkError or ApiError if the relay does not help
 */
export async function seed(
  source: Region | readonly Region[],
  options: SeedOptions = {},
): Promise<SeedSession> {
  const given = new Options("seed", options, [
    ...COMMON_OPTIONS,
    ...HOOKS,
    "relay",
    "key",
    "ticketTtlMs",
  ]);
  const regions = regionsOf("seed", source);
  const cores = regions.map(coreOf);
  requireFit(cores);
  const signal = given.signal();
  const setup = seedSetup(given, cores);
  requireNotAborted(signal, "seed");
  return await SeedSession.start(new SeedingSide(setup, cores, options, signal), regions);
}

class SeedingSide implements Side {
  readonly setup: SeedSetup;
  readonly signal: AbortSignal | undefined;
  readonly cancelReason = "cancelled at the source";
  readonly #cores: readonly RegionCore[];
  readonly #options: SeedOptions;

  constructor(
    setup: SeedSetup,
    cores: readonly RegionCore[],
    options: SeedOptions,
    signal: AbortSignal | undefined,
  ) {
    this.setup = setup;
    this.signal = signal;
    this.#cores = cores;
    this.#options = options;
    for (const [i, core] of cores.entries()) {
      core.busy = true;
      core.scanned = setup.regions[i]?.scanned !== undefined;
    }
  }

  async answer(ask: Ask, signal: AbortSignal, hooks: HookRunner): Promise<readonly number[]> {
    switch (ask.what) {
      case "hook": {
        const hook = ask.hook === "onResume" ? undefined : this.#options[ask.hook];
        if (hook !== undefined) await hooks.run(hook, signal);
        return [];
      }
      case "flush":
      case "invalidate": {
        const core = this.#cores.find(({ name }) => name === ask.region);
        await core?.[ask.what]();
        return [];
      }
      case "letGo":
        await this.#letGo();
        return [];
      case "prepare":
      case "resume":
        throw new Error(`${ask.what} was asked of a source`);
    }
  }

  onEvent(event: LibraryEvent): void {
    // Whoever still looks is to see at once that the memory is gone. `letGo` is asked too, and waits for the end.
    if (event.event === "committed") void this.#letGo().catch(() => undefined);
  }

  async onEnd(outcome: Outcome): Promise<void> {
    for (const core of this.#cores) {
      core.busy = false;
      core.scanned = false;
    }
    if (outcome.ok || outcome.committed) await this.#letGo();
  }

  async #letGo(): Promise<void> {
    await Promise.all(this.#cores.map((core) => core.letGo("moved")));
  }
}

/** @throws MigrationError `USAGE`, `REGION_MOVED` */
function requireFit(cores: readonly RegionCore[]): void {
  if (cores.length > REGIONS_MAX) throw usage(`seed: a group has at most ${REGIONS_MAX} regions`);
  for (const [i, core] of cores.entries()) {
    core.requireHere();
    if (core.busy) throw usage(`seed: region ${core.name} is part of a session already`);
    if (cores.findIndex(({ name }) => name === core.name) !== i) {
      throw usage(`seed: two regions have the name ${core.name}: give name when you make them`);
    }
    if (core.native.chunkBytes !== cores[0]?.native.chunkBytes) {
      throw usage("seed: regions of a group need the same chunkBytes");
    }
  }
  const chunks = cores.reduce((sum, { native }) => sum + native.chunkCount, 0);
  if (chunks > CHUNKS_MAX)
    throw usage(`seed: ${chunks} chunks are too many: use larger chunkBytes`);
}

function seedSetup(given: Options, cores: readonly RegionCore[]): SeedSetup {
  const ticketTtlMs =
    given.integer("ticketTtlMs", { min: 1_000, max: TICKET_TTL_MAX_MS }) ?? TICKET_TTL_DEFAULT_MS;
  return {
    ...commonSetup(given, {
      durable: cores.every(({ backing }) => backing.kind === "file"),
      hooks: HOOKS,
      argv: commandLine(cores),
    }),
    role: "seeder",
    relay: given.text("relay"),
    key: given.text("key"),
    name: cores.map(({ name }) => name).join("+"),
    ticketTtlMs,
    regions: cores.map((core) => ({
      name: core.name,
      id: core.native.id,
      scanned: scannedFile(core),
      shownCount: core.shownCount,
    })),
  };
}

/** Without memory or a path of ours, whoever writes does so to the file itself. */
function scannedFile({ backing, places, isMapped }: RegionCore): string | undefined {
  return backing.kind === "file" && places.size === 0 && !isMapped ? backing.path : undefined;
}

/** What `memferry resume` does in a later process: the files and their exports, without the hooks. */
function commandLine(cores: readonly RegionCore[]): string[] {
  return [
    "--chunk",
    `${cores[0]?.native.chunkBytes ?? 0}`,
    ...cores.flatMap(({ name, backing, native, places }) => [
      "--region",
      backing.kind === "file" ? `${name}=file:${backing.path}` : `${name}=size:${native.bytes}`,
      ...[...places.values()].slice(0, 1).flatMap(({ spec }) => ["--export", `${name}=${spec}`]),
    ]),
  ];
}
