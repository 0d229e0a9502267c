/**
 * The guest that is moved: QEMU without KVM, with its memory in a file that it shares.
 *
 * @module
 */
import { readFileSync } from "node:fs";

import { number, text, type Stage } from "../../e2e/harness.ts";
import type { Message, Program } from "../../e2e/program.ts";

export interface MachineOptions {
  /** For failures: "the source's QEMU". */
  readonly name: string;
  readonly emulator: string;
  readonly kernel: string;
  readonly initramfs: string;
  /** The exported file. */
  readonly memory: string;
  readonly bytes: number;
  /** Waits for the guest's state and does not boot. */
  readonly incoming: boolean;
}

export interface Tick {
  readonly n: number;
  /** By the guest's clock. */
  readonly uptimeS: number;
}

export class Machine {
  readonly program: Program;
  /** QEMU's control socket. */
  readonly qmp: string;
  readonly #console: string;

  constructor(stage: Stage, id: string, options: MachineOptions) {
    const { name, emulator, kernel, initramfs, memory, bytes, incoming } = options;
    this.qmp = stage.file(`${id}.qmp`);
    this.#console = stage.file(`${id}.console`);
    this.program = stage.start({
      name,
      command: emulator,
      args: [
        ..."-M pc,memory-backend=ram -accel tcg -cpu max,pku=off -smp 1".split(" "),
        ..."-nodefaults -no-user-config -no-reboot -display none -nic none".split(" "),
        "-m",
        `${bytes}b`,
        "-object",
        `memory-backend-file,id=ram,size=${bytes},mem-path=${memory},share=on`,
        "-kernel",
        kernel,
        "-initrd",
        initramfs,
        "-append",
        "console=ttyS0 quiet panic=-1 tsc=reliable random.trust_cpu=1 mitigations=off nokaslr audit=0",
        "-qmp",
        `unix:${this.qmp},server=on,wait=off`,
        // Also byte by byte in a file: a line may begin here and end over there.
        "-chardev",
        `stdio,id=console,signal=off,logfile=${this.#console}`,
        "-serial",
        "chardev:console",
        ...(incoming ? ["-incoming", "defer"] : []),
      ],
      environment: stage.environment(),
    });
  }

  /** The last number that the guest has printed here; 0 before the first. */
  get count(): number {
    const last = this.program.last("tick");
    return last === undefined ? 0 : number(last, "n");
  }

  tickAfter(n: number, deadlineMs?: number): Promise<unknown> {
    return this.program.waitFor("tick", (message) => number(message, "n") > n, deadlineMs);
  }

  /** The checksum that the guest prints next. */
  async blob(deadlineMs?: number): Promise<string> {
    const seen = this.program.all("blob").length;
    const isNext = (message: Message): boolean => this.program.all("blob").indexOf(message) >= seen;
    return text(await this.program.waitFor("blob", isNext, deadlineMs), "md5");
  }

  get console(): string {
    return readFileSync(this.#console, "latin1");
  }
}
