/** The NBD server, spoken to by a client that can also misbehave. */
import { existsSync, linkSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";

import fc from "fast-check";
import { beforeEach, expect, onTestFinished, test } from "vitest";

import {
  NativeError,
  type NativeRegion,
  type NbdServer,
  type NbdServerOptions,
} from "../../native/index.ts";
import { skipUnless } from "../support/requires.ts";
import {
  bitmapOf,
  CHUNK,
  indexesOf,
  native,
  openRegion,
  requireNative,
  storeChunks,
  temporaryFolder,
  until,
} from "./support/exports.ts";
import {
  COMMAND,
  ERROR,
  FLAG,
  goBody,
  metaBody,
  NbdClient,
  OPTION,
  REPLY,
} from "./support/nbd-client.ts";

beforeEach((ctx) => skipUnless(ctx, requireNative()));

const full = (value: number, bytes = CHUNK): Uint8Array => new Uint8Array(bytes).fill(value);

function serve(
  regions: Readonly<Record<string, NativeRegion>>,
  options: Partial<NbdServerOptions> = {},
): NbdServer {
  const server = native().serveNbd({
    listen: { path: path.join(temporaryFolder(), "nbd.sock") },
    ...options,
  });
  onTestFinished(() => server.stop());
  for (const [name, region] of Object.entries(regions)) server.add(name, region);
  return server;
}

async function open(
  server: NbdServer,
  ...options: Parameters<typeof NbdClient.open> extends [unknown, ...infer Rest] ? Rest : never
): Promise<NbdClient> {
  const client = await NbdClient.open(server.address, ...options);
  onTestFinished(() => client.end());
  return client;
}

async function greeted(server: NbdServer): Promise<NbdClient> {
  const client = await NbdClient.connect(server.address);
  onTestFinished(() => client.end());
  await client.greet();
  return client;
}

const replyTypes = async (
  client: NbdClient,
  option: number,
  body?: Uint8Array,
): Promise<number[]> => (await client.option(option, body)).map(({ type }) => type);

// --- negotiation ---

test("LIST names every export, and the first one answers to the empty name", async () => {
  const server = serve({
    one: openRegion({ bytes: 3 * CHUNK + 7 }),
    two: openRegion({ bytes: CHUNK }),
  });
  const client = await greeted(server);
  const listed = await client.option(OPTION.list);
  expect(listed.map(({ body }) => body.subarray(4).toString())).toEqual(["one", "two", ""]);
  await client.go("");
  expect(client.size).toBe(BigInt(3 * CHUNK + 7));
  expect((await open(server, "two")).size).toBe(BigInt(CHUNK));
});

test("EXPORT_NAME works as in the oldest clients, with the zeroes unless they are declined", async () => {
  const server = serve({ old: openRegion({ bytes: CHUNK }) });
  for (const [flags, zeroes] of [
    [1, 124],
    [3, 0],
  ] as const) {
    const client = await NbdClient.connect(server.address);
    onTestFinished(() => client.end());
    await client.greet(flags);
    const head = Buffer.alloc(16);
    head.write("IHAVEOPT", "latin1");
    head.writeUInt32BE(OPTION.exportName, 8);
    head.writeUInt32BE(3, 12);
    client.socket.write(Buffer.concat([head, Buffer.from("old")]));
    const answer = await client.receive(10 + zeroes);
    expect(answer.readBigUInt64BE()).toBe(BigInt(CHUNK));
    expect(await client.read(0, 10)).toEqual(Buffer.alloc(10));
  }
});

test("what is wrong with an option is said, and the negotiation goes on", async () => {
  const client = await greeted(serve({ disk: openRegion({ bytes: CHUNK }) }));
  expect(await replyTypes(client, 77)).toEqual([REPLY.unsupported]);
  expect(await replyTypes(client, OPTION.list, Buffer.from("x"))).toEqual([REPLY.invalid]);
  expect(await replyTypes(client, OPTION.startTls)).toEqual([REPLY.policy]);
  expect(await replyTypes(client, OPTION.go, goBody("nobody"))).toEqual([REPLY.unknown]);
  expect(await replyTypes(client, OPTION.go, Buffer.from([0, 0, 0, 9, 1]))).toEqual([
    REPLY.invalid,
  ]);
  const long = Buffer.alloc(4);
  long.writeUInt32BE(5000);
  expect(await replyTypes(client, OPTION.info, long)).toEqual([REPLY.tooBig]);
  // Structured replies come first.
  const meta = metaBody("disk", ["base:allocation"]);
  expect(await replyTypes(client, OPTION.setMeta, meta)).toEqual([REPLY.invalid]);
  await client.option(OPTION.structured);
  expect(await replyTypes(client, OPTION.setMeta, meta)).toEqual([REPLY.metaContext, REPLY.ack]);
  expect(await replyTypes(client, OPTION.listMeta, metaBody("disk", []))).toEqual([
    REPLY.metaContext,
    REPLY.metaContext,
    REPLY.ack,
  ]);
  expect(await replyTypes(client, OPTION.listMeta, metaBody("disk", ["memferry:"]))).toHaveLength(
    2,
  );
  expect(await replyTypes(client, OPTION.setMeta, metaBody("disk", ["qemu:x"]))).toEqual([
    REPLY.ack,
  ]);
  await client.go("disk");
  expect(await client.read(0, 1)).toEqual(Buffer.alloc(1));
});

test("contexts that were set for another export do not hold", async () => {
  const server = serve({ a: openRegion({ bytes: CHUNK }), b: openRegion({ bytes: CHUNK }) });
  const client = await greeted(server);
  await client.option(OPTION.structured);
  await client.option(OPTION.setMeta, metaBody("a", ["base:allocation"]));
  client.structured = true;
  await client.go("b");
  expect(await client.code({ command: COMMAND.blockStatus, length: 10 })).toBe(ERROR.inval);
});

test.each([
  ["no greeting flags that anybody knows", Buffer.from([0, 0, 0, 99])],
  ["an option without its magic", Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 1)])],
  [
    "an option of 4 GiB",
    Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      Buffer.from("IHAVEOPT"),
      Buffer.from([0, 0, 0, 7]),
      Buffer.alloc(4, 255),
    ]),
  ],
])("a client that sends %s is cut", async (_, bytes) => {
  const server = serve({ disk: openRegion({ bytes: CHUNK }) });
  const client = await NbdClient.connect(server.address);
  onTestFinished(() => client.end());
  client.socket.write(bytes);
  await client.closed;
  await until("the connection to be gone", () => server.connections === 0);
  expect((await open(server)).size).toBe(BigInt(CHUNK));
});

