/**
 * A seeder, a leecher and a relay on nodes of their own, whose network changes from one measurement to the next.
 *
 * @module
 */
import { randomFillSync } from "node:crypto";
import { closeSync, copyFileSync, existsSync, openSync, truncateSync, writeSync } from "node:fs";
import { readFile, statfs } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { Stage } from "../../e2e/harness.ts";
import { compiled } from "../../support/wan/compile.ts";
import { Lab } from "../../support/wan/lab.ts";
import type { Conditions } from "./row.ts";

const CPU = fileURLToPath(new URL("cpu.c", import.meta.url));
/** What people install, and not the sources: those take longer to load. */
const MEMFERRY = fileURLToPath(new URL("../../../peer/launcher.mjs", import.meta.url));
const MEMORY_FOLDER = "/dev/shm";
const PIECE_BYTES = 4 << 20;
/** So that a queue exists on a path without distance. */
const BUFFER_MS_MIN = 10;

export const NODES = ["relay", "seeder", "leecher"] as const;
export type NodeName = (typeof NODES)[number];

export interface SceneOptions {
  readonly bytes: number;
  readonly mbit: number;
  /** `middle`: half a round trip from each peer; `apart`: a whole one, so that relayed is twice as far as direct. */
  readonly relayAt: "middle" | "apart";
  /** Largest buffers of a TCP socket; default: the kernel's. */
  readonly tcpBufferBytes?: number;
}

export class Scene implements AsyncDisposable {
  readonly lab: Lab;
  readonly stage: Stage;
  readonly options: SceneOptions;
  /** Nothing in it can be compressed. */
  readonly source: string;
  #files = 0;

  private constructor(lab: Lab, stage: Stage, options: SceneOptions) {
    this.lab = lab;
    this.stage = stage;
    this.options = options;
    this.source = stage.file("source");
  }

  static async open(options: SceneOptions): Promise<Scene> {
    const link = { upMbit: options.mbit, downMbit: options.mbit };
    const nodes = Object.fromEntries(NODES.map((node) => [node, {}]));
    const lab = await Lab.create({ nodes, link });
    // A disk would be measured, and not the network.
    const { bavail, bsize } = await statfs(MEMORY_FOLDER).catch(() => ({ bavail: 0, bsize: 0 }));
    if (bavail * bsize > 4 * options.bytes) process.env["TMPDIR"] = MEMORY_FOLDER;
    const scene = new Scene(lab, await Stage.open(MEMFERRY), options);
    if (options.tcpBufferBytes !== undefined) await scene.#raiseBuffers(options.tcpBufferBytes);
    writeRandom(scene.source, options.bytes);
    return scene;
  }

  async apply({ rttMs, lossRatio }: Conditions): Promise<void> {
    const { mbit, relayAt } = this.options;
    const bufferBytes = Math.ceil((Math.max(rttMs, BUFFER_MS_MIN) / 1e3) * mbit * 125_000);
    for (const node of NODES) {
      const delayMs = node === "relay" && relayAt === "middle" ? 0 : rttMs / 4;
      await this.lab.set(node, { delayMs, lossRatio, bufferBytes });
    }
  }

  host(node: NodeName): string {
    return this.lab.address(node).v4;
  }

  /** The start of a command line on a node, and the CPU seconds it has taken when it is over. */
  counted(node: NodeName): { within: string[]; cpuSeconds: () => Promise<number> } {
    const file = this.file("cpu");
    return {
      within: [compiled(CPU), file, ...this.lab.inside(node)],
      cpuSeconds: async () => {
        // `cpu.c` wrote it.
        const used = JSON.parse(await readFile(file, "utf8")) as Record<string, number>;
        return (used["userSeconds"] ?? NaN) + (used["systemSeconds"] ?? NaN);
      },
    };
  }

  /** A file of so many bytes, the beginning of the source. */
  sourceOf({ bytes }: { readonly bytes: number }): string {
    if (bytes === this.options.bytes) return this.source;
    const file = this.stage.file(`source-${bytes}`);
    if (!existsSync(file)) {
      copyFileSync(this.source, file);
      truncateSync(file, bytes);
    }
    return file;
  }

  file(kind: string): string {
    return this.stage.file(`${kind}-${this.#files++}`);
  }

  async congestionControl(): Promise<string> {
    const argv = ["cat", "/proc/sys/net/ipv4/tcp_congestion_control"];
    return (await this.lab.exec("seeder", argv)).stdout.trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stage[Symbol.asyncDispose]();
    await this.lab[Symbol.asyncDispose]();
  }

  async #raiseBuffers(bytes: number): Promise<void> {
    for (const node of NODES) {
      const sizes = [
        `net.ipv4.tcp_rmem=4096 131072 ${bytes}`,
        `net.ipv4.tcp_wmem=4096 65536 ${bytes}`,
      ];
      await this.lab.exec(node, ["sysctl", "-qw", ...sizes]);
    }
  }
}

function writeRandom(path: string, bytes: number): void {
  const file = openSync(path, "w");
  const piece = Buffer.alloc(PIECE_BYTES);
  for (let at = 0; at < bytes; at += PIECE_BYTES) {
    writeSync(file, randomFillSync(piece), 0, Math.min(PIECE_BYTES, bytes - at));
  }
  closeSync(file);
}
