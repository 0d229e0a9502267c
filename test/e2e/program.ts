/**
 * A child process of a test: what it prints, when it ends, and that it does.
 *
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/** One JSON line of a program's standard output. */
export type Message = Readonly<Record<string, unknown>>;

export interface ProgramSpec {
  /** For failures: "the seeder". */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly environment: NodeJS.ProcessEnv;
  /** Given on standard input, which ends then. */
  readonly input?: string;
  readonly uid?: number;
}

export interface Exit {
  /** `null` if a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const WAIT_MS = 45_000;
const STOP_GRACE_MS = 8_000;
const TOLD_CHARS_MAX = 3_000;

/** Everything that is still running; killed if the test process leaves without disposing. */
const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) {
    const pids = childrenOf(child.pid ?? 0);
    child.kill("SIGKILL");
    for (const pid of pids) killQuietly(pid);
  }
});

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    return text.split(" ").filter(Boolean).map(Number);
  } catch {
    return []; // it is gone
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended by itself.
  }
}

export class Program {
  readonly name: string;
  readonly messages: Message[] = [];
  /** With the lines that were no JSON. */
  stdout = "";
  stderr = "";
  readonly exited: Promise<Exit>;
  /** How it ended, if it did. */
  exit: Exit | undefined;
  readonly #child: ChildProcess;
  readonly #listeners = new Set<() => void>();
  readonly #cameAtMs = new WeakMap<Message, number>();

  constructor(spec: ProgramSpec) {
    this.name = spec.name;
    const child = spawn(spec.command, spec.args, {
      env: spec.environment,
      stdio: [spec.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      ...(spec.uid === undefined ? {} : { uid: spec.uid, gid: spec.uid }),
    });
    this.#child = child;
    running.add(child);
    // It may be gone already; its exit says so.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(spec.input ?? "");
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on("line", (line) => this.#read(line));
    }
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    this.exited = new Promise((resolve) => {
      const end = (exit: Exit): void => {
        running.delete(child);
        this.exit = exit;
        this.#notify();
        resolve(exit);
      };
      child.once("error", (error) => {
        this.stderr += error.message;
        end({ code: -1, signal: null });
      });
      // `close` and not `exit`: all of its output has been read then.
      child.once("close", (code, signal) => end({ code, signal }));
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** The last message with this `event`. */
  last(event: string): Message | undefined {
    return this.all(event).at(-1);
  }

  all(event: string): Message[] {
    return this.messages.filter((message) => message["event"] === event);
  }

  /** When a message came, as `performance.now()`. */
  cameAtMs(message: Message): number {
    return this.#cameAtMs.get(message) ?? NaN;
  }

  /** In order, `progress` left out: it comes by the clock. */
  eventNames(): string[] {
    return this.messages
      .filter(({ event }) => event !== "progress")
      .map(({ event, phase }) => (event === "phase" ? `phase ${String(phase)}` : String(event)));
  }

  /** The first message for which `accept` holds, past or future. @throws if the program ends without it. */
  async waitFor(
    event: string,
    accept: (message: Message) => boolean = () => true,
    deadlineMs = WAIT_MS,
  ): Promise<Message> {
    const late = AbortSignal.timeout(deadlineMs);
    for (;;) {
      const found = this.all(event).find(accept);
      if (found !== undefined) return found;
      if (this.exit !== undefined) throw this.#failure(`ended without saying "${event}"`);
      if (late.aborted) throw this.#failure(`did not say "${event}" within ${deadlineMs} ms`);
      await this.#next(late);
    }
  }

  waitForPhase(phase: string): Promise<Message> {
    return this.waitFor("phase", (message) => message["phase"] === phase);
  }

  /** @throws if it goes on running. */
  async waitForExit(deadlineMs = WAIT_MS): Promise<Exit> {
    const late = AbortSignal.timeout(deadlineMs);
    while (this.exit === undefined) {
      if (late.aborted) throw this.#failure(`still runs after ${deadlineMs} ms`);
      await this.#next(late);
    }
    return this.exit;
  }

  /** Waits for its end. @throws unless it ends with this status. */
  async expectExit(code: number, deadlineMs = WAIT_MS): Promise<void> {
    const exit = await this.waitForExit(deadlineMs);
    if (exit.code !== code) {
      throw this.#failure(`ended with ${exit.signal ?? exit.code} where ${code} was due`);
    }
  }

  /** With SIGKILL, what it started goes with it: a peer outlives its supervisor. */
  kill(signal: NodeJS.Signals): void {
    const children = signal === "SIGKILL" ? childrenOf(this.pid) : [];
    this.#child.kill(signal);
    for (const pid of children) killQuietly(pid);
  }

  /** The process that does the work: the child of a supervisor, or else this one. */
  get workerPid(): number {
    return childrenOf(this.pid)[0] ?? this.pid;
  }

  /** @returns Whether it needed to be killed. */
  async stop(): Promise<boolean> {
    if (this.exit !== undefined) return false;
    // A stopped process sees no other signal.
    this.kill("SIGCONT");
    this.kill("SIGTERM");
    await Promise.race([this.exited, sleep(STOP_GRACE_MS, undefined, { ref: false })]);
    if (this.exit !== undefined) return false;
    this.kill("SIGKILL");
    await Promise.race([this.exited, sleep(STOP_GRACE_MS, undefined, { ref: false })]);
    return true;
  }

  #read(line: string): void {
    this.stdout += `${line}\n`;
    try {
      const message: unknown = JSON.parse(line);
      if (typeof message !== "object" || message === null) return;
      // Any object can be asked for fields by name.
      const told = message as Message;
      this.#cameAtMs.set(told, performance.now());
      this.messages.push(told);
      this.#notify();
    } catch {
      // A line for people; tests of those read `stdout`.
    }
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }

  #next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#listeners.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.#listeners.add(done);
      signal.addEventListener("abort", done);
      if (signal.aborted) done();
    });
  }

  #failure(what: string): Error {
    const said = this.eventNames().join(", ");
    const errors = this.messages
      .filter(
        ({ event, detail }) => event === "error" || event === "warning" || detail !== undefined,
      )
      .map((message) => JSON.stringify(message));
    const told = [...errors, this.stderr.slice(-TOLD_CHARS_MAX)].join("\n").trim();
    return new Error(`${this.name} ${what}; it said: ${said}${told === "" ? "" : `\n${told}`}`);
  }
}
