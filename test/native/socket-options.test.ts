import { createSocket } from "node:dgram";
import { once } from "node:events";
import { openSync, closeSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { loadNative } from "../../native/index.ts";

const native = loadNative();

/** Not part of any API; it is how peers find it too. */
function descriptorOf(socket: object): number {
  const handle = Reflect.get(socket, "_handle") as { readonly fd: number };
  return handle.fd;
}

async function connection(): Promise<Socket> {
  const server = createServer((socket) => socket.resume());
  await once(server.listen(0, "127.0.0.1"), "listening");
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  onTestFinished(() => {
    socket.destroy();
    server.close();
  });
  await once(socket, "connect");
  return socket;
}

test("setCongestionControl() puts one in force, or says why not and changes nothing", async () => {
  const fd = descriptorOf(await connection());
  expect(native.setCongestionControl(fd, "reno")).toBeNull();
  expect(native.socketFacts(fd)).toMatchObject({ congestionControl: "reno" });
  expect(native.setCongestionControl(fd, "no-such")).toMatch(/no-such/);
  expect(native.socketFacts(fd)).toMatchObject({ congestionControl: "reno" });
  expect(() => native.setCongestionControl(fd, "a name that no kernel has")).toThrow(TypeError);
});

test("socketFacts() tells of a TCP connection, and nothing of anything else", async () => {
  const socket = await connection();
  await new Promise((resolve) => socket.write(new Uint8Array(1 << 20), resolve));
  const facts = native.socketFacts(descriptorOf(socket));
  expect(facts?.rttMs).toBeGreaterThan(0);
  expect(facts?.windowBytes).toBeGreaterThan(0);
  expect(facts?.segmentBytes).toBeGreaterThan(0);
  const file = openSync("/dev/null", "r");
  onTestFinished(() => closeSync(file));
  expect(native.socketFacts(file)).toBeNull();
  expect(native.setCongestionControl(file, "bbr")).toMatch(/socket/i);
  expect(native.setUnsentBytesMax(file, 1024)).toBe(false);
  expect(native.setSocketBuffers(file, { receive: 1024 }).receive).toBeLessThan(0);
});

test("setUnsentBytesMax() bounds what TCP holds back", async () => {
  expect(native.setUnsentBytesMax(descriptorOf(await connection()), 64 * 1024)).toBe(true);
});

test("datagramSockets() finds a UDP socket, whose buffers setSocketBuffers() raises and never lowers", async () => {
  const before = new Set(native.datagramSockets());
  const socket = createSocket("udp4");
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const found = native.datagramSockets().filter((fd) => !before.has(fd));
  expect(found).toHaveLength(1);
  const fd = found[0] ?? -1;
  const as = native.setSocketBuffers(fd, {});
  const raised = native.setSocketBuffers(fd, { receive: as.receive + 65_536 });
  // As far as this user may.
  expect(raised.receive).toBeGreaterThanOrEqual(as.receive);
  expect(native.setSocketBuffers(fd, { receive: 4096 }).receive).toBe(raised.receive);
  socket.close();
});
