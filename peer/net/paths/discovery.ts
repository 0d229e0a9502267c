/**
 * How this host's UDP socket looks from the relay, and what that tells of the NAT between.
 *
 * @module
 */
import { createHmac, randomBytes } from "node:crypto";
import { networkInterfaces } from "node:os";

import {
  decodeDiscoveryResponse,
  DISCOVERY_TRANSACTION_BYTES,
  encodeDiscoveryRequest,
  isDiscoveryResponse,
  type DiscoveryMac,
} from "../../../relay/protocol/discovery.ts";
import { formatIpAddress, parseIpAddress } from "../../../relay/protocol/ip-address.ts";
import type { DatagramSocket, SocketAddress } from "./datagram.ts";
import {
  DISCOVERY_DEADLINE_MS,
  DISCOVERY_GRACE_MS,
  DISCOVERY_RELAYS_PER_FAMILY_MAX,
  DISCOVERY_RETRIES_MS,
} from "./limits.ts";

/**
 * `none`: the relay sees an address of this host. `endpoint-independent`: it sees the same one at both of its ports,
 * so others will too. `endpoint-dependent`: it sees different ones, or only one port answered and nobody can tell.
 * `udp-blocked`: no answer.
 */
export type NatClass = "none" | "endpoint-independent" | "endpoint-dependent" | "udp-blocked";

export interface Mapping extends SocketAddress {
  readonly family: 4 | 6;
}

export interface Discovered {
  /** Each once. */
  readonly mappings: readonly Mapping[];
  /** Of IPv4 if anything answered there, which is where NATs are; else of IPv6. */
  readonly nat: NatClass;
  /** Of each family that answered. */
  readonly families: Readonly<Partial<Record<4 | 6, NatClass>>>;
}

export interface DiscoverOptions {
  /** Every address of the relay's name; more than a few of a family are passed over. */
  readonly relays: readonly string[];
  readonly ports: readonly [number, number];
  readonly token: Uint8Array;
  /** This host's own addresses. Default: those of its interfaces. */
  readonly ownAddresses?: readonly string[];
}

interface Question extends SocketAddress {
  readonly family: 4 | 6;
  readonly transactionId: Uint8Array;
  answer: SocketAddress | undefined;
}

/**
 * Asks from `socket`, whose other datagrams go on to who listened before. Takes at most 1.5 s.
 *
 * @throws the signal's reason
 */
export async function discover(
  socket: DatagramSocket,
  options: DiscoverOptions,
  signal?: AbortSignal,
): Promise<Discovered> {
  const questions = questionsOf(options);
  const others = socket.onDatagram;
  const over = Promise.withResolvers<void>();
  const timers: NodeJS.Timeout[] = [];
  const after = (ms: number, then: () => void): void => void timers.push(setTimeout(then, ms));
  const aborted = (): void => over.reject(signal?.reason);
  const ask = (): void => {
    for (const { address, port, transactionId, answer } of questions) {
      if (answer !== undefined) continue;
      const { token } = options;
      socket.send(encodeDiscoveryRequest({ transactionId, token }), { address, port });
    }
  };
  const listen = (bytes: Uint8Array, from: SocketAddress): void => {
    if (!isDiscoveryResponse(bytes)) {
      others?.(bytes, from);
      return;
    }
    const question = questions.find(
      (one) => one.address === from.address && one.port === from.port,
    );
    const told = decodeDiscoveryResponse(bytes, options.token, hmac);
    if (question === undefined || told === undefined) return;
    if (!Buffer.from(question.transactionId).equals(told.transactionId)) return;
    question.answer ??= { address: told.address, port: told.port };
    if (questions.every(({ answer }) => answer !== undefined)) over.resolve();
    const both = questions.every((one) => one.address !== from.address || one.answer !== undefined);
    if (both) after(DISCOVERY_GRACE_MS, over.resolve);
  };
  try {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", aborted, { once: true });
    if (questions.length === 0) over.resolve();
    socket.onDatagram = listen;
    ask();
    for (const retryMs of DISCOVERY_RETRIES_MS) after(retryMs, ask);
    after(DISCOVERY_DEADLINE_MS, over.resolve);
    await over.promise;
  } finally {
    for (const timer of timers) clearTimeout(timer);
    signal?.removeEventListener("abort", aborted);
    // Somebody else may have taken the socket over.
    if (socket.onDatagram === listen) socket.onDatagram = others;
  }
  return summary(questions, options.ownAddresses ?? interfaceAddresses());
}

const hmac: DiscoveryMac = (key, message) => createHmac("sha256", key).update(message).digest();

function questionsOf({ relays, ports }: DiscoverOptions): Question[] {
  const addresses = new Map<string, 4 | 6>();
  for (const text of relays) {
    const parsed = parseIpAddress(text);
    if (parsed === undefined) continue;
    const address = formatIpAddress(parsed);
    const family = address.includes(":") ? 6 : 4;
    const alike = [...addresses.values()].filter((one) => one === family).length;
    if (alike < DISCOVERY_RELAYS_PER_FAMILY_MAX) addresses.set(address, family);
  }
  return [...addresses].flatMap(([address, family]) =>
    ports.map((port) => ({
      family,
      address,
      port,
      transactionId: Uint8Array.from(randomBytes(DISCOVERY_TRANSACTION_BYTES)),
      answer: undefined,
    })),
  );
}

function summary(questions: readonly Question[], ownAddresses: readonly string[]): Discovered {
  const mappings = new Map<string, Mapping>();
  const families: Partial<Record<4 | 6, NatClass>> = {};
  for (const family of [4, 6] as const) {
    const answers = questions.flatMap((one) =>
      one.family === family && one.answer !== undefined ? [one.answer] : [],
    );
    const distinct = new Map(answers.map((one) => [`${one.address} ${one.port}`, one]));
    for (const [key, one] of distinct) {
      mappings.set(key, { family: one.address.includes(":") ? 6 : 4, ...one });
    }
    if (answers.length > 0) families[family] = natOf([...distinct.values()], answers, ownAddresses);
  }
  return {
    mappings: [...mappings.values()],
    nat: families[4] ?? families[6] ?? "udp-blocked",
    families,
  };
}

function natOf(
  distinct: readonly SocketAddress[],
  answers: readonly SocketAddress[],
  ownAddresses: readonly string[],
): NatClass {
  if (distinct.every(({ address }) => ownAddresses.includes(address))) return "none";
  return distinct.length === 1 && answers.length > 1
    ? "endpoint-independent"
    : "endpoint-dependent";
}

function interfaceAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((list) =>
    (list ?? []).flatMap(({ address }) => {
      const parsed = parseIpAddress(address);
      return parsed === undefined ? [] : [formatIpAddress(parsed)];
    }),
  );
}
