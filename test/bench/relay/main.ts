/**
 * What the relay's data path costs: CPU seconds per GiB spliced, beside bare sockets joined by the same runtime in the
 * same run, and the memory of sessions in which nothing happens.
 *
 *     npm run bench:relay -- [--json] [--only splice,idle] [--runtimes node,deno] [--mib 1024] [--streams 4] [--rounds 3]
 *
 * Only the process in the middle is counted. The load is one more process, so on few cores the rates say little.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { denoBinary } from "../../../peer/demo/deno-relay.ts";
import { cpuOf } from "../index/database.ts";
import { show, type Figure } from "../index/figure.ts";
import { KINDS, openIdle, openStreams, type Kind, type Target } from "./load.ts";

const MIB = 1024 * 1024;
const IDLE_SESSIONS = 1_000;
/** Some are there before it is measured: what the first ones need is not theirs. */
const IDLE_BEFORE = 100;

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    only: { type: "string", default: "splice,idle" },
    runtimes: { type: "string", default: "node,deno" },
    mib: { type: "string", default: "1024" },
    streams: { type: "string", default: "4" },
    rounds: { type: "string", default: "3" },
  },
});
const only = values.only.split(",");
const figures: Figure[] = [];
for (const runtime of values.runtimes.split(",")) {
  if (only.includes("splice")) await benchSplice(runtime);
  if (only.includes("idle")) await benchIdle(runtime);
}
if (values.json) {
  console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), figures }));
}

function report(figure: Figure): void {
  figures.push(figure);
  if (!values.json) console.log(show(figure));
}

async function benchSplice(runtime: string): Promise<void> {
  const streams = Number(values.streams);
  const bytesEach = (Number(values.mib) * MIB) / streams;
  const costs: Record<Kind, number[]> = { tcp: [], tls: [], websocket: [], relay: [] };
  for (let round = 0; round < Number(values.rounds); round++) {
    // In turns: what disturbs the machine for a while disturbs all.
    for (const kind of round % 2 === 0 ? KINDS : KINDS.toReversed()) {
      await using server = await start(runtime, kind, 1);
      const carried = await openStreams(kind, server.target, streams);
      await carried.carry(bytesEach / 8);
      const before = cpuOf(server.pid);
      await carried.carry(bytesEach);
      costs[kind].push((cpuOf(server.pid) - before) / (Number(values.mib) / 1024));
      await carried.close();
    }
  }
  const compared = (name: string, ours: Kind, bare: Kind): void => {
    const ratios = costs[ours].map((cost, at) => cost / (costs[bare][at] ?? Number.NaN));
    report({
      name: `${runtime}: ${name}, ${streams} streams`,
      unit: `of a bare splice (${median(costs[ours]).toFixed(2)} CPU s/GiB)`,
      value: median(ratios),
      goal: { atMost: 1.3 },
      limit: { what: `${bare}, CPU s/GiB`, value: median(costs[bare]) },
    });
  };
  compared("WebSocket without TLS", "websocket", "tcp");
  compared("the relay, TLS", "relay", "tls");
  compared("the relay, TLS, against bare TCP", "relay", "tcp");
}

async function benchIdle(runtime: string): Promise<void> {
  await using server = await start(runtime, "relay", IDLE_BEFORE + IDLE_SESSIONS);
  const first = await openIdle(server.target, IDLE_BEFORE, 0);
  await sleep(2_000);
  const before = residentKib(server.pid);
  const more = await openIdle(server.target, IDLE_SESSIONS, IDLE_BEFORE);
  await sleep(5_000);
  report({
    name: `${runtime}: an idle session of two peers, of ${IDLE_SESSIONS}`,
    unit: "KiB resident",
    value: (residentKib(server.pid) - before) / IDLE_SESSIONS,
    goal: { atMost: 40 },
  });
  await more.close();
  await first.close();
}

interface Server extends AsyncDisposable {
  readonly pid: number;
  readonly target: Target;
}

async function start(runtime: string, kind: Kind, sessions: number): Promise<Server> {
  const [command, first] =
    runtime === "deno"
      ? [denoBinary(), ["run", "--allow-all", "--no-prompt", "--unstable-net"]]
      : [process.execPath, (process.env["BENCH_NODE_FLAGS"] ?? "").split(" ").filter(Boolean)];
  const script = `${import.meta.dirname}/server.ts`;
  const child = spawn(command, [...first, script, kind, String(sessions)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  return {
    pid: child.pid ?? 0,
    // Written by our own server.
    target: JSON.parse(line) as Target,
    async [Symbol.asyncDispose]() {
      const gone = once(child, "exit");
      child.stdin.end();
      await gone;
    },
  };
}

function residentKib(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
