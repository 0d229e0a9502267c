import { randomBytes } from "node:crypto";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import type { Candidate } from "../../../../peer/net/paths/candidate.ts";
import type { DatagramSocket, SocketAddress } from "../../../../peer/net/paths/datagram.ts";
import { punch } from "../../../../peer/net/paths/punch.ts";

/** Sockets and routers of a network that takes 10 ms each way. */
class Network {
  readonly #listeners = new Map<string, (bytes: Uint8Array, from: SocketAddress) => void>();
  sent = 0;

  /** @param keepsPort Whether the router comes from one port for all destinations. Undefined: no router. */
  host(address: string, keepsPort?: boolean): DatagramSocket & { readonly outside: string } {
    const opened = new Set<string>();
    let nextPort = 1_000;
    const ports = new Map<string, number>();
    const portTo = (to: SocketAddress): number => {
      if (keepsPort !== false) return 4_000;
      const key = `${to.address}:${to.port}`;
      if (!ports.has(key)) ports.set(key, ++nextPort);
      return ports.get(key) ?? 0;
    };
    const socket = {
      port: 4_000,
      outside: address,
      onDatagram: undefined as DatagramSocket["onDatagram"],
      send: (bytes: Uint8Array, to: SocketAddress): void => {
        this.sent++;
        const from = { address, port: portTo(to) };
        opened.add(`${from.port} ${to.address}:${to.port}`);
        this.#listeners.set(`${address}:${from.port}`, (data, sender) => {
          const known = opened.has(`${from.port} ${sender.address}:${sender.port}`);
          if (keepsPort === undefined || known) socket.onDatagram?.(data, sender);
        });
        const copy = bytes.slice();
        setTimeout(() => this.#listeners.get(`${to.address}:${to.port}`)?.(copy, from), 10);
      },
    };
    this.#listeners.set(`${address}:4000`, (data, sender) => {
      if (keepsPort === undefined) socket.onDatagram?.(data, sender);
    });
    return socket;
  }
}

const at = (address: string): Candidate => ({ kind: "reflexive", address, port: 4_000 });
const key = new Uint8Array(32).fill(7);
const signal = new AbortController().signal;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

async function both(
  network: Network,
  seeder: DatagramSocket & { readonly outside: string },
  leecher: DatagramSocket & { readonly outside: string },
  keys = { seeder: key, leecher: key },
): Promise<[Awaited<ReturnType<typeof punch>>, Awaited<ReturnType<typeof punch>>]> {
  const results = Promise.all([
    punch({
      role: "seeder",
      key: keys.seeder,
      socket: seeder,
      candidates: [at(leecher.outside)],
      signal,
    }),
    punch({
      role: "leecher",
      key: keys.leecher,
      socket: leecher,
      candidates: [at(seeder.outside)],
      signal,
    }),
  ]);
  await vi.advanceTimersByTimeAsync(10_000);
  return await results;
}

test("two routers that keep their port let each other in, and the round trip is known", async () => {
  const network = new Network();
  const [one, other] = await both(
    network,
    network.host("203.0.113.1", true),
    network.host("203.0.113.2", true),
  );
  expect(one?.remote).toEqual({ address: "203.0.113.2", port: 4_000 });
  expect(other?.remote).toEqual({ address: "203.0.113.1", port: 4_000 });
  expect(other?.rttMs).toBeGreaterThanOrEqual(20);
  expect(other?.rttMs).toBeLessThan(40);
});

test("a host without a router is reached from a port that nobody could know", async () => {
  const network = new Network();
  const [one, other] = await both(
    network,
    network.host("203.0.113.1"),
    network.host("203.0.113.2", false),
  );
  expect(one?.remote.address).toBe("203.0.113.2");
  expect(one?.remote.port).not.toBe(4_000);
  expect(other?.remote).toEqual({ address: "203.0.113.1", port: 4_000 });
});

test("a router with a port for each destination and one that keeps its own find no way", async () => {
  const network = new Network();
  const results = await both(
    network,
    network.host("203.0.113.1", true),
    network.host("203.0.113.2", false),
  );
  expect(results).toEqual([undefined, undefined]);
  // 100 rounds at most of one candidate each, on each side, and no answer to anybody.
  expect(network.sent).toBeLessThanOrEqual(2 * 101);
});

