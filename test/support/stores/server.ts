/**
 * A server that a test starts and stops, and that leaves nothing behind.
 *
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const START_MS = 30_000;
const STOP_MS = 10_000;

export class ServerProcess {
  readonly port: number;
  readonly #command: readonly string[];
  readonly #environment: NodeJS.ProcessEnv;
  #child: ChildProcess | undefined;
  #said = "";
  readonly #atExit = (): void => void this.#child?.kill("SIGKILL");

  private constructor(port: number, command: readonly string[], environment: NodeJS.ProcessEnv) {
    this.port = port;
    this.#command = command;
    this.#environment = environment;
    process.on("exit", this.#atExit);
  }

  /** @param command The command line, once the port is known. */
  static async start(
    command: (port: number) => readonly string[],
    environment: NodeJS.ProcessEnv = {},
  ): Promise<ServerProcess> {
    const port = await freePort();
    const server = new ServerProcess(port, command(port), environment);
    await server.start();
    return server;
  }

  async start(): Promise<void> {
    const [program = "", ...args] = this.#command;
    const child = spawn(program, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...this.#environment },
    });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on(
        "data",
        (bytes: Buffer) => (this.#said = (this.#said + bytes.toString()).slice(-4_000)),
      );
    }
    const until = performance.now() + START_MS;
    while (!(await answers(this.port))) {
      if (child.exitCode !== null || performance.now() > until) {
        child.kill("SIGKILL");
        throw new Error(`${program} does not answer: ${this.#said}`);
      }
      await sleep(30);
    }
  }

  /** Stops it as it is, for `start` to go on with. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    child.kill(signal);
    await once(child, "exit");
    clearTimeout(timer);
  }

  /** Stands still, and goes on with SIGCONT. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    this.#child?.kill(signal);
  }

  async close(): Promise<void> {
    this.signal("SIGCONT");
    await this.stop();
    process.off("exit", this.#atExit);
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

async function answers(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
