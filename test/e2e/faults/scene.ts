/**
 * One migration of a database that is written all the while, over a path that is slow enough to be hit in any phase.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { truncateSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { inspect, isWhole, Ledger } from "../../../peer/demo/ledger.ts";
import { eventually, redirect, Stage, type TestRelay } from "../harness.ts";
import type { Program } from "../program.ts";
import { startProxy, type Proxy } from "../proxy.ts";

const WORKLOAD = fileURLToPath(new URL("workload.ts", import.meta.url));
const MIB = 1024 * 1024;
export const REGION_BYTES = 12 * MIB;
const DEADLINE_MS = 120_000;

interface Side {
  readonly file: string;
  readonly mount: string;
  readonly control: string;
  readonly answer: string;
  readonly workload: Program;
}

export interface SceneOptions {
  readonly mode: "hybrid" | "postcopy";
  /** Of the path between the peers. */
  readonly bytesPerS?: number;
  readonly databaseUrl?: string;
  /** A file system of this size for what is received. */
  readonly destinationBytes?: number;
  readonly leechArgs?: readonly string[];
}

export interface Verdict {
  readonly owner: "source" | "destination";
  readonly runningOn: "source" | "destination" | "both" | "nowhere";
  readonly rows: number;
  readonly rowsLost: number;
  readonly integrity: string;
}

export class Scene implements AsyncDisposable {
  readonly stage: Stage;
  readonly #options: SceneOptions;
  #relay: TestRelay | undefined;
  #proxy: Proxy | undefined;
  #source: Side | undefined;
  #destination: Side | undefined;
  #seeder: Program | undefined;
  #leecher: Program | undefined;

  private constructor(stage: Stage, options: SceneOptions) {
    this.stage = stage;
    this.#options = options;
  }

  static async open(options: SceneOptions): Promise<Scene> {
    const scene = new Scene(await Stage.open(), options);
    try {
      await scene.#begin();
      return scene;
    } catch (error) {
      await scene[Symbol.asyncDispose]().catch(() => undefined);
      throw error;
    }
  }