test("random bytes at any point of a connection cut it and nothing else", async () => {
  const region = openRegion({ bytes: 4 * CHUNK });
  const server = serve({ disk: region }, { maxConnections: 1024 });
  const good = await open(server);
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc.constantFrom("greeting", "options", "requests"),
      async (bytes, stage) => {
        const client = await NbdClient.connect(server.address);
        if (stage !== "greeting") await client.greet();
        if (stage === "requests") await client.go("disk");
        client.socket.end(bytes);
        await client.closed;
        expect(await good.read(CHUNK, 3)).toHaveLength(3);
      },
    ),
    { numRuns: 200 },
  );
});

test("no more connections than agreed, and a cut one makes room", async () => {
  const server = serve({ disk: openRegion({ bytes: CHUNK }) }, { maxConnections: 2 });
  const first = await open(server);
  await open(server);
  const third = await NbdClient.connect(server.address);
  await third.closed;
  first.end();
  await until("room", () => server.connections === 1);
  expect((await open(server)).size).toBe(BigInt(CHUNK));
});

// --- data ---

const dialects = [
  ["simple replies", { structured: false }],
  ["structured replies", { structured: true }],
  ["extended headers", { extended: true }],
] as const;

test.each(dialects)("a region behaves as an array of bytes, with %s", async (_, dialect) => {
  const bytes = 5 * CHUNK - 1234;
  const range = fc
    .tuple(fc.nat(bytes - 1), fc.nat(bytes - 1))
    .map(([a, b]) => ({ from: Math.min(a, b), length: Math.abs(a - b) + 1 }));
  const command = fc.oneof(
    fc.record({
      kind: fc.constant("write"),
      range,
      fill: fc.integer({ min: 1, max: 255 }),
      fua: fc.boolean(),
    }),
    fc.record({
      kind: fc.constantFrom("trim", "zero", "zero-no-hole"),
      range,
      fill: fc.constant(0),
      fua: fc.boolean(),
    }),
    fc.record({ kind: fc.constant("read"), range, fill: fc.constant(0), fua: fc.constant(false) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 12 }), async (commands) => {
      const region = openRegion({ bytes });
      const server = serve({ disk: region });
      const client = await open(server, "disk", dialect);
      const model = Buffer.alloc(bytes);
      const dirty = new Set<number>();
      for (const { kind, range, fill, fua } of commands) {
        const { from, length } = range;
        const flags = fua ? FLAG.fua : 0;
        if (kind === "read") {
          expect(await client.read(from, length)).toEqual(model.subarray(from, from + length));
          continue;
        }
        if (kind === "write") {
          expect(await client.write(from, full(fill, length), flags)).toBe(0);
        } else {
          const noHole = kind === "zero-no-hole" ? FLAG.noHole : 0;
          const code = kind === "trim" ? COMMAND.trim : COMMAND.writeZeroes;
          expect(
            await client.code({ command: code, offset: from, length, flags: flags | noHole }),
          ).toBe(0);
        }
        model.fill(fill, from, from + length);
        for (let at = from - (from % CHUNK); at < from + length; at += CHUNK) dirty.add(at / CHUNK);
      }
      expect(await client.code({ command: COMMAND.flush })).toBe(0);
      expect(await client.read(0, bytes)).toEqual(model);
      expect(indexesOf(region.takeDirty())).toEqual([...dirty].sort((a, b) => a - b));
      client.end();
      await server.stop();
      await region.close();
    }),
    { numRuns: 25 },
  );
});

