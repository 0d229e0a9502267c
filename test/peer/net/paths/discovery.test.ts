import { randomBytes } from "node:crypto";

import { afterEach, expect, test, vi } from "vitest";

import type { DatagramSocket, SocketAddress } from "../../../../peer/net/paths/datagram.ts";
import { dgramSocket } from "../../../../peer/net/paths/dgram-socket.ts";
import { discover, type DiscoverOptions } from "../../../../peer/net/paths/discovery.ts";
import { DISCOVERY_DEADLINE_MS } from "../../../../peer/net/paths/limits.ts";
import {
  decodeDiscoveryRequest,
  encodeDiscoveryResponse,
  type DiscoveryRequest,
} from "../../../../relay/protocol/discovery.ts";
import { listenDiscovery } from "../../../../relay/transport/discovery.ts";
import { discoveryMac as mac } from "../../../fixtures/relay-recordings.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const close of closers.splice(0).reverse()) await close();
});

const RELAY = "198.51.100.1";
const token = new Uint8Array(16).fill(3);
const options: DiscoverOptions = {
  relays: [RELAY],
  ports: [3478, 3479],
  token,
  ownAddresses: ["192.168.1.2", "2001:db8::2"],
};

/** What a socket's datagrams meet; answers come by `deliver`. */
class FakeSocket implements DatagramSocket {
  readonly port = 40_000;
  onDatagram: DatagramSocket["onDatagram"];
  readonly sent: SocketAddress[] = [];
  readonly #network: (request: DiscoveryRequest, to: SocketAddress, socket: FakeSocket) => void;

  constructor(network: (request: DiscoveryRequest, to: SocketAddress, socket: FakeSocket) => void) {
    this.#network = network;
  }

