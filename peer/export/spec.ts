/**
 * How a local program is to see a region: `--export KIND:PLACE`.
 *
 * @module
 */
import { isIP } from "node:net";
import type { NativeError, NbdAddress } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";

export type ExportSpec =
  | { readonly kind: "fuse"; readonly directory: string }
  | { readonly kind: "nbd"; readonly address: NbdAddress }
  /** `auto`, or the device's path. */
  | { readonly kind: "nbd-kernel"; readonly device: string }
  | { readonly kind: "loop"; readonly device: string }
  /** A Unix socket where programs hand over their userfaultfd. */
  | { readonly kind: "uffd"; readonly path: string }
  /** The region's own file: nothing is between it and the programs that use it. */
  | { readonly kind: "file"; readonly path: string };

/** Those that programs use the region through. */
export type ServedExport = Exclude<ExportSpec, { readonly kind: "file" }>;

export function isServed(spec: ExportSpec): spec is ServedExport {
  return spec.kind !== "file";
}

/** For `--help`. */
export const EXPORT_KINDS =
  "fuse:DIR, nbd:unix:PATH, nbd:tcp:HOST:PORT, nbd:auto (/dev/nbdN), loop:auto, uffd:unix:PATH or file:PATH";

/** @throws MigrationError `USAGE` */
export function parseExport(text: string): ExportSpec {
  const [, kind, place = ""] = /^([a-z-]+):(.+)$/s.exec(text) ?? [];
  switch (kind) {
    case "fuse":
      return { kind, directory: place };
    case "nbd":
      return place === "auto" || place.startsWith("/dev/")
        ? { kind: "nbd-kernel", device: place }
        : { kind, address: nbdAddress(place, text) };
    case "loop":
      return { kind, device: place };
    case "uffd":
      return { kind, path: uffdSocket(place, text) };
    case "file":
      return { kind, path: place };
    default:
      throw new MigrationError("USAGE", `--export ${text} is unknown: use ${EXPORT_KINDS}`);
  }
}

/** As it is typed; two specs of one place are equal here. */
export function formatExport(spec: ExportSpec): string {
  switch (spec.kind) {
    case "fuse":
      return `fuse:${spec.directory}`;
    case "nbd":
      return "path" in spec.address
        ? `nbd:unix:${spec.address.path}`
        : `nbd:tcp:${hostAndPort(spec.address)}`;
    case "nbd-kernel":
      return `nbd:${spec.device}`;
    case "loop":
      return `loop:${spec.device}`;
    case "uffd":
      return `uffd:unix:${spec.path}`;
    case "file":
      return `file:${spec.path}`;
  }
}

/** As URIs have it: an IPv6 address in brackets. */
export function hostAndPort({ host, port }: { host: string; port: number }): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

/** Why a server's socket could not be made, and what to do. */
export function socketFailure({ code, message }: NativeError): string {
  switch (code) {
    case "EADDRINUSE":
      return "a server or a file is there already: give another path, or remove it";
    case "ENOENT":
      return "there is no such folder: make it first";
    case "EACCES":
      return "this user may not listen there: give another place";
    default:
      return message;
  }
}

function uffdSocket(place: string, text: string): string {
  const path = /^unix:(.+)$/s.exec(place)?.[1];
  if (path !== undefined) return path;
  throw new MigrationError("USAGE", `--export ${text} is not understood: write uffd:unix:PATH`);
}

function nbdAddress(place: string, text: string): NbdAddress {
  const unix = /^unix:(.+)$/s.exec(place)?.[1];
  if (unix !== undefined) return { path: unix };
  const [, bracketed, plain, digits] = /^tcp:(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(place) ?? [];
  const host = bracketed ?? plain;
  const port = Number(digits);
  if (host === undefined || port > 65_535) {
    throw new MigrationError(
      "USAGE",
      `--export ${text} is not understood: write nbd:unix:PATH or nbd:tcp:HOST:PORT`,
    );
  }
  return { host, port };
}
