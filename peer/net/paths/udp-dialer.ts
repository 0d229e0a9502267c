/**
 * Direct paths over UDP: one socket finds its addresses, punches, and carries the streams.
 *
 * @module
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { networkInterfaces } from "node:os";
import { parseRelayUrl } from "../address.ts";
import type { Candidate, NatKind } from "./candidate.ts";
import { hostCandidates, mergeCandidates } from "./candidates.ts";
import type { SocketAddress } from "./datagram.ts";
import type {
  ConnectRequest,
  DirectDialer,
  DirectEndpoint,
  DirectNetwork,
} from "./direct-dialer.ts";
import { DirectSocket } from "./direct-socket.ts";
import { discover } from "./discovery.ts";
import { mapPort } from "./port-mapping.ts";
import { punch } from "./punch.ts";

export interface UdpDialerOptions {
  readonly relayUrl: string;
  /** How the relay answers address discovery, as it last said; undefined: not at all. */
  readonly discovery: () =>
    | { readonly token: Uint8Array; readonly ports: readonly [number, number] }
    | undefined;
  /** Local UDP port. Default: a free one. */
  readonly port?: number | undefined;
  /** Where the operator lets it be reached: a forwarded port. */
  readonly configured?: readonly SocketAddress[] | undefined;
  /** Whether this network's router is asked to let the port in. */
  readonly portMapping?: boolean | undefined;
}

export class UdpDialer implements DirectDialer {
  readonly #options: UdpDialerOptions;

  constructor(options: UdpDialerOptions) {
    this.#options = options;
  }

  async open(signal: AbortSignal): Promise<DirectEndpoint> {
    const { configured = [], port } = this.#options;
    const socket = new DirectSocket(port);
    try {
      const [{ reflexive, nat }, mapped] = await Promise.all([
        this.#discover(socket, signal),
        this.#map(socket, signal),
      ]);
      const candidates = mergeCandidates([
        ...hostCandidates(networkInterfaces(), socket.port),
        ...[...configured, ...mapped].map((one) => ({ ...one, kind: "configured" as const })),
        ...reflexive,
      ]);
      return new UdpEndpoint(socket, candidates, nat);
    } catch (error) {
      await socket.close("OK", "not used");
      throw error;
    }
  }

  /** Of use as long as the socket lives. */
  async #map(socket: DirectSocket, signal: AbortSignal): Promise<SocketAddress[]> {
    if (this.#options.portMapping !== true) return [];
    const mapping = await mapPort(socket.port, signal);
    if (mapping === undefined) return [];
    const end = (): void => void mapping.close();
    socket.lost.addEventListener("abort", end, { once: true });
    if (socket.lost.aborted) end();
    return [mapping.external];
  }

  async #discover(
    socket: DirectSocket,
    signal: AbortSignal,
  ): Promise<{ reflexive: readonly Candidate[]; nat: NatKind | undefined }> {
    const offered = this.#options.discovery();
    if (offered === undefined) return { reflexive: [], nat: undefined };
    const { host } = parseRelayUrl(this.#options.relayUrl);
    const relays =
      isIP(host) === 0 ? (await lookup(host, { all: true })).map(({ address }) => address) : [host];
    const { mappings, nat } = await discover(socket, { relays, ...offered }, signal);
    const reflexive = mappings.map(({ address, port }) => ({
      kind: "reflexive" as const,
      address,
      port,
    }));
    return { reflexive, nat };
  }
}

class UdpEndpoint implements DirectEndpoint {
  readonly #socket: DirectSocket;
  readonly candidates: readonly Candidate[];
  readonly nat: NatKind | undefined;

  constructor(socket: DirectSocket, candidates: readonly Candidate[], nat: NatKind | undefined) {
    this.#socket = socket;
    this.candidates = candidates;
    this.nat = nat;
  }

  async connect(request: ConnectRequest): Promise<DirectNetwork | undefined> {
    const socket = this.#socket;
    const { role, keys, candidates, signal } = request;
    const punched = await punch({ role, key: keys.probe, socket, candidates, signal });
    if (punched === undefined) return undefined;
    const { remote, rttMs } = punched;
    const [sendKey, receiveKey] =
      role === "leecher"
        ? [keys.leecherToSeeder, keys.seederToLeecher]
        : [keys.seederToLeecher, keys.leecherToSeeder];
    const { address, port } = remote;
    const rttUs = Math.max(1, Math.round(rttMs * 1_000));
    const bytesPerS = Math.round(request.bytesPerS);
    const warm = role === "seeder";
    socket.connect({ address, port, id: keys.id, sendKey, receiveKey, rttUs, bytesPerS, warm });
    return {
      remote: address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`,
      rttMs,
      lost: socket.lost,
      openStream: (index) => Promise.resolve().then(() => socket.stream(index)),
      close: (reason) => socket.close("OK", reason),
    };
  }

  close(): Promise<void> {
    return this.#socket.close("OK", "not used");
  }
}
