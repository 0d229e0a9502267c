/**
 * TLS to the relay, with its certificate known by hash.
 *
 * @module
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import * as tls from "node:tls";
import { certificateMismatch, connectionError, type RelayAddress } from "./address.ts";

/** Idle time before TCP asks whether the other side is there. */
const KEEPALIVE_MS = 15_000;

/**
 * Opens the connection that TLS then runs over; for proxies, and for tests. One that is not up yet may be returned.
 *
 * @param open Gets what is to be destroyed if the caller gives up.
 */
export type ConnectTcp = (
  address: RelayAddress,
  open: { destroy(): void }[],
) => Socket | Promise<Socket>;

export const directTcp: ConnectTcp = (address) =>
  connectTcp({ host: address.host, port: address.port, autoSelectFamily: true });

export interface ConnectOptions {
  readonly address: RelayAddress;
  /** Default: as `routedTcp` does. */
  readonly connectTcp: ConnectTcp;
  /** Told of the TCP connection once it is up. */
  readonly onTcp?: (socket: Socket) => void;
}

export interface PinnedOptions extends ConnectOptions {
  /** SHA-256 of the DER; if empty the system's trust store decides. */
  readonly certificateHashes: readonly Uint8Array[];
}

/**
 * The certificate is checked before the socket is given to anyone who would write to it.
 *
 * @param open Gets what is to be destroyed if the caller gives up; see `destroyLater`.
 * @throws what the connection failed with; `connectionError` makes it one that says what to do.
 */
export function connectPinned(
  options: PinnedOptions,
  open: { destroy(): void }[],
): Promise<tls.TLSSocket> {
  const { address, certificateHashes } = options;
  if (certificateHashes.length === 0) {
    return connectTls(options, { ca: trustedCertificates() }, () => undefined, open);
  }
  // Only together with the check of the hash.
  return connectTls(
    options,
    { rejectUnauthorized: false },
    (socket) =>
      isPinned(socket.getPeerCertificate().raw, certificateHashes)
        ? undefined
        : certificateMismatch(address),
    open,
  );
}

/**
 * To whoever answers there. For a question without a secret, to an answer that carries its own proof.
 *
 * @param open As for `connectPinned`.
 */
export function connectUnverified(
  options: ConnectOptions,
  open: { destroy(): void }[],
): Promise<tls.TLSSocket> {
  return connectTls(options, { rejectUnauthorized: false }, () => undefined, open);
}

/** @param refuse Says what is wrong with a connection that is up. */
async function connectTls(
  { address, ...options }: ConnectOptions,
  trust: tls.ConnectionOptions,
  refuse: (socket: tls.TLSSocket) => Error | undefined,
  open: { destroy(): void }[],
): Promise<tls.TLSSocket> {
  const connecting = options.connectTcp(address, open);
  const tcp = connecting instanceof Promise ? await connecting : connecting;
  open.push(tcp);
  return await new Promise((resolve, reject) => {
    const onTcpError = (error: Error): void => reject(error);
    tcp.on("error", onTcpError);
    if (tcp.connecting) tcp.once("connect", () => options.onTcp?.(tcp));
    else options.onTcp?.(tcp);
    tcp.setNoDelay(true);
    tcp.setKeepAlive(true, KEEPALIVE_MS);
    const socket = tls.connect({
      socket: tcp,
      ALPNProtocols: ["http/1.1"],
      minVersion: "TLSv1.2",
      ...trust,
      ...(isIP(address.host) === 0 ? { servername: address.host } : { host: address.host }),
    });
    open.push(socket);
    socket.on("error", onTcpError);
    socket.once("close", () => reject(hungUp()));
    socket.once("secureConnect", () => {
      const refusal = refuse(socket);
      if (refusal === undefined) return resolve(socket);
      // The caller may go on with another connection.
      destroyLater([tcp, socket]);
      reject(refusal);
    });
  });
}

/**
 * Destroys sockets, but not in this turn: Node 24 crashes (in `TLSWrap::ClearOut`) when a TLS socket is destroyed
 * in what its `secureConnect` runs.
 */
export function destroyLater(open: { destroy(): void }[]): void {
  setImmediate(() => {
    for (const one of open.reverse()) one.destroy();
  });
}

function hungUp(): Error {
  return Object.assign(new Error("the connection was closed"), { code: "ECONNRESET" });
}

function isPinned(der: Uint8Array | undefined, hashes: readonly Uint8Array[]): boolean {
  if (der === undefined) return false;
  const digest = createHash("sha256").update(der).digest();
  return hashes.some((hash) => hash.length === digest.length && timingSafeEqual(hash, digest));
}

let trusted: readonly string[] | undefined;

/** What Node ships and what the system adds to it; read once, it is some hundred certificates. */
function trustedCertificates(): string[] {
  trusted ??=
    typeof tls.getCACertificates === "function"
      ? [...new Set([...tls.getCACertificates("default"), ...tls.getCACertificates("system")])]
      : tls.rootCertificates;
  return [...trusted];
}

/** The hash of what a server shows, trusted or not: for a person to compare. Nothing is sent to it. */
export async function presentedCertificateHash(
  address: RelayAddress,
  tcp: ConnectTcp,
): Promise<Uint8Array> {
  const open: { destroy(): void }[] = [];
  try {
    const socket = await connectUnverified({ address, connectTcp: tcp }, open);
    return createHash("sha256").update(socket.getPeerCertificate().raw).digest();
  } catch (error) {
    throw connectionError(address, error);
  } finally {
    destroyLater(open);
  }
}
