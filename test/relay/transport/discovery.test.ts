import { createHmac, randomBytes } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";

import { afterEach, expect, test } from "vitest";

import {
  decodeDiscoveryResponse,
  encodeDiscoveryRequest,
} from "../../../relay/protocol/discovery.ts";
import { parseIpAddress } from "../../../relay/protocol/ip-address.ts";
import { DiscoveryTokens } from "../../../relay/transport/discovery-tokens.ts";
import {
  listenDiscovery,
  networkOf,
  type DiscoveryOptions,
  type DiscoveryServer,
} from "../../../relay/transport/discovery.ts";
import {
  DISCOVERY_ANSWERS_PER_NETWORK_BURST,
  DISCOVERY_ANSWERS_PER_TOKEN,
  DISCOVERY_TOKEN_LIFETIME_MS,
} from "../../../relay/transport/limits.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface World {
  readonly server: DiscoveryServer;
  readonly outcomes: string[];
  advance(ms: number): void;
}

async function world(options: Partial<DiscoveryOptions> = {}): Promise<World> {
  const outcomes: string[] = [];
  let nowMs = 0;
  const server = await listenDiscovery({
    host: "127.0.0.1",
    ports: [0, 0],
    count: (outcome) => outcomes.push(outcome),
    clock: () => nowMs,
    ...options,
  });
  closers.push(() => server.close());
  return { server, outcomes, advance: (ms) => (nowMs += ms) };
}

async function client(type: "udp4" | "udp6" = "udp4"): Promise<Socket> {
  const socket = createSocket(type);
  closers.push(() => new Promise<void>((resolve) => socket.close(() => resolve())));
  socket.bind(0, type === "udp4" ? "127.0.0.1" : "::1");
  await once(socket, "listening");
  return socket;
}

const mac = (key: Uint8Array, message: Uint8Array): Uint8Array =>
  createHmac("sha256", key).update(message).digest();

/** Sends and waits until the server has taken each of them. */
async function tell(
  { outcomes }: World,
  socket: Socket,
  port: number,
  datagrams: readonly Uint8Array[],
): Promise<string[]> {
  const host = socket.address().family === "IPv6" ? "::1" : "127.0.0.1";
  const told: string[] = [];
  for (const datagram of datagrams) {
    const before = outcomes.length;
    socket.send(datagram, port, host);
    while (outcomes.length === before) await new Promise((resolve) => setTimeout(resolve, 1));
    told.push(...outcomes.slice(before));
  }
  return told;
}

function request(token: Uint8Array): Uint8Array {
  return encodeDiscoveryRequest({ transactionId: randomBytes(12), token });
}

test("listenDiscovery() tells at both ports the address that it sees", async () => {
  const { server } = await world();
  const socket = await client();
  const { token } = server.hold();
  expect(server.ports[0]).not.toBe(server.ports[1]);
  for (const port of server.ports) {
    const transactionId = Uint8Array.from(randomBytes(12));
    const heard = once(socket, "message") as Promise<[Buffer]>;
    socket.send(encodeDiscoveryRequest({ transactionId, token }), port, "127.0.0.1");
    const [answer] = await heard;
    expect(decodeDiscoveryResponse(Uint8Array.from(answer), token, mac)).toEqual({
      transactionId,
      address: "127.0.0.1",
      port: socket.address().port,
    });
  }
});

test("listenDiscovery() at every address has one port in both families", async (ctx) => {
  const { server } = await world({ host: "" });
  let six: Socket;
  try {
    six = await client("udp6");
  } catch {
    ctx.skip("no IPv6 on this host");
    return;
  }
  const token = server.lend();
  for (const [socket, host] of [
    [await client("udp4"), "127.0.0.1"],
    [six, "::1"],
  ] as const) {
    const heard = once(socket, "message") as Promise<[Buffer]>;
    socket.send(request(token), server.ports[1], host);
    const [answer] = await heard;
    const told = decodeDiscoveryResponse(Uint8Array.from(answer), token, mac);
    expect(told).toMatchObject({ address: host, port: socket.address().port });
  }
});

