/**
 * A relay and peers as real processes, in a folder of the test's own, and nothing left behind.
 *
 * ```ts
 * await using stage = await Stage.open();
 * const relay = await stage.relay();
 * const { seeder, ticket } = await stage.seed(["--file", file]);
 * const leecher = stage.leech(ticket, ["--file", copy]);
 * ```
 *
 * At the end every process is stopped, and it is an error if one had to be killed, if a process or a mount
 * of the stage is still there: so each test looks for leaks.
 *
 * @module
 */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { denoBinary, denoRelayFlags } from "../../peer/demo/deno-relay.ts";
import { decodeTicket, encodeTicket } from "../../relay/protocol/ticket.ts";
import { isRoot } from "../support/programs.mjs";
import { type Message, Program } from "./program.ts";

const MEMFERRY = fileURLToPath(new URL("../../peer/main.ts", import.meta.url));
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const RELAY = fileURLToPath(new URL("../../relay/main.ts", import.meta.url));
const COMMAND_MS = 60_000;
const UNMOUNT_MS = 10_000;
const LEFT_OVER_MS = 3_000;
/** A user with no rights; on every system that has users. */
const NOBODY_UID = 65_534;

export interface RelayOptions {
  readonly runtime?: "node" | "deno";
  readonly databaseUrl?: string;
  readonly args?: readonly string[];
  /** What the command line begins with: `nsenter` and the like, which become the relay. */
  readonly within?: readonly string[];
}

export interface TestRelay {
  readonly program: Program;
  readonly url: string;
  readonly port: number;
  readonly dataDir: string;
  readonly key: string;
  readonly certificateHashes: readonly string[];
  readonly ready: Message;
}

export interface RunOptions {
  readonly input?: string;
  readonly environment?: NodeJS.ProcessEnv;
  /** Without root's right to everything. */
  readonly asNobody?: boolean;
  /** What the command line begins with: `nsenter` and the like, which become the command. */
  readonly within?: readonly string[];
}

/** Both peers are on one host here, so they would always find a direct path: only who asks for it gets one. */
function relayed(args: readonly string[]): string[] {
  return args.includes("--path") ? [] : ["--path", "relay"];
}

/** How a command ended and what it printed. */
export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Offered {
  readonly seeder: Program;
  readonly ticket: string;
  readonly sessionId: string;
}

export class Stage implements AsyncDisposable {
  readonly path: string;
  readonly #programs: Program[] = [];
  readonly #ownMounts: string[] = [];

  readonly #memferry: string;

  private constructor(directory: string, memferry: string) {
    this.path = directory;
    this.#memferry = memferry;
  }

  /** @param memferry The command's file. Default: the sources'. */
  static async open(memferry: string = MEMFERRY): Promise<Stage> {
    return new Stage(await mkdtemp(path.join(tmpdir(), "memferry-e2e-")), memferry);
  }

  file(name: string): string {
    return path.join(this.path, name);
  }

  async folder(name: string): Promise<string> {
    const folder = this.file(name);
    await mkdir(folder, { recursive: true });
    return folder;
  }

