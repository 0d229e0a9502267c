/**
 * Child processes that print JSON lines, and the promise that none of them outlives the demo.
 *
 * @module
 */
import { spawn, type ChildProcess } from "node:child_process";
import { appendFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import { DemoError } from "./errors.ts";

/** A line of a child's standard output. Its fields are read by `text` and `number`. */
export type Message = Readonly<Record<string, unknown>>;

export interface ProgramSpec {
  /** For people: "the relay". */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** Added to our own environment; `undefined` takes a variable away. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Given on standard input, which then ends; if absent, standard input stays open as long as we live. */
  readonly input?: string;
  readonly onMessage?: (message: Message) => void;
  /** It may end by itself, with status 0, once it has said this; else never. */
  readonly endsAfter?: string;
  /** Programs of a lower rank are stopped first. */
  readonly rank: number;
  readonly stopSignal: "SIGINT" | "SIGTERM";
}

const STDERR_CHARS_MAX = 4_000;
/** A peer that unmounts and says goodbye to the relay takes less. */
const STOP_GRACE_MS = 4_000;
/** From a program's exit to the end of its output. */
const DRAIN_GRACE_MS = 500;
const KILL_GRACE_MS = 3_000;

export function text(message: Message, field: string): string {
  const value = message[field];
  return typeof value === "string" ? value : "";
}

export function number(message: Message, field: string): number {
  const value = message[field];
  return typeof value === "number" ? value : Number.NaN;
}

export class Program {
  readonly spec: ProgramSpec;
  readonly ended: Promise<void>;
  readonly #child: ChildProcess;
  readonly #first = new Map<string, Message>();
  readonly #last = new Map<string, Message>();
  readonly #counts = new Map<string, number>();
  readonly #listeners = new Set<(message: Message) => void>();
  readonly #onLine: (line: string) => void;
  readonly #onFailure: (error: DemoError) => void;
  #stderr = "";
  #over = false;
  #stopping = false;

  /**
   * @param onFailure Called when it reports an error, and if it ends when it should not.
   * @param onLine Everything that it prints.
   */
  constructor(
    spec: ProgramSpec,
    onFailure: (error: DemoError) => void,
    onLine: (line: string) => void,
  ) {
    this.spec = spec;
    this.#onLine = onLine;
    this.#onFailure = onFailure;
    this.#child = spawn(spec.command, spec.args, {
      // Not an option of ours: the child inherits what the user set.
      // oxlint-disable-next-line node/no-process-env
      env: { ...process.env, ...spec.environment },
      stdio: ["pipe", "pipe", "pipe"],
      // Its own process group: a Ctrl-C reaches us alone, and we stop everybody in order.
      detached: true,
    });
    const { stdin, stdout, stderr } = this.#child;
    // The far end may be gone already; its exit says so.
    stdin?.on("error", () => undefined);
    if (spec.input !== undefined) stdin?.end(spec.input);
    if (stderr !== null) {
      createInterface({ input: stderr }).on("line", (line) => this.#remark(line));
    }
    if (stdout !== null) createInterface({ input: stdout }).on("line", (line) => this.#read(line));
    this.ended = new Promise((resolve) => {
      this.#child.once("error", (error) => {
        this.#over = true;
        onFailure(new DemoError(`${spec.name} cannot be started: ${error.message}`));
        resolve();
      });
      this.#child.once("exit", (code, signal) => {
        void this.#drained().then(() => {
          this.#over = true;
          const expected = spec.endsAfter !== undefined && this.find(spec.endsAfter) !== undefined;
          if (!this.#stopping && !(expected && code === 0)) onFailure(this.#obituary(code, signal));
          resolve();
        });
      });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get over(): boolean {
    return this.#over;
  }

  /** The first message with this `event`. */
  find(event: string): Message | undefined {
    return this.#first.get(event);
  }

  /** The last one so far; an empty message if there was none. */
  last(event: string): Message {
    return this.#last.get(event) ?? {};
  }

  count(event: string): number {
    return this.#counts.get(event) ?? 0;
  }

  /** @returns What ends it. */
  listen(listener: (message: Message) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Waits for the first message with this `event`, which may have come before. @throws DemoError */
  async waitFor(event: string, deadlineMs: number, signal: AbortSignal): Promise<Message> {
    const late = AbortSignal.timeout(deadlineMs);
    for (;;) {
      signal.throwIfAborted();
      const message = this.find(event);
      if (message !== undefined) return message;
      if (late.aborted) {
        const seconds = Math.round(deadlineMs / 1000);
        throw new DemoError(
          `${this.spec.name} did not say "${event}" within ${seconds} s${this.#lastWords()}`,
        );
      }
      await this.#nextMessage(AbortSignal.any([signal, late]));
    }
  }

  /** Asks it to end, then makes it. Resolves even if it will not. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const [signal, graceMs] of [
      [this.spec.stopSignal, STOP_GRACE_MS],
      // A peer that still owes the other one something wants to be asked twice.
      [this.spec.stopSignal, STOP_GRACE_MS],
      ["SIGKILL", KILL_GRACE_MS],
    ] as const) {
      if (this.#over) return;
      if (signal === "SIGKILL") this.#killGroup();
      else this.#child.kill(signal);
      await Promise.race([this.ended, sleep(graceMs, undefined, { ref: false })]);
    }
  }

  #read(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      // Not for us: a runtime's own remark.
      this.#remark(line);
      return;
    }
    this.#onLine(line);
    if (typeof message !== "object" || message === null) return;
    // Every object has fields that can be looked up by name.
    const known = message as Message;
    const event = text(known, "event");
    if (!this.#first.has(event)) this.#first.set(event, known);
    this.#last.set(event, known);
    this.#counts.set(event, this.count(event) + 1);
    // Told at once: what it says is the cause, and what others say next are the consequences.
    if (event === "error") {
      this.#onFailure(new DemoError(`${this.spec.name}: ${text(known, "message")}`));
    }
    this.spec.onMessage?.(known);
    for (const listener of this.#listeners) listener(known);
  }

  /** It may explain an exit, if it is not just a line of a log. */
  #remark(line: string): void {
    this.#onLine(line);
    if (line.startsWith("{")) return;
    this.#stderr = `${this.#stderr}${line}\n`.slice(-STDERR_CHARS_MAX);
  }

  /** Its last lines have been read, and nobody is left who could write more. */
  async #drained(): Promise<void> {
    const closed = new Promise((resolve) => this.#child.once("close", resolve));
    // What it started may live on and hold its pipes; it ends with it, and so do the pipes.
    const late = setTimeout(() => this.#killGroup(), DRAIN_GRACE_MS);
    await closed;
    clearTimeout(late);
  }

  #killGroup(): void {
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch {
      // Nobody is left in it.
    }
  }

  #nextMessage(signal: AbortSignal): Promise<void> {
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

  #obituary(code: number | null, signal: string | null): DemoError {
    const how = signal === null ? `ended with status ${code}` : `was ended by ${signal}`;
    return new DemoError(`${this.spec.name} ${how}${this.#lastWords()}`);
  }

  #lastWords(): string {
    const error = this.find("error");
    const said = error === undefined ? "" : text(error, "message");
    const last = said === "" ? (this.#stderr.trim().split("\n").at(-1) ?? "") : said;
    return last === "" ? "" : `: ${last}`;
  }
}

