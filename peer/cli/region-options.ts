/**
 * Which regions are meant and where each is shown: `--region`, `--file`, `--size`, `--directory`, `--export`.
 *
 * @module
 */
import { basename, join, resolve } from "node:path";
import type { NbdTlsOptions } from "../export/nbd-tls.ts";
import {
  EXPORT_KINDS,
  isServed,
  parseExport,
  type ExportSpec,
  type ServedExport,
} from "../export/spec.ts";
import { usage, type Arguments, type OptionSpec } from "./command-line.ts";
import { parseSize } from "./size.ts";

/** Where a region's bytes are: a file, or new memory of so many bytes. */
export type RegionPlace =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "memory"; readonly bytes: number };

export interface RegionSpec {
  readonly name: string;
  readonly place: RegionPlace;
}

export const REGION_OPTION = {
  value: "NAME=PLACE",
  help: "a region of a group; PLACE is file:PATH or size:SIZE; may be repeated. Without =PLACE: the name of --file or --size",
  repeatable: true,
} as const;

/** Where programs find the regions. */
export const EXPORT_OPTIONS = {
  export: {
    value: "KIND:PLACE",
    help: `show the regions to programs: ${EXPORT_KINDS}; NAME=KIND:PLACE for one of them, repeated`,
    repeatable: true,
  },
  "tls-cert": { value: "PATH", help: "NBD clients need TLS; this server's certificate (PEM)" },
  "tls-key": { value: "PATH", help: "the certificate's key" },
  "tls-client-ca": {
    value: "PATH",
    help: "NBD clients need a certificate that this one signed",
  },
  "tls-psk": {
    value: "PATH",
    help: "NBD clients need TLS with a key of this file, one IDENTITY:HEX a line",
  },
} as const satisfies Readonly<Record<string, OptionSpec>>;

/** The regions that are to be offered. @throws MigrationError `USAGE` */
export function seededRegions(args: Arguments): RegionSpec[] {
  const exports = new ExportOptions(args);
  const [file, size] = [args.text("file") ?? exports.onlyFile, args.size("size")];
  const named = args.texts("region");
  const group = named.filter((text) => text.includes("="));
  const own = exports.files;
  if (group.length > 0 || (own.size > 0 && file === undefined && size === undefined)) {
    if (args.text("file") !== undefined || size !== undefined || group.length < named.length) {
      throw usage("--region NAME=PLACE says it all: leave out --file, --size and plain names");
    }
    const specs = group.map((text) => placedRegion(text));
    requireDistinct(specs.map(({ name }) => name));
    for (const [name, path] of own) {
      if (!specs.some((spec) => spec.name === name)) {
        specs.push({ name, place: { kind: "file", path } });
      }
    }
    requireOwnFiles(specs, exports);
    return specs;
  }
  if (named.length > 1) throw usage("one region has one name: write --region NAME=file:PATH each");
  if (exports.onlyFile !== undefined && size !== undefined) {
    throw usage("--size is new memory and --export file:PATH a file: leave one of them out");
  }
  if ((file === undefined) === (size === undefined)) {
    throw usage(
      "give either --file PATH or --size SIZE, or --export file:PATH: what is to be migrated?",
    );
  }
  const name = named[0] ?? (file === undefined ? "region" : basename(file));
  requireName(name);
  const place: RegionPlace =
    file === undefined ? { kind: "memory", bytes: size ?? 0 } : { kind: "file", path: file };
  const specs = [{ name, place }];
  requireOwnFiles(specs, exports);
  return specs;
}

/** A region that is exported as the file that it is has no other. @throws MigrationError `USAGE` */
function requireOwnFiles(specs: readonly RegionSpec[], exports: ExportOptions): void {
  if (exports.onlyFile !== undefined && specs.length > 1) {
    throw usage("--export file:PATH is one file: write NAME=file:PATH for each region");
  }
  for (const { name, place } of specs) {
    const shown = exports.of(name);
    if (shown?.kind !== "file") continue;
    if (place.kind === "memory") {
      throw usage(`--export file:${shown.path}: region ${name} is memory: use fuse:DIR`);
    }
    requireSameFile(shown.path, place.path);
  }
}

function requireSameFile(exported: string, kept: string): void {
  if (resolve(exported) === resolve(kept)) return;
  throw usage(
    `--export file:${exported} is the region's own file, and ${kept} another: leave out --file (or file: of --region), or give the same path`,
  );
}

/** In which files regions of these names are to be kept. @throws MigrationError `USAGE` */
export function receivedFiles(args: Arguments, names: readonly string[]): Map<string, string> {
  const exports = new ExportOptions(args);
  const [file, directory] = [args.text("file") ?? exports.onlyFile, args.text("directory")];
  const given = new Map<string, string>(exports.files);
  for (const text of args.texts("region")) {
    const { name, place } = placedRegion(text);
    if (place.kind !== "file") throw usage(`--region ${text}: a region is received into file:PATH`);
    requireSameFile(given.get(name) ?? place.path, place.path);
    given.set(name, place.path);
  }
  const [only, ...more] = names;
  if (file !== undefined) {
    if (only === undefined || more.length > 0) {
      throw usage(
        `the offer has ${names.length} regions (${names.join(", ")}), and only one can be ${file}: give --directory DIR, or --region NAME=file:PATH for each`,
      );
    }
    const own = exports.of(only);
    if (own?.kind === "file") requireSameFile(own.path, file);
    return new Map([[only, file]]);
  }
  return new Map(
    names.map((name) => {
      const path = given.get(name) ?? (directory === undefined ? undefined : join(directory, name));
      if (path !== undefined) return [name, path];
      throw usage(`where is region ${name} to be kept? Add --region ${name}=file:PATH`);
    }),
  );
}

