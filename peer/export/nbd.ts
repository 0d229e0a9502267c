/**
 * Regions for NBD clients: QEMU, nbdkit, libnbd, nbd-client, a block client on another host.
 *
 * @module
 */
import {
  loadNative,
  NativeError,
  type NativeRegion,
  type NbdAddress,
  type NbdServer,
} from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import { NbdTls, type NbdTlsOptions } from "./nbd-tls.ts";
import type { ExportPlace, ShownAs } from "./place.ts";
import { formatExport, hostAndPort, socketFailure } from "./spec.ts";

export class NbdPlace implements ExportPlace {
  readonly #server: NbdServer;
  readonly #tls: NbdTls | undefined;

  /** @param tls If given, nobody is served without it. @throws MigrationError `USAGE` */
  constructor(address: NbdAddress, tls?: NbdTlsOptions) {
    const terminator = tls === undefined ? undefined : new NbdTls(tls);
    this.#tls = terminator;
    try {
      this.#server = loadNative().serveNbd({
        listen: address,
        ...(terminator === undefined
          ? {}
          : {
              tls: "require",
              onTls: (encrypted, plain) => terminator.join(encrypted, plain),
            }),
      });
    } catch (cause) {
      if (!(cause instanceof NativeError)) throw cause;
      const what = formatExport({ kind: "nbd", address });
      throw new MigrationError("USAGE", `--export ${what}: ${listenFailure(cause, address)}`, {
        cause,
      });
    }
  }

  add(name: string, region: NativeRegion, { readOnly = false }: ShownAs = {}): void {
    this.#server.add(name, region, { readOnly });
  }

  /** A URI as libnbd and QEMU read it. */
  pathOf(name: string): string {
    const { address } = this.#server;
    const scheme = this.#tls === undefined ? "nbd" : "nbds";
    const export_ = encodeURIComponent(name);
    return "path" in address
      ? `${scheme}+unix:///${export_}?socket=${encodeURI(address.path)}`
      : `${scheme}://${hostAndPort(address)}/${export_}`;
  }

  serve(): boolean {
    return true;
  }

  attach(): Promise<void> {
    return Promise.resolve();
  }

  // What a client caches is the client's: it flushes when it is suspended.
  flush(): Promise<void> {
    return Promise.resolve();
  }

  invalidate(): Promise<void> {
    return Promise.resolve();
  }

  async close(): Promise<void> {
    this.#tls?.close();
    await this.#server.stop();
  }
}

function listenFailure(error: NativeError, address: NbdAddress): string {
  if ("path" in address) return socketFailure(error);
  switch (error.code) {
    case "EADDRINUSE":
      return "the port is in use: give another one, or 0 for a free one";
    case "EADDRNOTAVAIL":
      return "this host does not have that address: give one of its own, or 0.0.0.0 for all";
    default:
      return socketFailure(error);
  }
}
