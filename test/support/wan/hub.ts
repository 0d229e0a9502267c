/**
 * The process in the centre of the emulated network: `hub.c`, told by lines.
 *
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { compiled } from "./compile.ts";

const SOURCE = fileURLToPath(new URL("hub.c", import.meta.url));

/** How a node is connected. What is left out stays as it was; at first there is no delay, loss or limit. */
export interface LinkParameters {
  /** One way between the node and the centre. */
  readonly delayMs?: number;
  /** Up to this much more delay, at random; the order stays. */
  readonly jitterMs?: number;
  /** 0: no limit. */
  readonly upMbit?: number;
  readonly downMbit?: number;
  /** Of the segments that the node sends, 0 to 1. */
  readonly lossRatio?: number;
  /** Of the segments that the node sends, 0 to 1: these are overtaken. */
  readonly reorderRatio?: number;
  /** How much later they come. Default: a quarter of the delay and 1 ms. */
  readonly holdMs?: number;
  /** What waits for each of its links at most; more is dropped. 0: four delays or 10 ms at the link's rate, 128 KiB at least. */
  readonly bufferBytes?: number;
}

/** Counted from the start, in segments of the wire unless the name says otherwise. */
export interface NodeStatistics {
  /** When its first packet came, as `process.hrtime.bigint()`; 0 if none did since the last mark. */
  readonly firstAtNs: number;
  readonly sentSegments: number;
  readonly sentBytes: number;
  readonly gotSegments: number;
  readonly gotBytes: number;
  readonly lost: number;
  /** Dropped because the queue of its uplink, or downlink, was full. */
  readonly upFull: number;
  readonly downFull: number;
  readonly held: number;
  /** Sent to an address that nobody has. */
  readonly noRoute: number;
  readonly whileCut: number;
  /** Dropped because the hub itself had too much to keep. */
  readonly overflow: number;
  /** Packets that the node's device did not take. */
  readonly refused: number;
}

export class Hub {
  readonly #child: ChildProcess;
  readonly #waiting: ((line: string | undefined) => void)[] = [];
  #ended = false;

  constructor() {
    const child = spawn(compiled(SOURCE), { stdio: ["pipe", "pipe", "inherit"] });
    this.#child = child;
    child.stdin.on("error", () => undefined); // its end says so
    createInterface({ input: child.stdout }).on("line", (line) => this.#waiting.shift()?.(line));
    const end = (): void => {
      this.#ended = true;
      for (const answer of this.#waiting.splice(0)) answer(undefined);
    };
    child.once("error", end);
    child.once("close", end);
  }

  /** A command as `hub.c` lists them. @returns its answer. @throws what the hub says, or that it is gone */
  async tell(...words: readonly (string | number)[]): Promise<string> {
    const command = words.join(" ");
    const line = this.#ended
      ? undefined
      : await new Promise<string | undefined>((resolve) => {
          this.#waiting.push(resolve);
          this.#child.stdin?.write(`${command}\n`);
        });
    if (line === undefined) throw new Error(`the hub ended; it was told: ${command}`);
    if (line.startsWith("error")) throw new Error(`the hub, told "${command}": ${line.slice(6)}`);
    return line;
  }

  async set(node: string, parameters: LinkParameters): Promise<void> {
    const { lossRatio, reorderRatio, ...rest } = parameters;
    const keys = Object.entries({ ...rest, loss: lossRatio, reorder: reorderRatio });
    const words = keys.flatMap(([key, value]) => (value === undefined ? [] : [key, value]));
    if (words.length > 0) await this.tell("set", node, ...words);
  }

  async statistics(node: string): Promise<NodeStatistics> {
    // The hub is of this folder.
    return JSON.parse(await this.tell("stats", node)) as NodeStatistics;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    const closed = once(this.#child, "close");
    this.#child.stdin?.end();
    await closed;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}
