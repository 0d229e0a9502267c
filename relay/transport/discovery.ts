/**
 * Tells peers how their UDP sockets look from outside, at two ports of one address: a NAT whose mapping depends on
 * whom one speaks to shows two different ones.
 *
 * @module
 */
import { createHmac } from "node:crypto";
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";

import { RateLimit } from "../api/rate-limit.ts";
import { systemCode } from "../errors.ts";
import {
  decodeDiscoveryRequest,
  encodeDiscoveryResponse,
  type DiscoveryMac,
} from "../protocol/discovery.ts";
import { formatIpAddress, parseIpAddress, unmapped } from "../protocol/ip-address.ts";
import { DiscoveryTokens, type HeldToken } from "./discovery-tokens.ts";
import {
  DISCOVERY_ANSWERS_PER_NETWORK_BURST,
  DISCOVERY_ANSWERS_PER_NETWORK_S,
  DISCOVERY_NETWORKS_MAX,
  DISCOVERY_OPEN_TOKENS_MAX,
  DISCOVERY_PEER_TOKENS_MAX,
} from "./limits.ts";

/** What became of a datagram. All but the first are without an answer. */
export type DiscoveryOutcome =
  | "answered"
  | "malformed"
  | "tokenUnknown"
  | "tokenSpent"
  | "throttled";

export interface DiscoveryOptions {
  /** An address, a name, or empty for every address of this host. */
  readonly host: string;
  /** 0 for any that is free. */
  readonly ports: readonly [number, number];
  readonly count: (outcome: DiscoveryOutcome) => void;
  /** A socket failed; it is of no further consequence. */
  readonly onProblem?: (message: string) => void;
  /** Milliseconds, monotone. */
  readonly clock?: () => number;
}

export interface DiscoveryServer {
  readonly ports: readonly [number, number];
  /** For a peer, as long as it is connected. */
  hold(): HeldToken;
  /** For anybody, for a while. */
  lend(): Uint8Array;
  close(): Promise<void>;
}

interface Binding {
  readonly family: 4 | 6;
  readonly address: string;
}

/** How often another free port is looked for if only one family has it. */
const FREE_PORT_ATTEMPTS = 16;

/** @throws a system error if a port cannot be had, with everything closed again. */
export async function listenDiscovery(options: DiscoveryOptions): Promise<DiscoveryServer> {
  const clock = options.clock ?? (() => performance.now());
  const peers = new DiscoveryTokens(DISCOVERY_PEER_TOKENS_MAX, clock);
  const anybody = new DiscoveryTokens(DISCOVERY_OPEN_TOKENS_MAX, clock);
  const networks = new RateLimit({
    perSecond: DISCOVERY_ANSWERS_PER_NETWORK_S,
    burst: DISCOVERY_ANSWERS_PER_NETWORK_BURST,
    keysMax: DISCOVERY_NETWORKS_MAX,
    clock,
  });

  const answer = (bytes: Uint8Array, from: RemoteInfo, socket: Socket): DiscoveryOutcome => {
    const request = decodeDiscoveryRequest(bytes);
    const address = parseIpAddress(withoutZone(from.address));
    if (request === undefined || address === undefined || from.port === 0) return "malformed";
    const { token, transactionId } = request;
    const tokens = [peers, anybody].find((pool) => pool.has(token));
    if (tokens === undefined) return "tokenUnknown";
    if (networks.take(networkOf(address)) > 0) return "throttled";
    if (!tokens.spend(token)) return "tokenSpent";
    const response = { transactionId, address: formatIpAddress(address), port: from.port };
    // Best effort, as UDP is: who hears nothing asks again.
    socket.send(encodeDiscoveryResponse(response, token, hmac), from.port, from.address, () => {});
    return "answered";
  };

  const open: Socket[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(open.splice(0).map(closed));
  };
  try {
    const bindings = await bindingsOf(options.host);
    const bound: number[] = [];
    for (const wanted of options.ports) {
      const { port, sockets } = await bindAll(bindings, wanted);
      open.push(...sockets);
      bound.push(port);
    }
    for (const socket of open) {
      socket.on("error", (error) => options.onProblem?.(error.message));
      socket.on("message", (bytes, from) => options.count(answer(bytes, from, socket)));
    }
    const [first = 0, second = 0] = bound;
    return { ports: [first, second], hold: () => peers.hold(), lend: () => anybody.lend(), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The key of a limit: who has one address of it has all of them, or nearly. */
export function networkOf(address: Uint8Array): string {
  const plain = unmapped(address);
  return plain.length === 4
    ? `${plain.subarray(0, 3).join(".")}/24`
    : `${formatIpAddress(Uint8Array.of(...plain.subarray(0, 7), ...new Uint8Array(9)))}/56`;
}

const hmac: DiscoveryMac = (key, message) => createHmac("sha256", key).update(message).digest();

function withoutZone(address: string): string {
  return address.replace(/%.*$/s, "");
}

async function bindingsOf(host: string): Promise<Binding[]> {
  if (host === "" || host === "::") {
    return [
      { family: 4, address: "0.0.0.0" },
      { family: 6, address: "::" },
    ];
  }
  const found =
    isIP(host) === 0 ? await lookup(host, { all: true }) : [{ address: host, family: isIP(host) }];
  return ([4, 6] as const).flatMap((family) => {
    const address = found.find((one) => one.family === family)?.address;
    return address === undefined ? [] : [{ family, address }];
  });
}

/** One port in every family that this host has. */
async function bindAll(
  bindings: readonly Binding[],
  wanted: number,
): Promise<{ port: number; sockets: Socket[] }> {
  for (let attempt = 1; ; attempt++) {
    const sockets: Socket[] = [];
    let port = wanted;
    let missing: unknown;
    try {
      for (const binding of bindings) {
        try {
          const socket = await bind(binding, port);
          sockets.push(socket);
          port = socket.address().port;
        } catch (error) {
          if (!["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes(systemCode(error) ?? "")) throw error;
          missing = error;
        }
      }
      if (sockets.length === 0) throw missing ?? new Error("no address to listen at");
      return { port, sockets };
    } catch (error) {
      await Promise.all(sockets.map(closed));
      const another = wanted === 0 && sockets.length > 0 && attempt < FREE_PORT_ATTEMPTS;
      if (!another) throw error;
    }
  }
}

function bind({ family, address }: Binding, port: number): Promise<Socket> {
  const socket = createSocket({ type: family === 4 ? "udp4" : "udp6", ipv6Only: family === 6 });
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => {
      socket.close();
      reject(error);
    };
    socket.once("error", failed);
    socket.bind({ port, address, exclusive: true }, () => {
      socket.off("error", failed);
      resolve(socket);
    });
  });
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.close(() => resolve()));
}
