/** The direct connection on real sockets, with somebody in between who loses, repeats, changes and forges. */
import { randomBytes } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import type { AddressInfo } from "node:net";

import { describe, expect, onTestFinished, test } from "vitest";

import { DirectSocket } from "../../peer/net/paths/direct-socket.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";

const MIB = 1024 * 1024;

const keys = { forth: randomBytes(32), back: randomBytes(32) };

function open(): DirectSocket {
  const socket = new DirectSocket();
  onTestFinished(() => socket.close("OK", "the test is over"));
  return socket;
}

/** Two that are connected, each by way of `via` if there is somebody in between. */
function connected(
  via: { readonly near?: number; readonly far?: number } = {},
  changed: Partial<typeof keys> = {},
): [near: DirectSocket, far: DirectSocket] {
  const [near, far] = [open(), open()];
  const { forth, back } = keys;
  const common = { address: "127.0.0.1", id: 42, rttUs: 1_000 };
  near.connect({ ...common, port: via.near ?? far.port, sendKey: forth, receiveKey: back });
  far.connect({
    ...common,
    port: via.far ?? near.port,
    sendKey: changed.back ?? back,
    receiveKey: changed.forth ?? forth,
  });
  return [near, far];
}

async function readAll(stream: ByteStream): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (let part = await stream.read(); part !== null; part = await stream.read()) parts.push(part);
  return Buffer.concat(parts);
}

async function writeAll(stream: ByteStream, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += 65_536) {
    await stream.write(bytes.subarray(at, at + 65_536));
  }
  await stream.end();
}

/** Does something with each datagram between the two: `pass` sends it on. */
async function inBetween(
  treat: (bytes: Buffer, pass: (bytes: Uint8Array) => void) => void,
): Promise<{ readonly near: number; readonly far: number; join(near: number, far: number): void }> {
  const sides = [createSocket("udp4"), createSocket("udp4")] as const;
  const ports = { near: 0, far: 0 };
  for (const side of sides) {
    side.bind(0, "127.0.0.1");
    await once(side, "listening");
    onTestFinished(() => void side.close());
  }
  const [near, far] = sides;
  const wire = (from: Socket, to: Socket, port: () => number): void => {
    from.on("message", (bytes) => treat(bytes, (passed) => to.send(passed, port(), "127.0.0.1")));
  };
  wire(near, far, () => ports.far);
  wire(far, near, () => ports.near);
  const portOf = (side: Socket): number => (side.address() as AddressInfo).port;
  return {
    near: portOf(near),
    far: portOf(far),
    join: (nearPort, farPort) => Object.assign(ports, { near: nearPort, far: farPort }),
  };
}

async function through(
  treat: (bytes: Buffer, pass: (bytes: Uint8Array) => void) => void,
): Promise<[near: DirectSocket, far: DirectSocket]> {
  const middle = await inBetween(treat);
  const pair = connected({ near: middle.near, far: middle.far });
  middle.join(pair[0].port, pair[1].port);
  return pair;
}

test("streams carry bytes both ways, whole and in order, beside each other", async () => {
  const [near, far] = connected();
  const contents = Array.from({ length: 6 }, (_, i) => randomBytes(i * 777_777));
  const sent = contents.map((bytes, i) => writeAll(near.stream(i), bytes));
  const back = contents.map((bytes, i) => writeAll(far.stream(i), bytes));
  const received = await Promise.all(contents.map((_, i) => readAll(far.stream(i))));
  const returned = await Promise.all(contents.map((_, i) => readAll(near.stream(i))));
  await Promise.all([...sent, ...back]);
  for (const [i, content] of contents.entries()) {
    expect(received[i]?.equals(content)).toBe(true);
    expect(returned[i]?.equals(content)).toBe(true);
  }
  expect(near.stats().packetBytes, "finds out that larger packets pass").toBeGreaterThan(1_200);
});

test("what the network loses, repeats and overtakes arrives once and in order", async () => {
  let count = 0;
  const held: (() => void)[] = [];
  const [near, far] = await through((bytes, pass) => {
    count++;
    if (count % 23 === 0) return;
    if (count % 17 === 0) pass(bytes);
    if (count % 11 === 0) held.push(() => pass(bytes));
    else pass(bytes);
    if (held.length > 4) for (const late of held.splice(0)) late();
  });
  const content = randomBytes(4 * MIB);
  const sending = writeAll(near.stream(2), content);
  expect((await readAll(far.stream(2))).equals(content)).toBe(true);
  await sending;
  expect(near.stats().packetsLost).toBeGreaterThan(0);
  expect(far.stats().packetsRefused, "the repeated ones").toBeGreaterThan(0);
});

test("packets that were changed, cut, forged or recorded change nothing", async () => {
  const recorded: Buffer[] = [];
  let count = 0;
  const [near, far] = await through((bytes, pass) => {
    count++;
    if (recorded.length < 50) recorded.push(Buffer.from(bytes));
    const changed = Buffer.from(bytes);
    const at = count % changed.length;
    changed[at] = (changed[at] ?? 0) ^ 0x40;
    pass(changed);
    pass(bytes.subarray(0, count % bytes.length));
    pass(Buffer.concat([Buffer.from([0xd7, 0x01]), randomBytes(200)]));
    pass(recorded[count % recorded.length] ?? bytes);
    pass(bytes);
  });
  const content = randomBytes(MIB);
  const sending = writeAll(near.stream(2), content);
  expect((await readAll(far.stream(2))).equals(content)).toBe(true);
  await sending;
  expect(far.stats().packetsRefused).toBeGreaterThan(100);
});