  get relay(): TestRelay {
    return there(this.#relay);
  }

  get proxy(): Proxy {
    return there(this.#proxy);
  }

  get seeder(): Program {
    return there(this.#seeder);
  }

  get leecher(): Program {
    return there(this.#leecher);
  }

  /** How many rows are committed by now, on both sides. */
  get committedRows(): number {
    return [this.#source, this.#destination].reduce(
      (sum, side) => sum + (side?.workload.all("committed").length ?? 0),
      0,
    );
  }

  /** Kills the process that does the work, not its supervisor. @returns when, as `performance.now` */
  kill(role: "seeder" | "leecher"): number {
    process.kill(this[role].workerPid, "SIGKILL");
    return performance.now();
  }

  /** Kills the relay, and starts it again at the same address. */
  async restartRelay(
    how: { readonly signal?: NodeJS.Signals; readonly beforeStart?: () => Promise<void> } = {},
  ): Promise<number> {
    const { program, port } = this.relay;
    program.kill(how.signal ?? "SIGKILL");
    const atMs = performance.now();
    await program.exited;
    await how.beforeStart?.();
    this.#relay = await this.#startRelay(port);
    return atMs;
  }

  /** Waits until the workload has committed another row, on whichever side it runs. */
  async progress(deadlineMs = DEADLINE_MS): Promise<void> {
    const before = this.committedRows;
    await eventually(() => this.committedRows > before, deadlineMs);
  }

  /** The end of both peers' migration at the destination. */
  async done(): Promise<void> {
    await Promise.all([
      this.leecher.waitFor("done", undefined, DEADLINE_MS),
      this.seeder.waitFor("done", undefined, DEADLINE_MS),
    ]);
  }

  /** Stops everything in order and looks at what is left. */
  async verdict(): Promise<Verdict> {
    const sides = { source: there(this.#source), destination: there(this.#destination) };
    const counts = [sides.source, sides.destination].map(
      ({ workload }) => workload.all("committed").length,
    );
    await sleep(300);
    const advanced = [sides.source, sides.destination].map(
      ({ workload }, i) => workload.all("committed").length > (counts[i] ?? 0),
    );
    const runningOn = advanced[0]
      ? advanced[1]
        ? "both"
        : "source"
      : advanced[1]
        ? "destination"
        : "nowhere";
    const owner = runningOn === "destination" ? "destination" : "source";
    const failures: string[] = [];
    for (const { workload } of [sides.source, sides.destination]) {
      const error = workload.last("error");
      if (error !== undefined) failures.push(`${workload.name}: ${String(error["message"])}`);
      workload.kill("SIGTERM");
      await workload.waitForExit();
    }
    // Unmounted, so that what is read is the file.
    for (const peer of [this.leecher, this.seeder]) {
      if (peer.exit === undefined) await peer.stop();
    }
    const acknowledged = new Set<unknown>();
    for (const { workload } of [sides.source, sides.destination]) {
      for (const { id } of workload.all("committed")) acknowledged.add(id);
    }
    const seen = new Set<unknown>();
    let damaged = 0;
    const { integrity } = inspect(sides[owner].file, (row) => {
      seen.add(row.id);
      if (!isWhole(row)) damaged++;
    });
    let lost = damaged;
    for (const id of acknowledged) if (!seen.has(id)) lost++;
    return {
      owner,
      runningOn,
      rows: acknowledged.size,
      rowsLost: lost,
      integrity: [integrity, ...failures].join("; "),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#proxy?.blackhole(false);
    await this.stage[Symbol.asyncDispose]();
    await this.#proxy?.[Symbol.asyncDispose]();
  }

  async #begin(): Promise<void> {
    const { stage } = this;
    const { mode, destinationBytes, leechArgs = [] } = this.#options;
    // Post-copy is to last for several reports of its progress, so that there is a middle to hit.
    const { bytesPerS = (mode === "postcopy" ? 2 : 6) * MIB } = this.#options;
    this.#relay = await this.#startRelay();
    this.#proxy = await startProxy({ port: this.relay.port, delayMs: 5, bytesPerS });
    await stage.useRelay(this.relay, this.proxy.url);
    const source = (this.#source = await this.#side("source"));
    makeDatabase(source.file);
    const destination = (this.#destination = await this.#side("destination", destinationBytes));
    const { seeder, ticket } = await stage.seed([
      "--file",
      source.file,
      "--region",
      "db",
      "--export",
      `fuse:${source.mount}`,
      "--link",
      "websocket",
      "--on-suspend",
      `echo stop > ${source.control}; read word < ${source.answer}`,
      "--on-rollback",
      `echo start > ${source.control}`,
    ]);
    this.#seeder = seeder;
    tell(source, "start");
    await source.workload.waitFor("committed");
    this.#leecher = stage.leech(redirect(ticket, this.proxy.url), [
      "--file",
      destination.file,
      "--export",
      `fuse:${destination.mount}`,
      "--mode",
      mode,
      "--link",
      "websocket",
      "--sparse",
      "--on-resume",
      `echo start > ${destination.control}`,
      ...leechArgs,
    ]);
  }

  async #startRelay(port = 0): Promise<TestRelay> {
    const { databaseUrl } = this.#options;
    return await this.stage.relay({
      args: ["--listen", `127.0.0.1:${port}`, "--no-webtransport"],
      ...(databaseUrl === undefined ? {} : { databaseUrl }),
    });
  }

  async #side(name: string, diskBytes?: number): Promise<Side> {
    const { stage } = this;
    const mount = await stage.folder(`${name}-mount`);
    const disk =
      diskBytes === undefined
        ? await stage.folder(`${name}-disk`)
        : await stage.tmpfs(`${name}-disk`, diskBytes);
    const [control, answer] = [stage.file(`${name}.control`), stage.file(`${name}.answer`)];
    execFileSync("mkfifo", [control, answer]);
    const workload = stage.start({
      name: `the workload at the ${name}`,
      command: process.execPath,
      args: [
        "--disable-warning=ExperimentalWarning",
        WORKLOAD,
        `${mount}/db`,
        control,
        answer,
        String(REGION_BYTES),
      ],
      environment: stage.environment(),
    });
    await workload.waitFor("ready");
    return { file: `${disk}/db`, mount, control, answer, workload };
  }
}

/** Rows until most of the file is in use: chunks that are all zeros would take no time to send. */
function makeDatabase(file: string): void {
  const ledger = Ledger.create(file);
  let id = 0;
  while (ledger.bytes < REGION_BYTES * 0.85) {
    ledger.transaction(() => {
      for (let i = 0; i < 200; i++) ledger.insert(++id, 400);
    });
  }
  ledger.close();
  truncateSync(file, REGION_BYTES);
}

function tell(side: Side, word: string): void {
  execFileSync("sh", ["-c", `echo ${word} > ${side.control}`]);
}

function there<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the scene has not begun");
  return value;
}
