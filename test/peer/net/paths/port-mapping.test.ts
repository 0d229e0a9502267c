import { createSocket, type RemoteInfo } from "node:dgram";
import { once } from "node:events";

import fc from "fast-check";
import { afterEach, expect, test, vi } from "vitest";

import type { SocketAddress } from "../../../../peer/net/paths/datagram.ts";
import {
  decodeNatPmp,
  defaultGateway,
  encodeAddressRequest,
  encodeMapRequest,
  mapPort,
} from "../../../../peer/net/paths/port-mapping.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

type Reply = (request: Buffer) => readonly number[] | undefined;

/** A router by hand; undefined is silence. */
async function router(
  reply: Reply,
): Promise<{ address: SocketAddress; asked: Buffer[]; from: RemoteInfo[] }> {
  const socket = createSocket("udp4");
  const asked: Buffer[] = [];
  const from: RemoteInfo[] = [];
  socket.on("message", (bytes, remote) => {
    asked.push(bytes);
    from.push(remote);
    const answer = reply(bytes);
    if (answer !== undefined) socket.send(Uint8Array.from(answer), remote.port, remote.address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  closers.push(() => new Promise<void>((resolve) => socket.close(() => resolve())));
  return { address: { address: "127.0.0.1", port: socket.address().port }, asked, from };
}

const seen = [0, 128, 0, 0, 0, 0, 0, 1, 203, 0, 113, 7];
/** Lets the port in at 50,000 for so long. */
const granted = (request: Buffer, lifetimeS: number): number[] => {
  const head = [0, 129, 0, 0, 0, 0, 0, 1, request[4] ?? 0, request[5] ?? 0, 0xc3, 0x50];
  return head.concat(0, 0, lifetimeS >> 8, lifetimeS & 0xff);
};
const isAddress = (request: Buffer): boolean => request.length === 2;

test("mapPort() asks for the address and the port, and takes it back", async () => {
  const gateway = await router((request) =>
    isAddress(request) ? seen : granted(request, request.readUInt32BE(8)),
  );
  const mapping = await mapPort(40_000, undefined, gateway.address);
  expect(mapping?.external).toEqual({ address: "203.0.113.7", port: 50_000 });
  await mapping?.close();
  await mapping?.close();
  expect(gateway.asked.map((bytes) => bytes.toString("hex"))).toEqual([
    "0000",
    "00010000" + "9c409c40" + "00000e10",
    "00010000" + "9c400000" + "00000000",
  ]);
});

test("mapPort() asks again what was lost, and renews what it has", async () => {
  let lost = 1;
  const gateway = await router((request) => {
    if (lost-- > 0) return undefined;
    return isAddress(request) ? seen : granted(request, 1);
  });
  const mapping = await mapPort(40_000, undefined, gateway.address);
  expect(mapping).toBeDefined();
  closers.push(() => mapping?.close());
  const count = gateway.asked.length;
  await vi.waitFor(() => expect(gateway.asked.length).toBeGreaterThan(count), { timeout: 15_000 });
  // For the port that it has.
  expect(gateway.asked.at(-1)?.readUInt16BE(6)).toBe(50_000);
});

test.each<[string, Reply]>([
  ["says nothing", () => undefined],
  ["refuses its address", () => [0, 128, 0, 2, 0, 0, 0, 1]],
  ["refuses the port", (r) => (isAddress(r) ? seen : [0, 129, 0, 2, 0, 0, 0, 1])],
  ["speaks another version", () => [2, 128, 0, 1, 0, 0, 0, 1]],
  ["lets another port in", (r) => (isAddress(r) ? seen : granted(Buffer.alloc(12), 60))],
  ["answers too much", (r) => (isAddress(r) ? [...seen, 0] : granted(r, 60))],
])("mapPort() does without a router that %s", async (_name, reply) => {
  const gateway = await router(reply);
  expect(await mapPort(40_000, undefined, gateway.address)).toBeUndefined();
});

test("mapPort() gives up when it is told to", async () => {
  const gateway = await router(() => undefined);
  const controller = new AbortController();
  const mapping = mapPort(40_000, controller.signal, gateway.address);
  controller.abort(new Error("no more"));
  await expect(mapping).rejects.toThrow("no more");
});

test("decodeNatPmp() takes what a router says, and nothing else, and never throws", () => {
  expect(decodeNatPmp(Uint8Array.from(seen))).toEqual({
    kind: "address",
    result: 0,
    address: "203.0.113.7",
  });
  expect(decodeNatPmp(encodeAddressRequest())).toBeUndefined();
  expect(decodeNatPmp(encodeMapRequest(1, 1, 1))).toBeUndefined();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 20 }), (bytes) => {
      const answer = decodeNatPmp(bytes);
      if (answer !== undefined) expect([128, 129]).toContain(bytes[1]);
      if (answer?.result === 0) expect(bytes.length).toBe(answer.kind === "address" ? 12 : 16);
    }),
    { numRuns: 2_000 },
  );
});

test("defaultGateway() reads the kernel's routes", () => {
  const head =
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
  const line = (destination: string, gateway: string, metric: number, mask = "00000000"): string =>
    `eth0\t${destination}\t${gateway}\t0003\t0\t0\t${metric}\t${mask}\t0\t0\t0\n`;
  const lan = line("0001A8C0", "00000000", 100, "00FFFFFF");
  const wifi = line("00000000", "0101A8C0", 600);
  const cable = line("00000000", "FE01A8C0", 100);
  expect(defaultGateway(head + lan + wifi + cable)).toBe("192.168.1.254");
  expect(defaultGateway(head + lan)).toBeUndefined();
  expect(defaultGateway("")).toBeUndefined();
  // A point-to-point link has no gateway, and nobody asks itself.
  expect(defaultGateway(head + line("00000000", "00000000", 0))).toBeUndefined();
  expect(defaultGateway(head + line("00000000", "0100007F", 0))).toBeUndefined();
});