test("a side that holds other keys is silence, and ends with that", async () => {
  const [near, far] = connected({}, { forth: randomBytes(32) });
  const [here, there] = [near.stream(0), far.stream(0)];
  const reading = there.read();
  await here.write(Buffer.from("hello"));
  await expect(reading).rejects.toMatchObject({ code: "DEADLINE_EXCEEDED" });
  await expect(here.read()).rejects.toMatchObject({ code: "DEADLINE_EXCEEDED" });
});

test("a connection that is cut is over on both sides within four seconds", async () => {
  let cut = false;
  const [near, far] = await through((bytes, pass) => {
    if (!cut) pass(bytes);
  });
  await near.stream(0).write(Buffer.from("hello"));
  expect(Buffer.from((await far.stream(0).read()) ?? []).toString()).toBe("hello");
  cut = true;
  const both = await Promise.all([near.stream(0).closed, far.stream(0).closed]);
  expect(both.map(({ code }) => code)).toEqual(["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]);
});

test("a path that is dark for two seconds goes on where it stopped", async () => {
  let dark = false;
  const [near, far] = await through((bytes, pass) => {
    if (!dark) pass(bytes);
  });
  const content = randomBytes(8 * MIB);
  const sending = writeAll(near.stream(2), content);
  const receiving = readAll(far.stream(2));
  setTimeout(() => (dark = true), 20);
  setTimeout(() => (dark = false), 2_000);
  expect((await receiving).equals(content)).toBe(true);
  await sending;
});

test("a peer that comes from another address is followed, one who repeats its packets is not", async () => {
  const [near, far] = [open(), open()];
  const middle = await inBetween((bytes, pass) => pass(bytes));
  middle.join(near.port, far.port);
  const { forth, back } = keys;
  const common = { address: "127.0.0.1", id: 1, rttUs: 1_000 };
  // One side believes the other behind `middle`, and is found to be there itself.
  near.connect({ ...common, port: middle.near, sendKey: forth, receiveKey: back });
  far.connect({ ...common, port: 9, sendKey: back, receiveKey: forth });
  await near.stream(0).write(Buffer.from("here"));
  expect(Buffer.from((await far.stream(0).read()) ?? []).toString()).toBe("here");
  await far.stream(0).write(Buffer.from("there"));
  expect(Buffer.from((await near.stream(0).read()) ?? []).toString()).toBe("there");
  expect(far.stats().port).toBe(middle.far);
});

test("a writer that waits is woken although another one did not have to wait", async () => {
  const [near, far] = connected();
  const stream = near.stream(2);
  const reading = readAll(far.stream(2));
  let written = 0;
  for (let round = 0; round < 60; round++) {
    const sizes = [700_000, 1, 90_000, 5, 300_000, 1];
    const waiting = sizes.map(async (size, i) => {
      // So that some come while the stream drains, between too much and little.
      for (let turn = 0; turn < (round * i) % 7; turn++) await new Promise(setImmediate);
      await stream.write(new Uint8Array(size));
      written += size;
    });
    await Promise.all(waiting);
  }
  await stream.end();
  expect((await reading).length).toBe(written);
});

test("a sender that nobody reads from is stopped, and its neighbours go on", async () => {
  const [near, far] = connected();
  let written = 0;
  const piece = new Uint8Array(256 * 1024);
  const flood = (async () => {
    for (;;) {
      await near.stream(2).write(piece);
      written += piece.length;
    }
  })().catch(() => undefined);
  const content = randomBytes(4 * MIB);
  const sending = writeAll(near.stream(3), content);
  expect((await readAll(far.stream(3))).equals(content)).toBe(true);
  await sending;
  const before = written;
  await writeAll(near.stream(1), randomBytes(MIB));
  await readAll(far.stream(1));
  expect(written - before).toBeLessThan(MIB);
  expect(written).toBeLessThan(32 * MIB);
  await near.close("OK", "enough");
  await flood;
});

describe("bad calls", () => {
  test("are refused by name", () => {
    const socket = open();
    const options = { port: 1, id: 1, rttUs: 1, sendKey: keys.forth, receiveKey: keys.back };
    expect(() =>
      socket.connect({ ...options, address: "127.0.0.1", sendKey: new Uint8Array(5) }),
    ).toThrow(/32 bytes/);
    expect(socket.connect({ ...options, address: "nowhere" })).toBe(false);
    expect(socket.connect({ ...options, address: "127.0.0.1" })).toBe(true);
    expect(socket.connect({ ...options, address: "127.0.0.1" })).toBe(false);
    expect(() => socket.stream(66)).toThrow(/no stream 66/);
  });

  test("a port that is taken says so", () => {
    const { port } = open();
    expect(() => new DirectSocket(port)).toThrow(/EADDRINUSE/);
  });

  test("after the end every stream fails with the other side's reason", async () => {
    const [near, far] = connected();
    const stream = far.stream(0);
    await near.stream(0).write(Buffer.from("x"));
    await stream.read();
    await near.close("SESSION_ENDED", "it is over");
    const over = { code: "SESSION_ENDED", message: "it is over" };
    await expect(stream.read()).rejects.toMatchObject(over);
    await expect(stream.write(new Uint8Array(1))).rejects.toMatchObject(over);
    expect(() => far.stream(1)).toThrow("it is over");
  });
});
