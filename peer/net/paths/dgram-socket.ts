/**
 * A UDP socket of node:dgram in both families.
 *
 * @module
 */
import { createSocket, type Socket } from "node:dgram";

import { formatIpAddress, parseIpAddress } from "../../../relay/protocol/ip-address.ts";
import type { DatagramSocket, SocketAddress } from "./datagram.ts";

/** How often another free port is tried if only one family has it. */
const FREE_PORT_ATTEMPTS = 16;

class DgramSocket implements DatagramSocket, AsyncDisposable {
  readonly port: number;
  onDatagram: ((bytes: Uint8Array, from: SocketAddress) => void) | undefined;
  readonly #sockets: ReadonlyMap<4 | 6, Socket>;
  #closing: Promise<void> | undefined;

  constructor(port: number, sockets: ReadonlyMap<4 | 6, Socket>) {
    this.port = port;
    this.#sockets = sockets;
    for (const socket of sockets.values()) {
      socket.on("message", (bytes, { address, port: fromPort }) => {
        const parsed = parseIpAddress(address.replace(/%.*$/s, ""));
        if (parsed === undefined) return;
        this.onDatagram?.(bytes, { address: formatIpAddress(parsed), port: fromPort });
      });
      // What an ICMP message says of one datagram is no end of the socket.
      socket.on("error", () => {});
    }
  }

  send(bytes: Uint8Array, { address, port }: SocketAddress): void {
    const parsed = parseIpAddress(address);
    const socket = parsed && this.#sockets.get(parsed.length === 4 ? 4 : 6);
    if (socket === undefined || this.#closing !== undefined) return;
    try {
      socket.send(bytes, port, address, () => {});
    } catch {
      // Lost, as a datagram may be.
    }
  }

  /** Repeated calls do nothing. */
  close(): Promise<void> {
    this.#closing ??= Promise.all([...this.#sockets.values()].map(closed)).then(() => {});
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

export type { DgramSocket };

/**
 * @param port 0 for any that is free, the same in both families.
 * @throws a system error if not even one family has it.
 */
export async function dgramSocket(port = 0): Promise<DgramSocket> {
  for (let attempt = 1; ; attempt++) {
    const sockets = new Map<4 | 6, Socket>();
    let failure: unknown;
    for (const family of [4, 6] as const) {
      try {
        sockets.set(family, await bound(family, [...sockets.values()][0]?.address().port ?? port));
      } catch (error) {
        failure = error;
      }
    }
    const taken = failure instanceof Error && "code" in failure && failure.code === "EADDRINUSE";
    const [first] = sockets.values();
    if (first === undefined) throw failure;
    // A host without IPv6 fails otherwise.
    if (!taken || port !== 0 || attempt === FREE_PORT_ATTEMPTS) {
      return new DgramSocket(first.address().port, sockets);
    }
    await Promise.all([...sockets.values()].map(closed));
  }
}

function bound(family: 4 | 6, port: number): Promise<Socket> {
  const socket = createSocket({ type: `udp${family}`, ipv6Only: family === 6 });
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => {
      socket.close();
      reject(error);
    };
    socket.once("error", failed);
    socket.bind({ port, address: family === 4 ? "0.0.0.0" : "::", exclusive: true }, () => {
      socket.off("error", failed);
      resolve(socket);
    });
  });
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.close(() => resolve()));
}
