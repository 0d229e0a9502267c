/**
 * The relay carries the region and never holds a byte of it that it could read.
 */
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import path from "node:path";

import { expect, test } from "vitest";

import { digest } from "./files.ts";
import { redirect, sessionIdOf, Stage, type TestRelay } from "./harness.ts";
import { startProxy } from "./proxy.ts";

const MIB = 1024 * 1024;
const MARKER_BYTES = 64;
const READ_BYTES = 8 * MIB;

/** Whether a marker passed, also across the border of two pieces of one direction. */
class Ear {
  readonly #marker: Buffer;
  readonly #tails = new Map<string, Buffer>();
  bytes = 0;
  found = 0;

  constructor(marker: Buffer) {
    this.#marker = marker;
  }

  hear(from: string, data: Buffer): void {
    this.bytes += data.length;
    const text = Buffer.concat([this.#tails.get(from) ?? Buffer.alloc(0), data]);
    if (text.includes(this.#marker)) this.found++;
    this.#tails.set(from, text.subarray(-(this.#marker.length - 1)));
  }
}

/** How often a marker is in a process's readable memory; throws where we may not look. */
function countInMemory(pid: number, marker: Buffer): { found: number; scannedBytes: number } {
  const memory = openSync(`/proc/${pid}/mem`, "r");
  const buffer = Buffer.alloc(READ_BYTES + marker.length);
  let found = 0;
  let scannedBytes = 0;
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
      const [, first, last] = /^([0-9a-f]+)-([0-9a-f]+) r/.exec(line) ?? [];
      if (first === undefined || last === undefined || /\[v(var|syscall)/.test(line)) continue;
      const end = Number.parseInt(last, 16);
      for (let at = Number.parseInt(first, 16); at < end; at += READ_BYTES) {
        const wanted = Math.min(buffer.length, end - at);
        let got = 0;
        try {
          got = readSync(memory, buffer, 0, wanted, at);
        } catch {
          // Reserved and never touched, or gone meanwhile: nothing is there.
        }
        scannedBytes += got;
        if (buffer.subarray(0, got).includes(marker)) found++;
      }
    }
  } finally {
    closeSync(memory);
  }
  return { found, scannedBytes };
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name));
}

test("the marker that fills a region is nowhere in the relay: sockets, memory, files, log", async (ctx) => {
  await using stage = await Stage.open();
  const marker = randomBytes(MARKER_BYTES);
  const from = stage.file("source");
  const to = stage.file("destination");
  await writeFile(from, Buffer.alloc(24 * MIB, marker));

  const relay = await stage.relay({ args: ["--log-level", "debug"] });
  const plain = new Ear(marker);
  const name = new Ear(Buffer.from("region-for-all-to-see"));
  // Takes TLS apart with the relay's own key: this is what the relay reads and writes, not what a wire shows.
  await using proxy = await startProxy({
    port: relay.port,
    openTlsOf: relay.dataDir,
    bytesPerS: 12_000_000,
    onData: (data) => {
      plain.hear("all", data);
      name.hear("all", data);
    },
  });
  await stage.useRelay(relay, proxy.url);
  const seedArgs = ["--file", from, "--region", "region-for-all-to-see", "--link", "websocket"];
  const { seeder, ticket } = await stage.seed(seedArgs);
  const args = ["--file", to, "--link", "websocket", "--finalize", "manual"];
  const leecher = stage.leech(redirect(ticket, proxy.url), args);

  await leecher.waitFor("progress", ({ bytesReady }) => Number(bytesReady) > 4 * MIB);
  const during = look(ctx, relay, marker);
  // The same look must find it where it is, or it proves nothing.
  expect(countInMemory(seeder.pid, marker).found, "in the seeder's memory").toBeGreaterThan(0);
  await leecher.waitFor("round");
  expect((await stage.run(["sessions", "finalize", sessionIdOf(ticket)])).code).toBe(0);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  expect(await digest(to)).toBe(await digest(from));
  const after = look(ctx, relay, marker);
  relay.program.kill("SIGTERM");
  await relay.program.expectExit(0);

  expect(during.found, "in the relay's memory while it carried the region").toBe(0);
  expect(after.found, "in the relay's memory afterwards").toBe(0);
  expect(plain.bytes, "every byte passed twice").toBeGreaterThan(48 * MIB);
  expect(plain.found, "in what passed the relay's sockets").toBe(0);
  expect(name.found, "the region's name, which the relay may know").toBeGreaterThan(0);
  const stored = filesBelow(relay.dataDir);
  expect(stored.length).toBeGreaterThan(10);
  expect(stored.filter((file) => statSync(file).size > 0 && contains(file, marker))).toEqual([]);
  const log = relay.program.stdout + relay.program.stderr;
  expect(log).toContain("{");
  for (const form of ["latin1", "hex", "base64", "base64url"] as const) {
    expect(log).not.toContain(marker.toString(form).slice(0, 40));
  }
  console.log(
    `looked through ${Math.round((during.scannedBytes + after.scannedBytes) / MIB)} MiB of the relay's memory, ` +
      `${Math.round(plain.bytes / MIB)} MiB of its sockets, ${stored.length} files`,
  );
});

function contains(file: string, marker: Buffer): boolean {
  return readFileSync(file).includes(marker);
}

function look(
  ctx: { skip(note?: string): never },
  relay: TestRelay,
  marker: Buffer,
): { found: number; scannedBytes: number } {
  try {
    return countInMemory(relay.program.pid, marker);
  } catch (error) {
    return ctx.skip(
      `another process's memory may not be read here (${String(error)}); run as root: sudo -E npm test`,
    );
  }
}
