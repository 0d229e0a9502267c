/**
 * A region as the memory of a program that hands over its userfaultfd: a virtual machine monitor, or anything under
 * `memferry-shim.so`.
 *
 * @module
 */
import { loadNative, NativeError, type NativeRegion, type UffdServer } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import type { ExportPlace } from "./place.ts";
import { formatExport, socketFailure } from "./spec.ts";

export class UffdPlace implements ExportPlace {
  readonly #server: UffdServer;
  #names = 0;

  /** @param path A Unix socket. @throws MigrationError `USAGE` */
  constructor(path: string) {
    const what = `--export ${formatExport({ kind: "uffd", path })}`;
    const addon = loadNative();
    const probe = addon.probeUffd();
    if (!probe.available) throw new MigrationError("USAGE", `${what}: ${probe.reason ?? ""}`);
    try {
      this.#server = addon.serveUffd({ path });
    } catch (cause) {
      if (!(cause instanceof NativeError)) throw cause;
      throw new MigrationError("USAGE", `${what}: ${socketFailure(cause)}`, { cause });
    }
  }

  add(name: string, region: NativeRegion): void {
    if (this.#names++ > 0) {
      const { path } = this.#server;
      throw new MigrationError(
        "USAGE",
        `--export uffd:unix:${path}: one socket is one region: give NAME=uffd:unix:PATH for each`,
      );
    }
    this.#server.add(name, region);
  }

  /** The socket. */
  pathOf(): string {
    return this.#server.path;
  }

  serve(): boolean {
    return true;
  }

  attach(): Promise<void> {
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return this.#server.flush();
  }

  // Nothing is cached outside the program's own memory, where only its suspend hook can hold it still.
  invalidate(): Promise<void> {
    return this.#server.flush();
  }

  settle(): Promise<void> {
    return this.#server.flush();
  }

  close(): Promise<void> {
    return this.#server.stop();
  }
}
