/**
 * The program whose region moves: it writes, reads back and makes durable, wherever it runs.
 *
 * It runs where it was started, as a process of that host; that it never runs on both is what is to be shown.
 *
 * @module
 */
import { Actor } from "./actor.ts";
import type { Image } from "./disk.ts";
import type { Random } from "./random.ts";
import type { Shadow } from "./shadow.ts";

export type Side = "source" | "destination";

export interface WorkloadOptions {
  readonly random: Random;
  readonly shadow: Shadow;
  readonly images: Record<Side, Image>;
  /** Between two operations. */
  readonly pauseMs: number;
  readonly writeRatio: number;
  /** Of the writes, how many go into a mapping. */
  readonly mappedRatio: number;
  /** Whether a program on the destination makes the presence durable with its own writes. */
  readonly exported: boolean;
  readonly onBroken: (invariant: string, what: string) => void;
  readonly trace: (actor: string, what: string) => void;
}

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #programs: Partial<Record<Side, Actor>> = {};
  readonly #hot: readonly number[];
  #quiet = false;
  operations = 0;

  constructor(options: WorkloadOptions) {
    this.#options = options;
    const { random, shadow } = options;
    this.#hot = Array.from({ length: 1 + random.below(12) }, () => random.below(shadow.cellCount));
  }

  running(side: Side): boolean {
    return this.#programs[side]?.alive === true;
  }

  /** Writes no more, from now on. */
  calm(): void {
    this.#quiet = true;
  }

  start(side: Side): void {
    if (this.running(side)) return;
    const { trace, images } = this.#options;
    const program = new Actor(
      `program@${side === "source" ? "s" : "d"}`,
      images[side].options.host,
    );
    this.#programs[side] = program;
    trace(program.name, "starts");
    void program.run(() => this.#work(side, program));
  }

  stop(side: Side): void {
    const program = this.#programs[side];
    if (program?.alive !== true) return;
    this.#options.trace(program.name, "stops");
    program.kill(false);
  }

  async #work(side: Side, program: Actor): Promise<void> {
    const { random, shadow, images, pauseMs, writeRatio, mappedRatio, onBroken, trace } =
      this.#options;
    const image = images[side];
    for (;;) {
      await new Promise<void>((resolve) =>
        setTimeout(() => resolve(), random.delay(this.#quiet ? 5 * pauseMs : pauseMs)),
      );
      const hot = this.#hot[random.below(this.#hot.length)] ?? 0;
      const cell = random.chance(0.7) ? hot : random.below(shadow.cellCount);
      if (random.chance(0.04)) {
        const snapshot = shadow.snapshot();
        const server = image.server;
        if (server === undefined) continue;
        try {
          image.writeBack();
          const whole = side === "destination" && this.#options.exported;
          const durable = (whole ? server.checkpoint() : server.sync()).then(() => true);
          // The kernel asks again whoever takes the place of a server that died.
          const died = new Promise<boolean>((resolve) =>
            server.actor.onDeath(() => resolve(false)),
          );
          if (!(await Promise.race([durable, died]))) continue;
        } catch {
          // The disk says no: nothing became durable, and the program knows it.
          continue;
        }
        shadow.fsynced(snapshot);
        trace(program.name, "fsynced");
        continue;
      }
      const write = !this.#quiet && random.chance(writeRatio);
      const mapped = random.chance(mappedRatio);
      if (random.chance(0.05)) image.writeBack();
      try {
        const bytes = await new Promise<Uint8Array>((served, failed) =>
          image.submit({ program, cell, write, mapped, served, failed }),
        );
        this.operations++;
        if (!write && Buffer.compare(bytes, shadow.expected(cell)) !== 0) {
          onBroken("I3", `a read at the ${side} is stale or zeros: ${shadow.describe(cell)}`);
        }
        if (random.chance(0.05)) trace(program.name, `${write ? "wrote" : "read"} cell ${cell}`);
      } catch (error) {
        trace(program.name, `ends: ${error instanceof Error ? error.message : String(error)}`);
        program.kill(false);
        return;
      }
    }
  }
}
