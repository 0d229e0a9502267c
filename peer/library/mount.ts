/**
 * A region as a path.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import { Exports } from "../export/exports.ts";
import type { NbdTlsOptions } from "../export/nbd-tls.ts";
import type { ExportPlace } from "../export/place.ts";
import { formatExport, isServed, parseExport, type ServedExport } from "../export/spec.ts";
import { Options, usage } from "./options.ts";
import { coreOf, Region, type RegionCore } from "./region.ts";

/** What can be shown. Today a region of this process. */
export type MountSource = Region;

export interface MountOptions {
  /** `fuse:DIR`, `nbd:unix:PATH`, `nbd:tcp:HOST:PORT`, `nbd:auto`, `loop:auto`, `uffd:unix:PATH`; docs/exports.md. */
  readonly export: string;
  /** NBD clients need TLS. */
  readonly tls?: NbdTlsOptions;
}

/** Where programs find a region; goes with it. */
export interface Mount extends AsyncDisposable {
  /** A file, a device, a socket or an NBD URI. */
  readonly path: string;
  readonly paths: readonly string[];
  readonly export: string;
  /** Takes it away; programs that still use it get an error. Idempotent. */
  close(): Promise<void>;
}

/**
 * Shows a region to programs, or several at one place.
 *
 * ```ts
 * await using at = await mount(region, { export: "fuse:/mnt/ferry" });
 * console.log(at.path); // /mnt/ferry/region
 * ```
 *
 * @throws MigrationError `USAGE`: what is wrong with the place; `REGION_MOVED`
 */
export async function mount(
  source: MountSource | readonly MountSource[],
  options: MountOptions,
): Promise<Mount> {
  const given = new Options("mount", options, ["export", "tls"]);
  const cores = regionsOf("mount", source).map(coreOf);
  for (const core of cores) {
    core.requireHere();
    core.requireUnscanned("mount");
  }
  const text = given.text("export");
  if (text === undefined) throw usage('mount: export is missing: say where, as "fuse:DIR"');
  const specs = new Map([["", servedExport("mount", text)]]);
  const shown = await Shown.open(specs, given.get("tls"));
  try {
    for (const core of cores) shown.add(core);
    shown.serve();
    await shown.attach();
  } catch (error) {
    await shown.close();
    throw error;
  }
  return {
    path: shown.paths[0] ?? "",
    paths: shown.paths,
    export: text,
    close: () => shown.close(),
    [Symbol.asyncDispose]: () => shown.close(),
  };
}

/** Places of regions, by region name; the empty one is for all others. */
export class Shown {
  readonly #specs: ReadonlyMap<string, ServedExport>;
  readonly #exports = new Exports();
  readonly #shown: { readonly core: RegionCore; readonly place: ExportPlace }[] = [];

  private constructor(specs: ReadonlyMap<string, ServedExport>) {
    this.#specs = specs;
  }

  /** @throws MigrationError `USAGE` */
  static async open(specs: ReadonlyMap<string, ServedExport>, tls: unknown): Promise<Shown> {
    const shown = new Shown(specs);
    const checked = tlsOptions(specs, tls);
    try {
      shown.#exports.open([...specs.values()], {
        holdings: { stores: {}, mounts: {} },
        // A device is this process's: once it is gone, whoever finds the device may let it go.
        session: `/proc/${process.pid}`,
        ...(checked === undefined ? {} : { tls: checked }),
      });
    } catch (error) {
      await shown.close();
      throw error;
    }
    return shown;
  }

  get paths(): string[] {
    return this.#shown.map(({ core, place }) => place.pathOf(core.name));
  }

  add(core: RegionCore): void {
    const spec = this.#specs.get(core.name) ?? this.#specs.get("");
    if (spec === undefined) return;
    const place = this.#exports.add(spec, core.name, core.native);
    // Before anybody can write there.
    core.show(place, { spec: formatExport(spec), close: () => this.close() });
    this.#shown.push({ core, place });
  }

  serve(): void {
    this.#exports.serve();
  }

  async attach(): Promise<void> {
    await this.#exports.attach();
  }

  /** What programs have in their own memory comes to the regions first. */
  async close(): Promise<void> {
    await this.#exports.close();
    for (const { core, place } of this.#shown) core.hide(place);
  }
}

/** @throws MigrationError `USAGE` */
function tlsOptions(
  specs: ReadonlyMap<string, ServedExport>,
  tls: unknown,
): NbdTlsOptions | undefined {
  if (tls === undefined) return undefined;
  if (![...specs.values()].some(({ kind }) => kind === "nbd")) {
    throw usage("tls is for NBD clients: give it with export: nbd:tcp:HOST:PORT");
  }
  const given = new Options("tls", tls, ["kind", "file", "certificate", "key", "clientAuthority"]);
  if (given.oneOf("kind", ["psk", "certificate"]) === "psk") {
    const file = given.text("file");
    if (file !== undefined) return { kind: "psk", file };
    throw usage("tls: file is missing: which one has the keys?");
  }
  const [certificate, key] = [given.text("certificate"), given.text("key")];
  if (certificate === undefined || key === undefined) {
    throw usage("tls needs kind, and a certificate and its key, or a file of keys");
  }
  const clientAuthority = given.text("clientAuthority");
  return {
    kind: "certificate",
    certificate,
    key,
    ...(clientAuthority === undefined ? {} : { clientAuthority }),
  };
}

/** @throws MigrationError `USAGE` */
export function servedExport(call: string, text: string): ServedExport {
  const spec = parseExport(text);
  if (isServed(spec)) return spec;
  throw new MigrationError(
    "USAGE",
    `${call}: ${text} is a file that is used without us: Region.open({ file: "${spec.path}" }) and leech(ticket, { file }) are for that`,
  );
}

/** @throws MigrationError `USAGE` */
export function regionsOf(call: string, source: unknown): Region[] {
  const regions: unknown[] = Array.isArray(source) ? source : [source];
  if (regions.length === 0) throw usage(`${call}: give at least one region`);
  return regions.map((region) => {
    if (region instanceof Region) return region;
    throw usage(
      `${call}: the first argument is a Region: make one with Region.create or Region.open`,
    );
  });
}