test.each(dialects)("the largest READ and WRITE go through whole, with %s", async (_, dialect) => {
  const bytes = 33 << 20;
  const client = await open(serve({ disk: openRegion({ bytes }) }), "disk", dialect);
  const payload = Buffer.alloc(32 << 20, "memferry");
  expect(await client.write(77, payload)).toBe(0);
  expect((await client.read(77, payload.length)).equals(payload)).toBe(true);
  expect(
    (await client.read(77, payload.length, dialect === dialects[0][1] ? 0 : FLAG.df)).equals(
      payload,
    ),
  ).toBe(true);
});

test("requests that make no sense fail alone", async () => {
  const server = serve({ disk: openRegion({ bytes: 100 << 20 }) });
  const client = await open(server, "disk", { contexts: ["base:allocation"] });
  const end = 100 << 20;
  const { read, trim, writeZeroes, blockStatus, flush } = COMMAND;
  expect(await client.code({ command: read, offset: end - 1, length: 2 })).toBe(ERROR.inval);
  expect(await client.code({ command: read, offset: 2n ** 64n - 1n, length: 2 })).toBe(ERROR.inval);
  expect(await client.code({ command: read, length: 0 })).toBe(ERROR.inval);
  expect(await client.code({ command: read, length: (32 << 20) + 1 })).toBe(ERROR.overflow);
  expect(await client.code({ command: read, length: 1, flags: FLAG.noHole })).toBe(ERROR.inval);
  expect(await client.write(end - 1, full(1, 2))).toBe(ERROR.nospc);
  expect(await client.write(0, full(1, (32 << 20) + 1))).toBe(ERROR.overflow);
  expect(await client.write(0, full(1, 10), FLAG.reqOne)).toBe(ERROR.inval);
  expect(await client.code({ command: trim, offset: end, length: 1 })).toBe(ERROR.nospc);
  expect(await client.code({ command: writeZeroes, offset: end - 5, length: 6 })).toBe(ERROR.nospc);
  expect(await client.code({ command: blockStatus, offset: end, length: 1 })).toBe(ERROR.inval);
  expect(await client.code({ command: flush, flags: FLAG.fua })).toBe(ERROR.inval);
  expect(await client.code({ command: 99, length: 1 })).toBe(ERROR.inval);
  expect(await client.read(0, 10)).toEqual(Buffer.alloc(10));
});