test("who does not hold the attempt's key is not heard, and gets no answer", async () => {
  const network = new Network();
  const results = await both(
    network,
    network.host("203.0.113.1", true),
    network.host("203.0.113.2", true),
    { seeder: key, leecher: new Uint8Array(32).fill(8) },
  );
  expect(results).toEqual([undefined, undefined]);
  expect(network.sent).toBeLessThanOrEqual(2 * 101);
});

test("garbage, and one's own probes sent back, do nothing", async () => {
  const network = new Network();
  const socket = network.host("203.0.113.1");
  const result = punch({
    role: "leecher",
    key,
    socket,
    candidates: [at("203.0.113.9")],
    signal,
  });
  const mirror = network.host("203.0.113.9");
  mirror.onDatagram = (bytes, from) => {
    mirror.send(bytes, from);
    mirror.send(randomBytes(bytes.length), from);
    mirror.send(bytes.subarray(1), from);
  };
  await vi.advanceTimersByTimeAsync(10_000);
  expect(await result).toBeUndefined();
});

test("it ends at once when it is not wanted any more", async () => {
  const network = new Network();
  const stop = new AbortController();
  const result = punch({
    role: "leecher",
    key,
    socket: network.host("203.0.113.1"),
    candidates: [at("203.0.113.2")],
    signal: stop.signal,
  });
  const caught = result.catch((error: unknown) => error);
  stop.abort(new Error("enough"));
  expect(await caught).toEqual(new Error("enough"));
  const before = network.sent;
  await vi.advanceTimersByTimeAsync(1_000);
  expect(network.sent).toBe(before);
});

/** Where another's word must aim nobody. */
const FORBIDDEN = [
  "127.0.0.1",
  "::1",
  "::ffff:127.0.0.1",
  "169.254.169.254",
  "::ffff:169.254.169.254",
  "fe80::1",
  "224.0.0.1",
  "ff02::1",
  "0.0.0.0",
  "::",
  "255.255.255.255",
  "64:ff9b::7f00:1",
];

test("no datagram goes to a forbidden address, or to more than eight that were named", async () => {
  for (const role of ["seeder", "leecher"] as const) {
    const sent = new Set<string>();
    const socket: DatagramSocket = {
      port: 4_000,
      onDatagram: undefined,
      send: (_bytes, to) => void sent.add(to.address),
    };
    const allowed = Array.from({ length: 12 }, (_, i) => at(`203.0.113.${i + 1}`));
    const candidates = [...FORBIDDEN.map(at), ...allowed];
    const result = punch({ role, key, socket, candidates, signal });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(await result).toBeUndefined();
    expect([...sent]).toEqual(allowed.slice(0, 8).map(({ address }) => address));
  }
});

test("a probe of the other peer with a forged sender is not answered at a forbidden address", async () => {
  const probes: Uint8Array[] = [];
  const recording: DatagramSocket = {
    port: 4_000,
    onDatagram: undefined,
    send: (bytes) => void probes.push(bytes.slice()),
  };
  const [there, here] = [new AbortController(), new AbortController()];
  const options = { key, candidates: [at("203.0.113.1")] };
  const other = { ...options, role: "leecher", socket: recording, signal: there.signal } as const;
  void punch(other).catch(() => undefined);
  await vi.advanceTimersByTimeAsync(200);
  there.abort(new Error("recorded"));
  const sent: string[] = [];
  const socket: DatagramSocket = {
    port: 4_000,
    onDatagram: undefined,
    send: (_bytes, to) => void sent.push(to.address),
  };
  void punch({ ...options, candidates: [], role: "seeder", socket, signal: here.signal }).catch(
    () => undefined,
  );
  for (const address of FORBIDDEN) {
    for (const probe of probes) socket.onDatagram?.(probe, { address, port: 7 });
  }
  await vi.advanceTimersByTimeAsync(200);
  expect(sent).toEqual([]);
  socket.onDatagram?.(probes[0] ?? new Uint8Array(), { address: "203.0.113.9", port: 7 });
  await vi.advanceTimersByTimeAsync(200);
  expect(new Set(sent)).toEqual(new Set(["203.0.113.9"]));
  here.abort(new Error("over"));
});
