/**
 * Asks this network's router to let a UDP port in, by NAT-PMP (RFC 6886), for who has allowed it.
 *
 * Nothing is sent but to the default gateway, and nothing is believed but from it. UPnP is left out: it follows
 * addresses that anybody in the network may name.
 *
 * @module
 */
import { createSocket, type Socket } from "node:dgram";
import { readFile } from "node:fs/promises";

import { formatIpAddress } from "../../../relay/protocol/ip-address.ts";
import { isForbiddenAddress } from "./candidates.ts";
import type { SocketAddress } from "./datagram.ts";
import {
  PORT_MAPPING_DEADLINE_MS,
  PORT_MAPPING_LIFETIME_S,
  PORT_MAPPING_RENEW_MS_MIN,
  PORT_MAPPING_RETRY_MS,
} from "./limits.ts";

export interface PortMapping {
  /** Where the router lets in what goes to the port. */
  readonly external: SocketAddress;
  /** Takes it back, as far as the router listens. Repeated calls do nothing. */
  close(): Promise<void>;
}

const NAT_PMP_PORT = 5351;
const ANSWER = 0x80;
const EXTERNAL_ADDRESS = 0;
const MAP_UDP = 1;

/** What a router answered. `result` is 0 if it did what was asked. */
export type NatPmpAnswer =
  | { readonly kind: "address"; readonly result: number; readonly address: string }
  | {
      readonly kind: "mapping";
      readonly result: number;
      readonly internalPort: number;
      readonly externalPort: number;
      readonly lifetimeS: number;
    };

export function encodeAddressRequest(): Uint8Array {
  return Uint8Array.of(0, EXTERNAL_ADDRESS);
}

/** @param lifetimeS 0 takes the mapping back. */
export function encodeMapRequest(internalPort: number, externalPort: number, lifetimeS: number) {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint8(1, MAP_UDP);
  view.setUint16(4, internalPort);
  view.setUint16(6, externalPort);
  view.setUint32(8, lifetimeS);
  return new Uint8Array(view.buffer);
}

/** @returns Undefined for what is no answer to either. */
export function decodeNatPmp(bytes: Uint8Array): NatPmpAnswer | undefined {
  // A refusal may be shorter than the answer it stands for.
  if (bytes.length < 8 || bytes[0] !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const result = view.getUint16(2);
  if (bytes[1] === (ANSWER | EXTERNAL_ADDRESS)) {
    if (result === 0 && bytes.length !== 12) return undefined;
    const address = result === 0 ? formatIpAddress(bytes.subarray(8, 12)) : "";
    return { kind: "address", result, address };
  }
  if (bytes[1] !== (ANSWER | MAP_UDP) || (result === 0 && bytes.length !== 16)) return undefined;
  const field = (at: number): number => (result === 0 ? view.getUint16(at) : 0);
  const lifetimeS = result === 0 ? view.getUint32(12) : 0;
  return { kind: "mapping", result, internalPort: field(8), externalPort: field(10), lifetimeS };
}

/** @param routes `/proc/net/route`. @returns The gateway of the default route that is preferred. */
export function defaultGateway(routes: string): string | undefined {
  const found = routes
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter(([, destination, gateway = "", , , , , mask]) => {
      return destination === "00000000" && mask === "00000000" && /^[0-9A-F]{8}$/.test(gateway);
    })
    .toSorted((a, b) => Number(a[6]) - Number(b[6]));
  const [, , hex = ""] = found[0] ?? [];
  // In this host's order of bytes, which Linux has little-endian wherever we run.
  const bytes = Buffer.from(hex, "hex").toReversed();
  if (bytes.length !== 4) return undefined;
  const address = formatIpAddress(bytes);
  return isForbiddenAddress(address) ? undefined : address;
}

/**
 * @param gateway For a test. Default: this host's default gateway.
 * @returns Undefined if there is no gateway or it does not do it; takes at most 2 s.
 * @throws the signal's reason
 */
export async function mapPort(
  internalPort: number,
  signal?: AbortSignal,
  gateway?: SocketAddress,
): Promise<PortMapping | undefined> {
  const router = gateway ?? (await ownGateway());
  signal?.throwIfAborted();
  if (router === undefined) return undefined;
  const client = await NatPmpClient.open(router);
  try {
    const deadline = AbortSignal.timeout(PORT_MAPPING_DEADLINE_MS);
    const over = signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
    const seen = await client.ask(encodeAddressRequest(), "address", over);
    const mapping =
      seen?.result === 0
        ? await client.map(internalPort, internalPort, PORT_MAPPING_LIFETIME_S, over)
        : undefined;
    signal?.throwIfAborted();
    if (seen === undefined || mapping === undefined) {
      await client.close();
      return undefined;
    }
    return new LivePortMapping(client, internalPort, {
      external: { address: seen.address, port: mapping.externalPort },
      lifetimeS: mapping.lifetimeS,
    });
  } catch (error) {
    await client.close();
    throw error;
  }
}

async function ownGateway(): Promise<SocketAddress | undefined> {
  const routes = await readFile("/proc/net/route", "utf8").catch(() => "");
  const address = defaultGateway(routes);
  return address === undefined ? undefined : { address, port: NAT_PMP_PORT };
}

/** Renewed at half of its life for as long as it is open. */
class LivePortMapping implements PortMapping {
  readonly external: SocketAddress;
  readonly #client: NatPmpClient;
  readonly #internalPort: number;
  #timer: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;

  constructor(
    client: NatPmpClient,
    internalPort: number,
    { external, lifetimeS }: { readonly external: SocketAddress; readonly lifetimeS: number },
  ) {
    this.#client = client;
    this.#internalPort = internalPort;
    this.external = external;
    this.#renewAfter(lifetimeS);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    clearTimeout(this.#timer);
    const deadline = AbortSignal.timeout(PORT_MAPPING_DEADLINE_MS);
    await this.#client.map(this.#internalPort, 0, 0, deadline);
    await this.#client.close();
  }

  #renewAfter(lifetimeS: number): void {
    const ms = Math.max((lifetimeS * 1000) / 2, PORT_MAPPING_RENEW_MS_MIN);
    this.#timer = setTimeout(() => void this.#renew(), Math.min(ms, PORT_MAPPING_LIFETIME_S * 500));
    // It is no reason to keep the process.
    this.#timer.unref();
  }

  async #renew(): Promise<void> {
    const deadline = AbortSignal.timeout(PORT_MAPPING_DEADLINE_MS);
    const { port } = this.external;
    const lifetimeS = PORT_MAPPING_LIFETIME_S;
    const mapping = await this.#client.map(this.#internalPort, port, lifetimeS, deadline);
    if (this.#closing === undefined) this.#renewAfter(mapping?.lifetimeS ?? 0);
  }
}