  /** A file system of this size, for a disk that is full soon. Needs root. */
  async tmpfs(name: string, bytes: number): Promise<string> {
    const folder = await this.folder(name);
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "memferry-test", folder]);
    this.#ownMounts.push(folder);
    return folder;
  }

  environment(more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
    return {
      ...process.env,
      XDG_CONFIG_HOME: this.file("config"),
      XDG_STATE_HOME: this.file("state"),
      DATABASE_URL: "",
      MEMFERRY_KEY: undefined,
      MEMFERRY_LISTEN: "",
      MEMFERRY_DASHBOARD: "",
      MEMFERRY_DATA: "",
      MEMFERRY_PUBLIC_URL: "",
      MEMFERRY_CERTIFICATE: "",
      MEMFERRY_PRIVATE_KEY: "",
      NODE_OPTIONS: undefined,
      VITEST: undefined,
      NODE_ENV: undefined,
      ...more,
    };
  }

  async relay(options: RelayOptions = {}): Promise<TestRelay> {
    const dataDir = await this.folder("relay");
    const [command = "", ...first] = [
      ...(options.within ?? []),
      ...(options.runtime === "deno"
        ? [denoBinary(), ...denoRelayFlags({ root: ROOT, writable: [this.path] })]
        : [process.execPath]),
    ];
    const program = this.start({
      name: "the relay",
      command,
      args: [
        ...first,
        RELAY,
        "--listen",
        "127.0.0.1:0",
        "--dashboard",
        "off",
        "--data",
        dataDir,
        "--json",
        ...(options.args ?? []),
      ],
      environment: this.environment({ DATABASE_URL: options.databaseUrl ?? "" }),
    });
    const ready = await program.waitFor("ready");
    const url = text(ready, "url");
    const hashes = ready["certificateHashes"];
    return {
      program,
      url,
      port: Number(new URL(url).port),
      dataDir,
      key: (await readFile(text(ready, "keyFile"), "utf8")).trim(),
      certificateHashes: Array.isArray(hashes) ? hashes.map(String) : [],
      ready,
    };
  }

  /** Makes `url` the relay that the commands of this stage talk to, in place of the relay's own address. */
  async useRelay(relay: TestRelay, url: string): Promise<void> {
    const { key, certificateHashes } = relay;
    const hashes = certificateHashes.map((hash) => hash.replaceAll(":", "").toLowerCase());
    const folder = await this.folder("config/memferry");
    const config = { version: 1, relays: [{ url, key, certificateHashes: hashes }], default: url };
    await writeFile(path.join(folder, "config.json"), JSON.stringify(config), { mode: 0o600 });
  }

  /** A command that goes on running, with JSON events. */
  memferry(name: string, args: readonly string[], options: RunOptions = {}): Program {
    const [command, ...first] = [...(options.within ?? []), process.execPath, this.#memferry];
    return this.start({
      name,
      command,
      args: [...first, ...args],
      environment: this.environment(options.environment),
      ...(options.input === undefined ? {} : { input: options.input }),
      ...(options.asNobody === true && isRoot() ? { uid: NOBODY_UID } : {}),
    });
  }

  /** A command to its end, as a person runs it: without `--json` unless asked for. */
  async run(args: readonly string[], options: RunOptions = {}): Promise<Result> {
    const program = this.memferry(`memferry ${args.join(" ").slice(0, 60)}`, args, options);
    const { code } = await program.waitForExit(COMMAND_MS);
    return { code, stdout: program.stdout, stderr: program.stderr };
  }

  /** A seeder that has printed its ticket. */
  async seed(args: readonly string[], options: RunOptions = {}): Promise<Offered> {
    const seeder = this.memferry(
      "the seeder",
      ["seed", ...args, ...relayed(args), "--json"],
      options,
    );
    const ticket = text(await seeder.waitFor("ticket"), "ticket");
    return { seeder, ticket, sessionId: sessionIdOf(ticket) };
  }

  leech(ticket: string, args: readonly string[], options: RunOptions = {}): Program {
    return this.memferry("the leecher", ["leech", "-", ...args, ...relayed(args), "--json"], {
      ...options,
      input: `${ticket}\n`,
    });
  }

  start(spec: ConstructorParameters<typeof Program>[0]): Program {
    const program = new Program(spec);
    this.#programs.push(program);
    return program;
  }

  /** What is mounted below this stage. */
  mounts(): string[] {
    return mountPoints().filter((point) => point.startsWith(`${this.path}/`));
  }

  /** Processes that carry this stage's folder in their environment or command line. */
  processes(): string[] {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
      .filter((pid) => processText(pid).includes(this.path))
      .map((pid) => `${pid} ${readProc(pid, "cmdline").replaceAll("\0", " ").slice(0, 200)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const problems: string[] = [];
    // The last that was started uses what was started before it.
    for (const program of this.#programs.toReversed()) {
      if (await program.stop()) problems.push(`${program.name} did not end by itself`);
    }
    for (const point of this.#ownMounts) unmount(point);
    const until = performance.now() + LEFT_OVER_MS;
    while (this.processes().length > 0 && performance.now() < until) await sleep(50);
    for (const left of this.processes()) {
      problems.push(`still running: ${left}`);
      kill(Number(left.split(" ")[0]));
    }
    for (const point of this.mounts()) {
      problems.push(`still mounted: ${point}`);
      unmount(point);
    }
    if (this.mounts().length === 0) await rm(this.path, { recursive: true, force: true });
    if (problems.length > 0) throw new Error(`left behind: ${problems.join("; ")}`);
  }
}

/** The same ticket for a relay at another address: a proxy in front of it. */
export function redirect(ticket: string, relayUrl: string): string {
  return encodeTicket({ ...decodeTicket(ticket), relayUrl });
}

export function sessionIdOf(ticket: string): string {
  return Buffer.from(decodeTicket(ticket).sessionId).toString("hex");
}

/** A field that must be a text. */
export function text(message: Message | undefined, field: string): string {
  const value = message?.[field];
  if (typeof value !== "string") throw new Error(`no text ${field} in ${JSON.stringify(message)}`);
  return value;
}

/** A field that must be a number. */
export function number(message: Message | undefined, field: string): number {
  const value = message?.[field];
  if (typeof value !== "number") {
    throw new Error(`no number ${field} in ${JSON.stringify(message)}`);
  }
  return value;
}

/** Resident bytes of a process. */
export function residentBytes(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readProc(String(pid), "status"))?.[1];
  if (kib === undefined) throw new Error(`process ${pid} is gone`);
  return Number(kib) * 1024;
}

/** Polls until `condition` holds. */
export async function eventually(condition: () => boolean, deadlineMs = 10_000): Promise<void> {
  const until = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > until) throw new Error(`not so within ${deadlineMs} ms`);
    await sleep(20);
  }
}

function mountPoints(): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "");
}

/** In another process: a mount whose server is gone may hold whoever touches it. */
function unmount(point: string): void {
  for (const [command, ...args] of [
    ["umount", "-l", point],
    ["fusermount3", "-u", "-z", point],
  ] as const) {
    const { status } = spawnSync(command, args, { stdio: "ignore", timeout: UNMOUNT_MS });
    if (status === 0) return;
  }
}

function processText(pid: string): string {
  return readProc(pid, "cmdline") + readProc(pid, "environ");
}

/** Empty for a process that is gone or somebody else's. */
function readProc(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch {
    return "";
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Gone meanwhile.
  }
}