test("a read-only export refuses every kind of write", async () => {
  const region = openRegion({ bytes: CHUNK });
  const server = serve({});
  server.add("disk", region, { readOnly: true, description: "the golden image" });
  const client = await open(server);
  expect(client.transmissionFlags & 2).toBe(2);
  expect(await client.write(0, full(1, 10))).toBe(ERROR.perm);
  expect(await client.code({ command: COMMAND.trim, length: 10 })).toBe(ERROR.perm);
  expect(await client.code({ command: COMMAND.writeZeroes, length: 10 })).toBe(ERROR.perm);
  expect(await client.read(0, 10)).toEqual(Buffer.alloc(10));
});

test.each([["structured"], ["extended"]])(
  "block status tells holes and dirty chunks (%s)",
  async (kind) => {
    const region = openRegion({ bytes: 4 * CHUNK });
    const client = await open(serve({ disk: region }), "disk", {
      extended: kind === "extended",
      contexts: ["base:allocation", "memferry:dirty"],
    });
    await client.write(CHUNK, full(1));
    const answer = await client.request({ command: COMMAND.blockStatus, length: 4 * CHUNK });
    const chunk = BigInt(CHUNK);
    expect(answer.status.get(1)).toEqual([chunk, 3n, chunk, 0n, 2n * chunk, 3n]);
    expect(answer.status.get(2)).toEqual([chunk, 0n, chunk, 1n, 2n * chunk, 0n]);
    const one = await client.request({
      command: COMMAND.blockStatus,
      offset: CHUNK + 5,
      length: CHUNK,
      flags: FLAG.reqOne,
    });
    expect(one.status.get(1)).toEqual([chunk - 5n, 0n]);
  },
);

test("zeros that are known are not sent", async () => {
  const client = await open(serve({ disk: openRegion({ bytes: 8 << 20 }) }));
  await client.write(0, full(1));
  const answer = await client.request({ command: COMMAND.read, length: 8 << 20 });
  expect(answer.holes).toBe((8 << 20) - (256 << 10));
});

test("a fast zero that would be slow is refused and changes nothing", async () => {
  // A memfd can make holes quickly, and cannot zero what stays reserved.
  const client = await open(serve({ disk: openRegion({ bytes: CHUNK }) }));
  await client.write(0, full(1));
  const zero = { command: COMMAND.writeZeroes, length: CHUNK };
  expect(await client.code({ ...zero, flags: FLAG.fastZero | FLAG.noHole })).toBe(ERROR.notsup);
  expect(await client.read(0, CHUNK)).toEqual(Buffer.from(full(1)));
  expect(await client.code({ ...zero, flags: FLAG.fastZero })).toBe(0);
  expect(await client.read(0, CHUNK)).toEqual(Buffer.alloc(CHUNK));
});

// --- chunks that are elsewhere ---