class NatPmpClient {
  readonly #socket: Socket;
  #heard: ((answer: NatPmpAnswer) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("message", (bytes) => {
      const answer = decodeNatPmp(bytes);
      if (answer !== undefined) this.#heard?.(answer);
    });
    // A router without it says so by ICMP: the deadline has the same effect.
    socket.on("error", () => {});
  }

  /** A connected socket hears nobody else. */
  static async open({ address, port }: SocketAddress): Promise<NatPmpClient> {
    const socket = createSocket("udp4");
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.connect(port, address, () => {
        socket.off("error", reject);
        resolve();
      });
    });
    return new NatPmpClient(socket);
  }

  /** Asks again and again until `over`. @returns Undefined without an answer. */
  async ask<K extends NatPmpAnswer["kind"]>(
    request: Uint8Array,
    kind: K,
    over: AbortSignal,
  ): Promise<Extract<NatPmpAnswer, { kind: K }> | undefined> {
    const { promise, resolve } = Promise.withResolvers<
      Extract<NatPmpAnswer, { kind: K }> | undefined
    >();
    const timers = PORT_MAPPING_RETRY_MS.map((ms) => setTimeout(() => this.#send(request), ms));
    const giveUp = (): void => resolve(undefined);
    over.addEventListener("abort", giveUp, { once: true });
    if (over.aborted) giveUp();
    this.#heard = (answer) => {
      // The kind was compared, which the type system does not follow through a parameter.
      if (answer.kind === kind) resolve(answer as Extract<NatPmpAnswer, { kind: K }>);
    };
    try {
      this.#send(request);
      return await promise;
    } finally {
      for (const timer of timers) clearTimeout(timer);
      over.removeEventListener("abort", giveUp);
      this.#heard = undefined;
    }
  }

  /** @returns Undefined if the router refused, did not answer, or answered something else. */
  async map(internalPort: number, externalPort: number, lifetimeS: number, over: AbortSignal) {
    const request = encodeMapRequest(internalPort, externalPort, lifetimeS);
    const answer = await this.ask(request, "mapping", over);
    const isGood = answer?.result === 0 && answer.internalPort === internalPort;
    return isGood && (lifetimeS === 0 || answer.externalPort > 0) ? answer : undefined;
  }

  close(): Promise<void> {
    return new Promise((resolve) => this.#socket.close(() => resolve()));
  }

  #send(request: Uint8Array): void {
    try {
      this.#socket.send(request, () => {});
    } catch {
      // Asked again, or given up.
    }
  }
}
