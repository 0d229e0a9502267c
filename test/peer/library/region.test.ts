/** Regions, mounts and options of the library, without a relay. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { beforeAll, afterAll, describe, expect, test } from "vitest";

import { leech, type MigrationError, mount, Region, seed } from "../../../peer/index.ts";
import { encodeTicket, type Ticket } from "../../../relay/protocol/ticket.ts";
import { requireFuse, requireUffd, skipUnless } from "../../support/requires.ts";

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "memferry-library-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function ticketOf(role: Ticket["role"]): string {
  return encodeTicket({
    // Nobody listens on port 1.
    relayUrl: "https://127.0.0.1:1",
    certificateHashes: [],
    sessionId: crypto.getRandomValues(new Uint8Array(16)),
    role,
    token: new Uint8Array(32),
    secret: new Uint8Array(32),
  });
}

/** What programs without types may pass. */
function untyped<T>(value: unknown): T {
  return value as T;
}

async function codeAndMessage(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  );
  const { code, message } = error as MigrationError;
  return `${code}: ${message}`;
}

describe("Region", () => {
  test("create() makes zeros, of any length, and close() is idempotent", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const region = await Region.create({ bytes: 100_001, chunkBytes: 4096, name: "odd" });
    expect(region).toMatchObject({ bytes: 100_001, chunkBytes: 4096, name: "odd", state: "here" });
    const bytes = new Uint8Array(region.memory());
    expect(bytes.length).toBe(100_001);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    expect(region.memory(), "the same each time").toBe(bytes.buffer);
    await region.close();
    await region.close();
    expect(bytes.length, "detached").toBe(0);
    expect(region.state).toBe("closed");
    expect(() => region.memory()).toThrow(/region odd is closed/);
  });

  test("open() is a file, and await using lets go of it for the next", async () => {
    const file = path.join(folder, "disk.img");
    writeFileSync(file, new Uint8Array(200_000).fill(7));
    for (let round = 0; round < 2; round++) {
      await using region = await Region.open({ file });
      expect(region).toMatchObject({ name: "disk.img", bytes: 200_000, file });
      expect(region.stats().presentChunks).toBe(4);
    }
    await using held = await Region.open({ file });
    expect(await codeAndMessage(Region.open({ file }))).toMatch(/EBUSY|EAGAIN|EWOULDBLOCK/);
    expect(held.state).toBe("here");
  });

  test("a file on a disk is no memory, and the error says what to use", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const file = path.join(import.meta.dirname, "region.test.ts");
    await using region = await Region.open({ file, readOnly: true });
    expect(() => region.memory()).toThrow(
      /cannot be memory.*mount\(region, \{ export: "fuse:DIR" \}\)/,
    );
  });

  test.for([
    [{}, /bytes is missing/],
    [{ bytes: 0 }, /bytes is to be a whole number from 1/],
    [{ bytes: "4096" }, /bytes is to be a whole number.*and is "4096"/],
    [{ bytes: 4096, chunkBytes: 5000 }, /power of two from 4096/],
    [{ bytes: 4096, chunk: 4096 }, /there is no option chunk: there are bytes, name, chunkBytes/],
    [{ bytes: 4096, name: "a/b" }, /name is to be fit to be a file's name/],
    [7, /options are an object, and this is 7/],
  ] as const)("create(%j) is refused", async ([options, why]) => {
    expect(await codeAndMessage(Region.create(untyped(options)))).toMatch(
      new RegExp(`^USAGE: Region.create: .*${why.source}|^USAGE: Region.create: ${why.source}`),
    );
  });

  test("open() of what is no file says so", async () => {
    expect(await codeAndMessage(Region.open({ file: folder }))).toMatch(/USAGE: .*is not a file/);
    const gone = path.join(folder, "gone");
    expect(await codeAndMessage(Region.open({ file: gone }))).toMatch(/USAGE: .*ENOENT/);
    const empty = path.join(folder, "empty");
    writeFileSync(empty, "");
    expect(await codeAndMessage(Region.open({ file: empty }))).toMatch(/USAGE: .*is empty/);
  });
});

