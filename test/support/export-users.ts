/**
 * Programs that use a region through an export: by a path, in a process of their own, or as an NBD client.
 *
 * No test framework is needed: the suite of exports also runs in the guest.
 *
 * @module
 */
import { execFileSync, spawn, type ChildProcessByStdio } from "node:child_process";
import path from "node:path";
import type { Readable, Writable } from "node:stream";
import { shimPath, type NbdAddress } from "../../native/index.ts";
import { COMMAND, ERROR, NbdClient } from "../native/support/nbd-client.ts";

/** Each call settles when the program has its answer; a refusal rejects with the error's name in it. */
export interface ExportUser {
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** The same through a mapping; `undefined` where there is none. */
  readonly mapped?: {
    read(offset: number, length: number): Promise<Buffer>;
    write(offset: number, bytes: Uint8Array): Promise<void>;
  };
  /** What was written is in the region when this resolves. */
  sync(): Promise<void>;
  /** Lets go of what is cached, so that the next read asks the export. */
  forget(): Promise<void>;
  /** The range reads as zeros from now on. */
  zero(offset: number, length: number): Promise<void>;
  close(): Promise<void>;
}

/** Compiles a C file of this folder into `folder`. @throws where there is no compiler */
export function compile(name: string, folder: string, ...more: readonly string[]): string {
  const program = path.join(folder, name);
  const source = path.join(import.meta.dirname, `${name}.c`);
  execFileSync("cc", ["-O1", "-o", program, source, ...more], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  return program;
}

interface Waiting {
  readonly resolve: (bytes: Buffer) => void;
  readonly reject: (error: Error) => void;
}

/** A process that is told what to do by lines, and answers `ok LENGTH` with bytes, or `error NAME`. */
export class ProgramUser implements ExportUser {
  readonly process: ChildProcessByStdio<Writable, Readable, null>;
  readonly mapped: NonNullable<ExportUser["mapped"]>;
  readonly #waiting: Waiting[] = [];
  readonly #ended: Promise<void>;
  readonly #pieces: Buffer[] = [];
  #bytes = 0;
  /** For the next line, or for the answer that it announced. */
  #needed = 1;

  constructor(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.process = spawn(program, args, {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, ...env },
    });
    this.process.stdin.on("error", () => undefined); // the end follows
    this.process.stdout.on("data", (bytes: Buffer) => this.#take(bytes));
    this.#ended = new Promise((resolve) => {
      this.process.once("close", (code, signal) => {
        for (const { reject } of this.#waiting.splice(0)) {
          reject(new Error(`the program ended: ${signal ?? code ?? "?"}`));
        }
        resolve();
      });
    });
    this.mapped = {
      read: (offset, length) => this.#ask("map-read", offset, length),
      write: async (offset, bytes) => void (await this.#ask("map-write", offset, bytes)),
    };
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#ask("read", offset, length);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#ask("write", offset, bytes);
  }

  async sync(): Promise<void> {
    await this.#ask("sync", 0, 0);
  }

  async forget(): Promise<void> {
    await this.#ask("forget", 0, 0);
  }

  async zero(offset: number, length: number): Promise<void> {
    await this.#ask("zero", offset, length);
  }

  async close(): Promise<void> {
    this.process.stdin.end();
    await this.#ended;
  }

  /** Whatever else the program understands. */
  tell(what: string, offset = 0, length = 0): Promise<Buffer> {
    return this.#ask(what, offset, length);
  }

  #ask(what: string, offset: number, content: number | Uint8Array): Promise<Buffer> {
    const length = typeof content === "number" ? content : content.length;
    this.process.stdin.write(`${what} ${offset} ${length}\n`);
    if (typeof content !== "number") this.process.stdin.write(content);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  // Put together when it is enough: a large answer comes in hundreds of pieces.
  #take(bytes: Buffer): void {
    this.#pieces.push(bytes);
    this.#bytes += bytes.length;
    while (this.#bytes >= this.#needed) {
      const all = this.#pieces.length === 1 ? this.#pieces[0] : Buffer.concat(this.#pieces);
      if (all === undefined) return;
      this.#pieces.splice(0, this.#pieces.length, all);
      const end = all.indexOf(10);
      if (end < 0) return;
      const line = all.subarray(0, end).toString();
      const length = Number(/^ok (\d+)$/.exec(line)?.[1] ?? 0);
      this.#needed = end + 1 + length;
      if (all.length < this.#needed) return;
      const answer = all.subarray(end + 1, this.#needed);
      const rest = all.subarray(this.#needed);
      this.#pieces.splice(0, 1, rest);
      this.#bytes = rest.length;
      this.#needed = 1;
      const waiting = this.#waiting.shift();
      if (line.startsWith("ok ")) waiting?.resolve(answer);
      else waiting?.reject(new Error(line));
    }
  }
}

/** A program with a region as its memory, by `memferry-shim.so`. */
export function startUffdUser(
  program: string,
  socket: string,
  bytes: number,
  how: { readonly shared?: boolean; readonly file?: string; readonly tracking?: "sync" } = {},
): ProgramUser {
  const { shared = false, file, tracking } = how;
  const args = [
    String(bytes),
    shared ? "shared" : "private",
    ...(file === undefined ? [] : [file]),
  ];
  return new ProgramUser(program, args, {
    LD_PRELOAD: shimPath(),
    MEMFERRY_UFFD: socket,
    MEMFERRY_MAP: file === undefined ? `anon:${bytes}` : `file:${file}`,
    ...(tracking === undefined ? {} : { MEMFERRY_TRACKING: tracking }),
  });
}

export class NbdUser implements ExportUser {
  readonly #client: NbdClient;

  private constructor(client: NbdClient) {
    this.#client = client;
  }

  static async open(address: NbdAddress, name: string): Promise<NbdUser> {
    return new NbdUser(await NbdClient.open(address, name));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const { error, data } = await this.#client.request({ command: COMMAND.read, offset, length });
    accept(error);
    return data;
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    accept(await this.#client.write(offset, bytes));
  }

  async sync(): Promise<void> {
    accept((await this.#client.request({ command: COMMAND.flush })).error);
  }

  // Nothing is cached.
  forget(): Promise<void> {
    return Promise.resolve();
  }

  async zero(offset: number, length: number): Promise<void> {
    accept((await this.#client.request({ command: COMMAND.writeZeroes, offset, length })).error);
  }

  async close(): Promise<void> {
    this.#client.end();
    await this.#client.closed;
  }
}

function accept(error: number): void {
  if (error === ERROR.none) return;
  const name = Object.entries(ERROR).find(([, number]) => number === error)?.[0];
  throw new Error(`error ${name ?? error}`);
}