/** Whether anything was said about where to keep what is received. @throws MigrationError `USAGE` */
export function requireReceivedPlace(args: Arguments): void {
  const exports = new ExportOptions(args);
  const ways = [args.text("file"), args.text("directory"), args.texts("region")[0]];
  const given = ways.filter((way) => way !== undefined).length;
  if (given === 0 && exports.onlyFile === undefined && exports.files.size === 0) {
    throw usage("--file is missing: where is the region to be kept? (A group: --directory DIR)");
  }
  const file = args.text("file");
  if (exports.onlyFile !== undefined) {
    if (file !== undefined) requireSameFile(exports.onlyFile, file);
    else if (given > 0) {
      throw usage("--export file:PATH is one file: write NAME=file:PATH for each region");
    }
  }
  if (args.text("file") !== undefined && given > 1) {
    throw usage("--file is for one region: leave out --directory and --region");
  }
}

export class ExportOptions {
  readonly #forAll: ExportSpec | undefined;
  readonly #byName = new Map<string, ExportSpec>();
  readonly tls: NbdTlsOptions | undefined;

  /** @throws MigrationError `USAGE` */
  constructor(args: Arguments) {
    this.tls = nbdTls(args);
    for (const text of args.texts("export")) {
      const match = /^([^=:]+)=(.+)$/s.exec(text);
      const [name, spec] = [match?.[1], match?.[2]];
      if (name === undefined || spec === undefined) {
        if (this.#forAll !== undefined) {
          throw usage(
            "--export KIND:PLACE can be given once: write NAME=KIND:PLACE for each region",
          );
        }
        this.#forAll = parseExport(text);
      } else this.#byName.set(name, parseExport(spec));
    }
    if (this.tls !== undefined && !this.#specs.some(({ kind }) => kind === "nbd")) {
      throw usage("--tls-... is for NBD clients: add --export nbd:tcp:HOST:PORT");
    }
  }

  /** Those that programs use regions through: all but `file:`. */
  get served(): ServedExport[] {
    return this.#specs.filter(isServed);
  }

  /** `--export file:PATH`, for the only region. */
  get onlyFile(): string | undefined {
    return this.#forAll?.kind === "file" ? this.#forAll.path : undefined;
  }

  /** `--export NAME=file:PATH`, by name. */
  get files(): Map<string, string> {
    const files = new Map<string, string>();
    for (const [name, spec] of this.#byName) {
      if (spec.kind === "file") files.set(name, spec.path);
    }
    return files;
  }

  get hasFiles(): boolean {
    return this.#specs.some((spec) => !isServed(spec));
  }

  get #specs(): ExportSpec[] {
    const specs = [...this.#byName.values()];
    return this.#forAll === undefined ? specs : [this.#forAll, ...specs];
  }

  of(name: string): ExportSpec | undefined {
    return this.#byName.get(name) ?? this.#forAll;
  }

  /** @throws MigrationError `USAGE` if one is for a region that is not there */
  requireKnown(names: readonly string[]): void {
    for (const name of this.#byName.keys()) {
      if (!names.includes(name)) throw usage(`--export ${name}=...: there is no region ${name}`);
    }
  }
}

function nbdTls(args: Arguments): NbdTlsOptions | undefined {
  const [certificate, key, clientAuthority, psk] = [
    args.text("tls-cert"),
    args.text("tls-key"),
    args.text("tls-client-ca"),
    args.text("tls-psk"),
  ];
  if (psk !== undefined) {
    if (certificate !== undefined || key !== undefined || clientAuthority !== undefined) {
      throw usage("--tls-psk takes the place of certificates: give one or the other");
    }
    return { kind: "psk", file: psk };
  }
  if (certificate === undefined || key === undefined) {
    if (certificate === undefined && key === undefined && clientAuthority === undefined) {
      return undefined;
    }
    throw usage("TLS needs --tls-cert and --tls-key");
  }
  return {
    kind: "certificate",
    certificate,
    key,
    ...(clientAuthority === undefined ? {} : { clientAuthority }),
  };
}

/** @throws MigrationError `USAGE` */
export function requireName(name: string): void {
  const unfit = ["", ".", ".."].includes(name) || /[/\0=:]/.test(name);
  if (unfit || Buffer.byteLength(name) > 255) {
    throw usage(`--region ${name} cannot be the name of a file`);
  }
}

function placedRegion(text: string): RegionSpec {
  const match = /^([^=]*)=(file|size):(.+)$/s.exec(text);
  const [name = "", kind, value = ""] = match?.slice(1) ?? [];
  if (match === null) {
    throw usage(`--region ${text} is not understood: write NAME=file:PATH or NAME=size:SIZE`);
  }
  requireName(name);
  if (kind === "file") return { name, place: { kind, path: value } };
  const bytes = parseSize(value);
  if (bytes === undefined || bytes === 0) {
    throw usage(`--region ${text}: ${value} is not a size: write it as 64KiB or 256MiB`);
  }
  return { name, place: { kind: "memory", bytes } };
}

function requireDistinct(names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw usage(`two regions have the name ${twice}`);
}