test("listenDiscovery() is silent to what is no request, and to tokens that it did not give", async () => {
  const here = await world();
  const { server } = here;
  const socket = await client();
  let answers = 0;
  socket.on("message", () => answers++);
  const token = server.lend();
  const good = request(token);
  const longer = Uint8Array.of(...good, 0);
  const strange = [good.subarray(0, 127), longer, new Uint8Array(128), new Uint8Array()];
  expect(await tell(here, socket, server.ports[0], strange)).toEqual(Array(4).fill("malformed"));
  expect(await tell(here, socket, server.ports[0], [request(randomBytes(16)), good])).toEqual([
    "tokenUnknown",
    "answered",
  ]);
  while (answers === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  expect(answers).toBe(1);
});

test("listenDiscovery() gives a token so many answers, and a network so many", async () => {
  const here = await world();
  const { server } = here;
  const socket = await client();
  const many = (token: Uint8Array, count: number): Uint8Array[] =>
    Array.from({ length: count }, () => request(token));
  const count = (told: string[], outcome: string): number =>
    told.filter((one) => one === outcome).length;

  const { token } = server.hold();
  const told = await tell(
    here,
    socket,
    server.ports[0],
    many(token, DISCOVERY_ANSWERS_PER_TOKEN + 3),
  );
  expect(count(told, "answered")).toBe(DISCOVERY_ANSWERS_PER_TOKEN);
  expect(count(told, "tokenSpent")).toBe(3);
  // A peer that stays connected may ask again some day.
  here.advance(DISCOVERY_TOKEN_LIFETIME_MS);
  expect(await tell(here, socket, server.ports[0], many(token, 1))).toEqual(["answered"]);

  const flood: string[] = [];
  for (let i = 0; i * DISCOVERY_ANSWERS_PER_TOKEN < DISCOVERY_ANSWERS_PER_NETWORK_BURST + 10; i++) {
    const datagrams = many(server.lend(), DISCOVERY_ANSWERS_PER_TOKEN);
    flood.push(...(await tell(here, socket, server.ports[1], datagrams)));
  }
  expect(count(flood, "answered")).toBe(DISCOVERY_ANSWERS_PER_NETWORK_BURST - 1);
  expect(count(flood, "throttled")).toBeGreaterThan(0);
});

test("listenDiscovery() fails with everything closed if a port is taken", async () => {
  const { server } = await world();
  const [taken] = server.ports;
  await expect(
    listenDiscovery({ host: "127.0.0.1", ports: [0, taken], count: () => {} }),
  ).rejects.toMatchObject({ code: "EADDRINUSE" });
});

test("DiscoveryTokens keeps what is held, and forgets the oldest of too many", () => {
  let nowMs = 0;
  const tokens = new DiscoveryTokens(3, () => nowMs);
  const held = tokens.hold();
  nowMs = 2 * DISCOVERY_TOKEN_LIFETIME_MS;
  expect(tokens.has(held.token)).toBe(true);
  const lent = tokens.lend();
  held.release();
  held.release();
  nowMs += DISCOVERY_TOKEN_LIFETIME_MS - 1;
  expect(tokens.has(held.token) && tokens.has(lent)).toBe(true);
  nowMs += 1;
  expect(tokens.has(held.token) || tokens.has(lent)).toBe(false);
  const more = Array.from({ length: 5 }, () => tokens.lend());
  expect(tokens.size).toBe(3);
  expect(more.map((token) => tokens.has(token))).toEqual([false, false, true, true, true]);
});

test.each([
  ["203.0.113.7", "203.0.113/24"],
  ["::ffff:203.0.113.9", "203.0.113/24"],
  ["2001:db8:1:2ff:3::4", "2001:db8:1:200::/56"],
])("networkOf() counts %s as %s", (address, network) => {
  expect(networkOf(parseIpAddress(address) ?? new Uint8Array())).toBe(network);
});
