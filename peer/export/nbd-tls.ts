/**
 * TLS for NBD: the runtime's own, between the client's socket and the addon's.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { Socket } from "node:net";
import { pipeline } from "node:stream";
import { createServer, type TlsOptions, type TLSSocket } from "node:tls";
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";

/** Files in PEM, or one of pre-shared keys as `psktool` writes it. */
export type NbdTlsOptions =
  | {
      readonly kind: "certificate";
      readonly certificate: string;
      readonly key: string;
      /** If given, a client needs a certificate that this one signed. */
      readonly clientAuthority?: string;
    }
  | { readonly kind: "psk"; readonly file: string };

const HANDSHAKE_MS = 10_000;
/** Diffie-Hellman beside the key, so that a key that leaks later opens nothing recorded before. */
const PSK_CIPHERS =
  "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384";

export class NbdTls {
  readonly #options: TlsOptions;
  readonly #sockets = new Set<Socket>();

  /** @throws MigrationError `USAGE` */
  constructor(options: NbdTlsOptions) {
    this.#options = { minVersion: "TLSv1.2", handshakeTimeout: HANDSHAKE_MS, ...load(options) };
    // What is wrong with a certificate is said now and not to the first client.
    try {
      createServer(this.#options).close();
    } catch (cause) {
      throw new MigrationError("USAGE", `--tls-cert and --tls-key: ${messageOf(cause)}`, { cause });
    }
  }

  /** Carries a client's bytes between its socket and the addon's until one of the two ends. */
  join(encrypted: number, plain: number): void {
    const inner = this.#keep(new Socket({ fd: plain, readable: true, writable: true }));
    const outer = this.#keep(new Socket({ fd: encrypted, readable: true, writable: true }));
    const end = (): void => {
      outer.destroy();
      inner.destroy();
    };
    const server = createServer(this.#options, (secure: TLSSocket) => {
      pipeline(secure, inner, end);
      pipeline(inner, secure, end);
    });
    server.on("tlsClientError", end);
    server.emit("connection", outer);
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #keep(socket: Socket): Socket {
    this.#sockets.add(socket);
    socket.on("error", () => undefined); // "close" follows
    socket.once("close", () => this.#sockets.delete(socket));
    return socket;
  }
}

function load(options: NbdTlsOptions): TlsOptions {
  if (options.kind === "psk") {
    const keys = readKeys(options.file);
    return {
      ciphers: PSK_CIPHERS,
      pskCallback: (_socket, identity) => keys.get(identity) ?? null,
    };
  }
  const { certificate, key, clientAuthority } = options;
  return {
    cert: read("--tls-cert", certificate),
    key: read("--tls-key", key),
    ...(clientAuthority === undefined
      ? {}
      : {
          ca: read("--tls-client-ca", clientAuthority),
          requestCert: true,
          rejectUnauthorized: true,
        }),
  };
}

function readKeys(file: string): Map<string, Buffer> {
  const keys = new Map<string, Buffer>();
  for (const line of read("--tls-psk", file).split("\n")) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, identity, hex] = /^([^:]+):((?:[0-9a-fA-F]{2}){16,64})\s*$/.exec(line) ?? [];
    if (identity === undefined || hex === undefined) {
      throw new MigrationError(
        "USAGE",
        `--tls-psk ${file}: a line is not IDENTITY:HEX with 16 to 64 bytes: write one with psktool`,
      );
    }
    keys.set(identity, Buffer.from(hex, "hex"));
  }
  if (keys.size === 0) throw new MigrationError("USAGE", `--tls-psk ${file} has no key`);
  return keys;
}

function read(option: string, file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new MigrationError("USAGE", `${option} ${file}: ${messageOf(cause)}`, { cause });
  }
}