/** All programs of one run. The first that fails ends the run. */
export class Crew implements AsyncDisposable {
  readonly #programs: Program[] = [];
  readonly #failure = new AbortController();
  /** Aborted when a program failed or the user wants to leave; the reason is what to tell. */
  readonly signal: AbortSignal;
  readonly #trace: string | undefined;
  #closed = false;

  /** @param trace Where everything goes that the programs print. */
  constructor(leaving: AbortSignal, trace?: string) {
    this.#trace = trace;
    this.signal = AbortSignal.any([this.#failure.signal, leaving]);
  }

  start(spec: ProgramSpec): Program {
    this.signal.throwIfAborted();
    const program = new Program(
      spec,
      (error) => {
        this.#note(spec.name, error.message);
        if (!this.#closed) this.#failure.abort(error);
      },
      (line) => this.#note(spec.name, line),
    );
    this.#programs.push(program);
    return program;
  }

  #note(from: string, line: string): void {
    if (this.#trace === undefined) return;
    const entry = { atMs: Math.round(performance.now()), from, line };
    appendFileSync(this.#trace, `${JSON.stringify(entry)}\n`);
  }

  /** Stops everybody, rank by rank. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    const ranks = new Set(this.#programs.map(({ spec }) => spec.rank));
    for (const rank of [...ranks].toSorted((a, b) => a - b)) {
      const group = this.#programs.filter(({ spec }) => spec.rank === rank);
      await Promise.all(group.map((program) => program.stop()));
    }
  }
}
