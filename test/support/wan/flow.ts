/**
 * `flow.c` between nodes of a lab: what the network does, without any of our programs.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { compiled } from "./compile.ts";
import type { Lab } from "./lab.ts";

const SOURCE = fileURLToPath(new URL("flow.c", import.meta.url));

export interface StreamEnd {
  readonly bytes: number;
  readonly seconds: number;
  readonly digest: string;
  readonly cpuSeconds: number;
}

export interface Transfer {
  readonly from: string;
  readonly to: string;
  /** Of the receiver. */
  readonly host: string;
  readonly port: number;
  readonly bytes: number;
  /** Of the sender's socket; default: the kernel's. */
  readonly congestionControl?: "cubic" | "bbr" | "reno";
  /** Gives up then. */
  readonly limitMs?: number;
}

/** One TCP connection from node to node. @throws if it breaks or other bytes arrive than were sent */
export async function transfer(
  lab: Lab,
  { from, to, host, port, bytes, congestionControl, limitMs = 0 }: Transfer,
): Promise<{ sender: StreamEnd; receiver: StreamEnd }> {
  const receiving = await receiver(lab, to, ["receive", String(port)]);
  const control = congestionControl === undefined ? [] : [congestionControl];
  const args = ["send", host, String(port), String(bytes), ...control];
  const [{ stdout }, received] = await Promise.all([
    lab.exec(from, [compiled(SOURCE), ...args], { timeout: limitMs }),
    receiving.result,
  ]);
  // Both print what `flow.c` says.
  const ends = { sender: JSON.parse(stdout) as StreamEnd, receiver: received as StreamEnd };
  if (ends.sender.digest !== ends.receiver.digest) {
    throw new Error(`${from} sent ${stdout.trim()}, ${to} got ${JSON.stringify(received)}`);
  }
  return ends;
}

export interface Datagrams {
  readonly sent: number;
  readonly datagrams: number;
  readonly damaged: number;
  readonly overtaken: number;
}

/** Super-packets of datagrams from node to node. */
export async function datagrams(
  lab: Lab,
  options: { from: string; to: string; host: string; port: number; bursts: number; bytes: number },
): Promise<Datagrams> {
  const { from, to, host, port, bursts, bytes } = options;
  const receiving = await receiver(lab, to, ["catch", String(port)]);
  const args = ["burst", host, String(port), String(bursts), String(bytes)];
  const { stdout } = await lab.exec(from, [compiled(SOURCE), ...args]);
  const { datagrams: sent } = JSON.parse(stdout) as { datagrams: number };
  return { ...((await receiving.result) as Omit<Datagrams, "sent">), sent };
}

/** @returns when it listens; `result` is what it printed at last. */
async function receiver(
  lab: Lab,
  node: string,
  args: readonly string[],
): Promise<{ result: Promise<unknown> }> {
  const [program = "", ...rest] = [...lab.inside(node), compiled(SOURCE), ...args];
  const child = spawn(program, rest, { stdio: ["ignore", "pipe", "inherit"] });
  const lines: string[] = [];
  const reader = createInterface({ input: child.stdout });
  reader.on("line", (line) => lines.push(line));
  const closed = once(child, "close");
  await Promise.race([once(reader, "line"), closed]);
  const result = closed.then(([code]): unknown => {
    if (code !== 0) throw new Error(`flow ${args.join(" ")} on ${node} ended with ${String(code)}`);
    return JSON.parse(lines.at(-1) ?? "");
  });
  result.catch(() => undefined); // whoever waits for it gets the error
  return { result };
}