test.each(dialects)(
  "what is here is answered before what is awaited, with %s",
  async (_, dialect) => {
    const faults: number[][] = [];
    const region = openRegion({
      bytes: 8 * CHUNK,
      present: "none",
      onFault: (indexes) => faults.push([...indexes]),
    });
    await storeChunks(region, [[1, full(1)]], true);
    const server = serve({ disk: region });
    const client = await open(server, "disk", dialect);
    const other = await open(server, "disk", dialect);
    const late = client.read(2 * CHUNK - 100, 200);
    const same = other.read(2 * CHUNK, 5);
    expect(await client.read(CHUNK, 3)).toEqual(Buffer.from([1, 1, 1]));
    // Who waits is counted a moment before it is told.
    await until("both to wait", () => region.stats().parked === 2 && faults.length > 0);
    // Two readers, one fetch.
    expect(faults.flat()).toEqual([2]);
    await storeChunks(region, [[2, full(2)]], true);
    expect(await late).toEqual(Buffer.concat([full(1, 100), full(2, 100)]));
    expect(await same).toEqual(Buffer.from(full(2, 5)));
  },
);

test("a write, a zeroing and a prefetch of missing chunks wait for them", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const client = await open(serve({ disk: region }));
  const write = client.write(10, full(9, 5));
  const zero = client.code({
    command: COMMAND.writeZeroes,
    offset: CHUNK,
    length: 10,
    flags: FLAG.fua,
  });
  const cache = client.code({ command: COMMAND.cache, offset: 2 * CHUNK, length: 2 * CHUNK });
  await until("three to wait", () => region.stats().parked === 3);
  await storeChunks(
    region,
    [0, 1, 2, 3].map((index) => [index, full(index + 1)] as const),
    true,
  );
  expect(await Promise.all([write, zero, cache])).toEqual([0, 0, 0]);
  expect(await client.read(9, 7)).toEqual(Buffer.from([1, 9, 9, 9, 9, 9, 1]));
  expect(await client.read(CHUNK + 9, 2)).toEqual(Buffer.from([0, 2]));
});

test("a failed fetch fails its request and not the connection", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const client = await open(serve({ disk: region }));
  const read = client.code({ command: COMMAND.read, length: 10 });
  await until("it to wait", () => region.stats().parked === 1);
  region.failParked("EIO");
  expect(await read).toBe(ERROR.io);
  region.setPresent(bitmapOf([0], 4));
  expect(await client.read(0, 2)).toEqual(Buffer.alloc(2));
});

test("a shut gate holds requests, a fence refuses them", async () => {
  const region = openRegion({ bytes: CHUNK, gate: "closed" });
  const client = await open(serve({ disk: region }));
  const write = client.write(0, full(1, 10));
  const read = client.read(5, 1);
  await until("both to wait", () => region.stats().parked === 2);
  await region.quiesce();
  region.setGate("open");
  expect(await write).toBe(0);
  await read;
  region.setGate("closed");
  const parked = client.write(0, full(1, 10));
  await until("it to wait", () => region.stats().parked === 1);
  region.setGate("fenced");
  expect(await parked).toBe(ERROR.shutdown);
  expect(await client.code({ command: COMMAND.read, length: 1 })).toBe(ERROR.shutdown);
});

test("a client that never reads holds up neither the gate nor other clients", async () => {
  const region = openRegion({ bytes: 64 << 20 });
  const server = serve({ disk: region });
  const writer = await open(server);
  await writer.write(0, Buffer.alloc(16 << 20, 1));
  const deaf = await open(server);
  deaf.socket.pause();
  for (let i = 0; i < 64; i++) {
    void deaf.request({ command: COMMAND.read, length: 16 << 20 }).catch(() => undefined);
  }
  await until("replies to be stuck", () => region.stats().bytesRead > 0);
  region.setGate("closed");
  await region.quiesce();
  region.setGate("open");
  expect(await writer.read(0, 2)).toEqual(Buffer.from([1, 1]));
});

