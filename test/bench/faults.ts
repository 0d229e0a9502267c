/**
 * How long a read of a missing chunk takes while all the rest of the region is on its way; one JSON object.
 *
 *     node test/bench/faults.ts [--rtt 50] [--mbit 200] [--mib 192] [--link websocket|webtransport] [--threads 1]
 *
 * Without more the path is a proxy in this process: TCP only, each connection with a queue of its own. Over a real
 * path, with one queue for all, give two network namespaces that reach each other:
 *
 *     nsenter --net=/run/netns/A node test/bench/faults.ts --address IP_OF_A --leecher-in /run/netns/B ...
 *
 * Then `--rtt` and `--mbit` say what the path is. Reads go backwards from the end, far apart, where neither the order
 * of sending nor reading ahead helps.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { makeFile } from "../e2e/files.ts";
import { eventually, number, redirect, Stage } from "../e2e/harness.ts";
import type { Message } from "../e2e/program.ts";
import { startProxy } from "../e2e/proxy.ts";

const MIB = 1024 * 1024;
const MEMFERRY = fileURLToPath(new URL("../../peer/main.ts", import.meta.url));
/** Reads a block per line of its input, and prints how long it took. */
const READER = `
const { openSync, readSync } = require("node:fs");
const [path, ...offsets] = process.argv.slice(1);
const file = openSync(path, "r");
for (const offset of offsets) {
  const at = performance.now();
  readSync(file, Buffer.alloc(4096), 0, 4096, Number(offset));
  console.log(performance.now() - at);
}`;

const { values } = parseArgs({
  options: {
    rtt: { type: "string", default: "50" },
    mbit: { type: "string", default: "200" },
    mib: { type: "string", default: "192" },
    chunk: { type: "string", default: "64KiB" },
    link: { type: "string", default: "websocket" },
    threads: { type: "string", default: "1" },
    reads: { type: "string", default: "100" },
    address: { type: "string" },
    "leecher-in": { type: "string" },
  },
});
const rttMs = Number(values.rtt);
const bytesPerS = Number(values.mbit) * 125_000;
const bytes = Number(values.mib) * MIB;

await using stage = await Stage.open();
const listen = values.address === undefined ? [] : ["--listen", `${values.address}:0`];
const relay = await stage.relay({ args: listen });
const proxy =
  values.address === undefined
    ? await startProxy({ port: relay.port, delayMs: rttMs / 2, bytesPerS })
    : undefined;
const from = stage.file("source");
const mount = await stage.folder("mount");
await makeFile(from, bytes);
const { ticket } = await stage.seed([
  "--file",
  from,
  "--chunk",
  values.chunk,
  "--region",
  "region",
  "--link",
  values.link,
]);
const args = ["--file", stage.file("copy"), "--link", values.link, "--mode", "postcopy"];
const command = [process.execPath, MEMFERRY, "leech", "-", ...args, "--export", `fuse:${mount}`];
const inside = values["leecher-in"];
const [program = "", ...rest] =
  inside === undefined ? command : ["nsenter", `--net=${inside}`, ...command];
const leecher = stage.start({
  name: "the leecher",
  command: program,
  args: [...rest, "--json"],
  environment: stage.environment(),
  input: `${proxy === undefined ? ticket : redirect(ticket, proxy.url)}\n`,
});
await leecher.waitFor("committed");
await eventually(() => existsSync(mount) && readdirSync(mount).length > 0);
const file = `${mount}/${readdirSync(mount)[0] ?? ""}`;

const samples: number[] = [];
const before = number(await progress(), "bytesReady");
const startedAtMs = performance.now();
await Promise.all(
  Array.from({ length: Number(values.threads) }, (_, lane) => readFrom(file, lane)),
);
const spanMs = performance.now() - startedAtMs;
const last = await progress();
const after = number(last, "bytesReady");
const missing = leecher.last("done") === undefined;
await leecher.waitFor("done", undefined, 300_000);
const sorted = samples.toSorted((a, b) => a - b);
const quantile = (q: number): number => sorted[Math.floor((sorted.length - 1) * q)] ?? NaN;
console.log(
  JSON.stringify({
    rttMs,
    mbit: Number(values.mbit),
    link: values.link,
    path: proxy === undefined ? "namespaces" : "proxy",
    reads: samples.length,
    p50Rtt: round(quantile(0.5) / rttMs),
    p90Rtt: round(quantile(0.9) / rttMs),
    p99Rtt: round(quantile(0.99) / rttMs),
    maxRtt: round(quantile(1) / rttMs),
    /** The peers' own round trip at the end of the reads. */
    pingRtt: round(number(last, "rttMs") / rttMs),
    /** Of what the path carries, while the reads went on. */
    backgroundRatio: round((after - before) / (spanMs / 1_000) / bytesPerS),
    missingAllTheWhile: missing,
  }),
);
leecher.kill("SIGINT");
await leecher.expectExit(0);
await proxy?.[Symbol.asyncDispose]();

/** The next report that the leecher gives, or its last. */
async function progress(): Promise<Message> {
  const seen = leecher.all("progress").length;
  const isOver = (): boolean => leecher.last("done") !== undefined;
  await eventually(() => leecher.all("progress").length > seen || isOver());
  return leecher.last("progress") ?? {};
}

async function readFrom(path: string, lane: number): Promise<void> {
  const lanes = Number(values.threads);
  const reads = Number(values.reads);
  const step = Math.floor((bytes * 0.6) / (reads * lanes) / 4096) * 4096;
  const offsets = Array.from({ length: reads }, (_, i) => bytes - MIB - (i * lanes + lane) * step);
  const reader = spawn(process.execPath, ["-e", READER, path, ...offsets.map(String)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const closed = once(reader, "close");
  for await (const line of createInterface(reader.stdout)) samples.push(Number(line));
  const [code] = (await closed) as [number | null];
  if (code !== 0) throw new Error(`the reader ended with ${code}`);
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
