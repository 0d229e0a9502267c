/**
 * Runs a peer as a child and outlives it: when the peer is killed, another one takes over its mounts, its memory
 * and its session, and the workload notices only time.
 *
 * It does as little as possible itself, so that little can go wrong with it: it holds descriptors, passes signals
 * on, and starts the peer again. It never touches a mount.
 *
 * @module
 */
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { loadNative } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { workerEnvironment } from "../config.ts";
import { sleep } from "../sleep.ts";
import type { Output } from "../cli/output.ts";
import { ended, type Ending } from "./ending.ts";
import type { Holdings, SupervisorMessage, WorkerMessage } from "./held.ts";

const RESTART_FIRST_MS = 100;
const RESTART_MAX_MS = 5_000;
/** A peer that ran for this long was no failed start. */
const SETTLED_MS = 60_000;
const FIRST_INHERITED = 4;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

export interface SupervisorOptions {
  /** The program and its arguments before the command: `[main.ts]`. */
  readonly program: readonly string[];
  /** The command as it was typed. */
  readonly argv: readonly string[];
  /** Goes on with a session: what follows `program` then. */
  readonly resumeArgv: (session: string) => readonly string[];
  readonly output: Output;
}

/** @returns The exit status of the peer that ended in order. */
export async function supervise(options: SupervisorOptions): Promise<number> {
  return await new Supervisor(options).run();
}

class Supervisor {
  readonly #options: SupervisorOptions;
  #child: ChildProcess | undefined;
  #session: string | undefined;
  /** Numbers of this process. */
  #holdings: Holdings = { stores: {}, mounts: {} };

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  async run(): Promise<number> {
    const { argv, resumeArgv, output } = this.#options;
    const passOn = (signal: NodeJS.Signals): void => void this.#child?.kill(signal);
    for (const signal of SIGNALS) process.on(signal, passOn);
    let delayMs = RESTART_FIRST_MS;
    let command = argv;
    try {
      for (;;) {
        const startedAtMs = performance.now();
        const { code, signal } = await this.#runOnce(command);
        // It said itself that it is over; or it was killed before there was anything to keep.
        if (code !== null || this.#session === undefined) return code ?? killedStatus(signal);
        if (performance.now() - startedAtMs > SETTLED_MS) delayMs = RESTART_FIRST_MS;
        output.event({ event: "restarted", signal: signal ?? "unknown", session: this.#session });
        output.note(`the peer was killed (${signal ?? "?"}): another one goes on in its place`);
        await sleep(delayMs);
        delayMs = Math.min(delayMs * 2, RESTART_MAX_MS);
        command = resumeArgv(this.#session);
      }
    } finally {
      for (const signal of SIGNALS) process.off(signal, passOn);
      this.#letGo();
    }
  }

  async #runOnce(command: readonly string[]): Promise<Ending> {
    const { program } = this.#options;
    const { inherited, holdings } = numbered(this.#holdings);
    const stdio: StdioOptions = ["inherit", "inherit", "inherit", "ipc", ...inherited];
    const child = spawn(process.execPath, [...process.execArgv, ...program, ...command], {
      stdio,
      env: workerEnvironment(JSON.stringify(holdings)),
      // Its own group: a Ctrl-C reaches us alone, and is passed on once.
      detached: true,
    });
    this.#child = child;
    child.on("message", (message) => this.#handle(child, message as WorkerMessage));
    return await ended(child);
  }

  #handle(child: ChildProcess, message: WorkerMessage): void {
    this.#session = message.session;
    if (message.kind === "session") return;
    let problem = "";
    try {
      this.#adopt(child.pid ?? 0, message.holdings);
    } catch (error) {
      problem = messageOf(error);
    }
    const answer: SupervisorMessage = { kind: "held", problem };
    if (child.connected) child.send(answer);
  }

  #adopt(pid: number, holdings: Holdings): void {
    const native = loadNative();
    this.#letGo();
    const adopt = (fd: number): number => native.adoptDescriptor(pid, fd);
    this.#holdings = {
      stores: mapValues(holdings.stores, adopt),
      mounts: mapValues(holdings.mounts, (channels) => channels.map(adopt)),
    };
  }

  #letGo(): void {
    const { stores, mounts } = this.#holdings;
    for (const fd of [...Object.values(stores), ...Object.values(mounts).flat()]) {
      loadNative().closeDescriptor(fd);
    }
    this.#holdings = { stores: {}, mounts: {} };
  }
}

/** The descriptors in the order in which a child inherits them, and what they are there. */
function numbered(holdings: Holdings): {
  readonly inherited: readonly number[];
  readonly holdings: Holdings;
} {
  const inherited: number[] = [];
  const pass = (fd: number): number => FIRST_INHERITED + inherited.push(fd) - 1;
  return {
    inherited,
    holdings: {
      stores: mapValues(holdings.stores, pass),
      mounts: mapValues(holdings.mounts, (channels) => channels.map(pass)),
    },
  };
}

function mapValues<A, B>(
  record: Readonly<Record<string, A>>,
  change: (value: A) => B,
): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));
}

/** As a shell says it. */
function killedStatus(signal: string | null): number {
  return signal === "SIGKILL" ? 137 : 1;
}