test("waiting requests are bounded: a client that asks for more is not read from", async () => {
  const region = openRegion({ bytes: 4096 * 4096, chunkBytes: 4096, present: "none" });
  const server = serve({ disk: region });
  const client = await open(server);
  const asked = Array.from({ length: 1500 }, (_, i) => client.read(i * 4096, 16));
  await until("the bound to be reached", () => region.stats().parked >= 1024);
  const other = await open(server);
  region.setPresent(bitmapOf([4000], 4096));
  await other.read(4000 * 4096, 8);
  expect(region.stats().parked).toBe(1024);
  region.setPresent(
    bitmapOf(
      Array.from({ length: 1500 }, (_, i) => i),
      4096,
    ),
  );
  for (const answer of asked) expect(await answer).toHaveLength(16);
});

// --- beginning and end ---

test("stop() ends waiting requests, removes the socket and lets the region close", async () => {
  const region = openRegion({ bytes: CHUNK, present: "none" });
  const server = serve({ disk: region });
  const { address } = server;
  const client = await open(server);
  const read = client.read(0, 1).then(() => "answered", String);
  await until("it to wait", () => region.stats().parked === 1);
  await expect(region.close()).rejects.toThrow(/exported/);
  await server.stop();
  expect(await read).toMatch(/closed/);
  expect("path" in address && existsSync(address.path)).toBe(false);
  await server.stop();
  await region.close();
  expect(() => server.add("again", region)).toThrow(NativeError);
});

test("a client that is cut while its requests wait leaves nothing behind", async () => {
  const region = openRegion({ bytes: 4 * CHUNK, present: "none" });
  const server = serve({ disk: region });
  for (let round = 0; round < 20; round++) {
    const client = await open(server);
    void client.read(0, 10).catch(() => undefined);
    void client.write(CHUNK, full(1)).catch(() => undefined);
    await until("both to wait", () => region.stats().parked === 2);
    client.end();
    await until("both to be forgotten", () => region.stats().parked === 0);
  }
  await until("the connections to be gone", () => server.connections === 0);
});

test("the socket is for its owner alone", () => {
  const { address } = serve({ disk: openRegion({ bytes: CHUNK }) });
  if (!("path" in address)) throw new Error("a Unix socket was asked for");
  expect(statSync(address.path).mode & 0o777).toBe(0o600);
});

test("TCP on a free port", async () => {
  const server = serve(
    { disk: openRegion({ bytes: CHUNK }) },
    { listen: { host: "127.0.0.1", port: 0 } },
  );
  expect((await open(server)).size).toBe(BigInt(CHUNK));
});

test("an abandoned socket is replaced; a file, a live server and a used port are not", async () => {
  const folder = temporaryFolder();
  const code = (listen: NbdServerOptions["listen"]): string => {
    try {
      const server = native().serveNbd({ listen });
      void server.stop();
      return "served";
    } catch (error) {
      if (error instanceof NativeError) return error.code;
      throw error;
    }
  };
  const file = path.join(folder, "file");
  writeFileSync(file, "precious");
  expect(code({ path: file })).toBe("EADDRINUSE");
  const live = serve({});
  expect(code(live.address)).toBe("EADDRINUSE");
  const port = serve({}, { listen: { host: "127.0.0.1", port: 0 } });
  expect(code(port.address)).toBe("EADDRINUSE");
  expect(code({ host: "no-such-host.invalid", port: 1 })).toBe("ENOTFOUND");
  expect(code({ path: path.join(folder, "missing", "s") })).toBe("ENOENT");
  expect(code({ path: `/${"x".repeat(200)}` })).toBe("ENAMETOOLONG");
  // Whoever is killed leaves its socket's file; nobody answers there.
  const abandoned = path.join(folder, "abandoned");
  const other = createServer().listen(abandoned);
  await new Promise((resolve) => other.once("listening", resolve));
  const kept = path.join(folder, "kept");
  linkSync(abandoned, kept);
  await new Promise((resolve) => other.close(resolve));
  expect(code({ path: kept })).toBe("served");
});