  send(bytes: Uint8Array, to: SocketAddress): void {
    this.sent.push(to);
    const request = decodeDiscoveryRequest(bytes);
    if (request === undefined) throw new Error("no request");
    queueMicrotask(() => this.#network(request, to, this));
  }

  deliver(bytes: Uint8Array, from: SocketAddress): void {
    this.onDatagram?.(bytes, from);
  }
}

/** A network in which the relay sees what `seen` says; undefined loses the datagram. */
function network(seen: (to: SocketAddress) => SocketAddress | undefined): FakeSocket {
  return new FakeSocket(({ transactionId }, to, socket) => {
    const address = seen(to);
    if (address === undefined) return;
    socket.deliver(encodeDiscoveryResponse({ transactionId, ...address }, token, mac), to);
  });
}

test("discover() tells no NAT by this host's own address", async () => {
  const socket = network(() => ({ address: "192.168.1.2", port: 40_000 }));
  expect(await discover(socket, options)).toEqual({
    mappings: [{ family: 4, address: "192.168.1.2", port: 40_000 }],
    nat: "none",
    families: { 4: "none" },
  });
  expect(socket.sent).toHaveLength(2);
});

test("discover() tells a mapping that stays from one that depends on the port asked", async () => {
  const stays = network(() => ({ address: "203.0.113.7", port: 50_000 }));
  expect(await discover(stays, options)).toMatchObject({ nat: "endpoint-independent" });
  const depends = network(({ port }) => ({ address: "203.0.113.7", port: 50_000 + port }));
  expect(await discover(depends, options)).toMatchObject({
    nat: "endpoint-dependent",
    mappings: [{ port: 53_478 }, { port: 53_479 }],
  });
});

test("discover() believes IPv4 of the NAT, and IPv6 where there is nothing else", async () => {
  const both = { ...options, relays: [RELAY, "2001:db8:ffff::1"] };
  const six = { address: "2001:db8::2", port: 40_000 };
  const socket = network(({ address }) =>
    address === RELAY ? { address: "203.0.113.7", port: 50_000 } : six,
  );
  expect(await discover(socket, both)).toEqual({
    nat: "endpoint-independent",
    families: { 4: "endpoint-independent", 6: "none" },
    mappings: [
      { family: 4, address: "203.0.113.7", port: 50_000 },
      { family: 6, ...six },
    ],
  });
  vi.useFakeTimers();
  const found = discover(
    network(({ address }) => (address === RELAY ? undefined : six)),
    both,
  );
  await vi.advanceTimersByTimeAsync(DISCOVERY_DEADLINE_MS);
  expect(await found).toMatchObject({ nat: "none", families: { 6: "none" } });
});

test("discover() asks again what was lost, and gives up in time", async () => {
  vi.useFakeTimers();
  let lost = 2;
  const lossy = network(() => (lost-- > 0 ? undefined : { address: "203.0.113.7", port: 5 }));
  const found = discover(lossy, options);
  await vi.advanceTimersByTimeAsync(100);
  expect(await found).toMatchObject({ nat: "endpoint-independent" });

  const blocked = network(() => undefined);
  const nothing = discover(blocked, options);
  await vi.advanceTimersByTimeAsync(DISCOVERY_DEADLINE_MS);
  expect(await nothing).toEqual({ mappings: [], nat: "udp-blocked", families: {} });
  expect(blocked.sent).toHaveLength(8);
  expect(vi.getTimerCount()).toBe(0);

  // One port alone does not tell how the mapping behaves.
  const half = discover(
    network(({ port }) => (port === 3478 ? { address: "203.0.113.7", port: 5 } : undefined)),
    options,
  );
  await vi.advanceTimersByTimeAsync(DISCOVERY_DEADLINE_MS);
  expect(await half).toMatchObject({ nat: "endpoint-dependent" });
});

test("discover() believes nothing from elsewhere, of another transaction, or under another token", async () => {
  vi.useFakeTimers();
  const lie = { address: "10.6.6.6", port: 666 };
  const socket = new FakeSocket(({ transactionId }, to, self) => {
    const answer = (id: Uint8Array, key: Uint8Array): Uint8Array =>
      encodeDiscoveryResponse({ transactionId: id, ...lie }, key, mac);
    const good = answer(transactionId, token);
    self.deliver(good, { ...to, address: "198.51.100.2" });
    self.deliver(good, { ...to, port: to.port + 2 });
    self.deliver(answer(Uint8Array.from(randomBytes(12)), token), to);
    self.deliver(answer(transactionId, new Uint8Array(16)), to);
    self.deliver(good.subarray(0, -1), to);
  });
  const found = discover(socket, options);
  await vi.advanceTimersByTimeAsync(DISCOVERY_DEADLINE_MS);
  expect(await found).toMatchObject({ mappings: [], nat: "udp-blocked" });
});

test("discover() hands on what is not for it, and gives the socket back", async () => {
  const heard: number[] = [];
  const others = (bytes: Uint8Array): void => void heard.push(bytes.length);
  const socket = new FakeSocket(({ transactionId }, to, self) => {
    self.deliver(new Uint8Array(9), to);
    const seen = { address: "203.0.113.7", port: 5 };
    self.deliver(encodeDiscoveryResponse({ transactionId, ...seen }, token, mac), to);
  });
  socket.onDatagram = others;
  await discover(socket, options);
  expect(heard).toEqual([9, 9]);
  expect(socket.onDatagram).toBe(others);

  const controller = new AbortController();
  const silent = new FakeSocket(() => {});
  const asked = discover(silent, options, controller.signal);
  controller.abort(new Error("no more"));
  await expect(asked).rejects.toThrow("no more");
  expect(silent.onDatagram).toBeUndefined();
  await expect(discover(silent, options, controller.signal)).rejects.toThrow("no more");
});

test("discover() asks only a few of many addresses, and none that is no address", async () => {
  vi.useFakeTimers();
  const many = Array.from({ length: 100 }, (_, i) => `198.51.100.${i}`);
  const socket = network(() => undefined);
  const found = discover(socket, { ...options, relays: ["localhost", ...many, RELAY] });
  await vi.advanceTimersByTimeAsync(DISCOVERY_DEADLINE_MS);
  await found;
  expect(new Set(socket.sent.map(({ address }) => address)).size).toBe(2);
});

test("discover() over dgramSocket() finds its address at a real relay", async () => {
  const server = await listenDiscovery({ host: "127.0.0.1", ports: [0, 0], count: () => {} });
  closers.push(() => server.close());
  await using socket = await dgramSocket();
  const found = await discover(socket, {
    relays: ["127.0.0.1"],
    ports: server.ports,
    token: server.lend(),
  });
  expect(found).toEqual({
    mappings: [{ family: 4, address: "127.0.0.1", port: socket.port }],
    nat: "none",
    families: { 4: "none" },
  });
});

test("dgramSocket() sends what it can and loses the rest", async () => {
  await using one = await dgramSocket();
  await using other = await dgramSocket();
  const heard = Promise.withResolvers<[Uint8Array, SocketAddress]>();
  other.onDatagram = (bytes, from) => heard.resolve([Uint8Array.from(bytes), from]);
  one.send(Uint8Array.of(1), { address: "nowhere", port: 1 });
  one.send(Uint8Array.of(2), { address: "127.0.0.1", port: 0 });
  one.send(Uint8Array.of(3), { address: "127.0.0.1", port: other.port });
  expect(await heard.promise).toEqual([Uint8Array.of(3), { address: "127.0.0.1", port: one.port }]);
  await one.close();
  await one.close();
  one.send(Uint8Array.of(4), { address: "127.0.0.1", port: other.port });
});