describe("mount()", () => {
  test("shows memory as a file; each sees what the other wrote", async (ctx) => {
    skipUnless(ctx, requireUffd(), requireFuse());
    const place = mkdtempSync(path.join(folder, "mount-"));
    await using region = await Region.create({ bytes: 1 << 20, name: "both" });
    const bytes = new Uint8Array(region.memory());
    bytes[70_000] = 42;
    {
      await using at = await mount(region, { export: `fuse:${place}` });
      expect(at.path).toBe(path.join(place, "both"));
      expect(region.paths).toEqual([at.path]);
      // Its chunks are all here, and the addon's own threads serve it: this thread may look.
      const seen = await readElsewhere(at.path);
      expect(seen[70_000]).toBe(42);
    }
    expect(region.paths).toEqual([]);
    await using again = await mount(region, { export: `fuse:${place}` });
    expect(again.export).toBe(`fuse:${place}`);
  });

  test("close() of a region takes its mounts away", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const place = mkdtempSync(path.join(folder, "mount-"));
    const region = await Region.create({ bytes: 4096 });
    const at = await mount(region, { export: `fuse:${place}` });
    await region.close();
    await at.close();
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(place);
    expect(await codeAndMessage(mount(region, { export: `fuse:${place}` }))).toMatch(
      /REGION_MOVED: region region is closed/,
    );
  });

  test.for([
    ["floppy:a", /USAGE: --export floppy:a is unknown: use fuse:DIR/],
    ["file:/tmp/x", /USAGE: mount: file:.* is a file that is used without us/],
    ["fuse:/nowhere/at/all", /USAGE: --export fuse:.*there is no such folder/],
    ["", /USAGE: mount: export is to be a text/],
  ] as const)("export %s is refused", async ([text, why], ctx) => {
    if (text.startsWith("fuse:")) skipUnless(ctx, requireFuse());
    await using region = await Region.create({ bytes: 4096 });
    expect(await codeAndMessage(mount(region, { export: text }))).toMatch(why);
    expect(region.paths).toEqual([]);
  });

  test("of what is no region is refused", async () => {
    expect(await codeAndMessage(mount(untyped("disk"), { export: "fuse:/" }))).toMatch(
      /USAGE: mount: the first argument is a Region/,
    );
    expect(await codeAndMessage(mount([], { export: "fuse:/" }))).toMatch(/at least one region/);
  });
});

describe("seed() and leech()", () => {
  test("refuse options that nobody meant", async () => {
    await using region = await Region.create({ bytes: 4096, name: "a" });
    await using other = await Region.create({ bytes: 8192, name: "b", chunkBytes: 4096 });
    await using twin = await Region.create({ bytes: 8192, name: "a" });
    const refused = async (source: unknown, options: unknown, why: RegExp): Promise<void> => {
      expect(await codeAndMessage(seed(untyped(source), untyped(options)))).toMatch(why);
    };
    await refused(region, { relais: "x" }, /USAGE: seed: there is no option relais/);
    await refused(region, { onSuspend: "pause" }, /onSuspend is to be a function, and is "pause"/);
    await refused(region, { signal: {} }, /signal is to be an AbortSignal/);
    await refused(region, { link: "pigeon" }, /link is to be one of auto, webtransport, websocket/);
    await refused(region, { hookTimeoutMs: 60_001 }, /hookTimeoutMs is to be a whole number/);
    await refused(region, { stateDir: folder }, /a region of memory goes with its process/);
    await refused([region, other], {}, /regions of a group need the same chunkBytes/);
    await refused([region, twin], {}, /two regions have the name a/);
    await refused(region, { signal: AbortSignal.abort("no") }, /CANCELLED: .*before it began/);
    expect(region.state, "nothing has begun").toBe("here");
  });

  test("leech() refuses a wrong ticket and a place that is none", async () => {
    const ticket = ticketOf("leecher");
    const refused = async (options: unknown, why: RegExp, given = ticket): Promise<void> => {
      expect(await codeAndMessage(leech(given, untyped(options)))).toMatch(why);
    };
    await refused(
      { memory: true },
      /USAGE: leech: this ticket is the seeder's/,
      ticketOf("seeder"),
    );
    await refused({ memory: true }, /TICKET_MALFORMED/, "memferry1_nonsense");
    await refused({ memory: true }, /USAGE: leech: the first argument is a ticket/, untyped(5));
    await refused({}, /where is the region to be kept\?/);
    await refused({ file: "x", memory: true }, /give one of file, memory and directory/);
    await refused({ file: "x", finalize: "soon" }, /finalize is to be auto, manual or/);
    await refused({ file: "x", streams: 65 }, /streams is to be a whole number from 1 to 64/);
    await refused(
      { file: "x", mode: "postcopy", onResume: () => undefined },
      /starts the workload before all is there/,
    );
    await refused({ file: "x", export: "tape:0" }, /--export tape:0 is unknown/);
    await refused({ regions: { a: {} } }, /regions.a is \{ file \} or \{ memory: true \}/);
  });

  test("a relay that cannot be reached is an error with its code, and nothing is left", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const place = mkdtempSync(path.join(folder, "mount-"));
    const state = path.join(folder, "state");
    const file = path.join(folder, "received");
    expect(
      await codeAndMessage(
        leech(ticketOf("leecher"), { file, export: `fuse:${place}`, stateDir: state }),
      ),
    ).toMatch(/^RELAY_UNREACHABLE: /);
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(place);
    await using region = await Region.create({ bytes: 4096 });
    const offer = seed(region, { relay: "https://127.0.0.1:1", key: "k" });
    expect(await codeAndMessage(offer)).toMatch(/^RELAY_UNREACHABLE: /);
    expect(region.state).toBe("here");
    // It may be offered again, which it may not while a session has it.
    expect(await codeAndMessage(seed(region, { relay: "https://127.0.0.1:1", key: "k" }))).toMatch(
      /^RELAY_UNREACHABLE: /,
    );
  });
});

/** By another process: who serves a file should not wait for it. */
async function readElsewhere(file: string): Promise<Buffer> {
  const { execFile } = await import("node:child_process");
  return await new Promise((resolve, reject) => {
    execFile(
      "cat",
      [file],
      { encoding: "buffer", maxBuffer: 1 << 24, timeout: 20_000 },
      (error, out) => {
        if (error === null) resolve(out);
        else reject(error);
      },
    );
  });
}
