/**
 * A UDP socket as discovery and hole punching see it.
 *
 * @module
 */

export interface SocketAddress {
  /** IPv4 in dotted form, or IPv6 in its shortest form without a zone; never an IPv4 address mapped into IPv6. */
  readonly address: string;
  readonly port: number;
}

export interface DatagramSocket {
  /** The local port; the socket is bound to every address of this host, in both families where it has both. */
  readonly port: number;
  /** Best effort, as UDP is: a datagram that cannot be sent is lost. */
  send(bytes: Uint8Array, to: SocketAddress): void;
  /** Who listens for what is not part of a direct connection. One at a time. */
  onDatagram: ((bytes: Uint8Array, from: SocketAddress) => void) | undefined;
}
