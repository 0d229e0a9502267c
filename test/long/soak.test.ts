/**
 * Hundreds of migrations in a row between two processes that live long, over one relay, with faults at random times.
 *
 * After each: one owner, on whose word all three agree; the destination's bytes are the writer's, or the migration was
 * rolled back and the source has them. At the end: nobody has grown, nothing was left open, mounted or lying around.
 * `MEMFERRY_SOAK` is the number of migrations, `MEMFERRY_SOAK_SEED` decides what goes wrong, and `MEMFERRY_SOAK_FROM` leaves
 * out those before it.
 */
import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

import { ApiClient, ApiError } from "../../peer/net/api-client.ts";
import { sleep } from "../../peer/sleep.ts";
import { encodeTicket } from "../../relay/protocol/ticket.ts";
import { makeFile } from "../e2e/files.ts";
import { residentBytes, Stage, type TestRelay } from "../e2e/harness.ts";
import { type Proxy, startProxy } from "../e2e/proxy.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import type { Outcome, Task } from "./soak-attempt.ts";
import { drawFaults, type Fault } from "./soak-faults.ts";
import { COLUMNS, LIMITS, medians, type Sample, table } from "./soak-figures.ts";
import type { Measured, Order, Report } from "./soak-peer.ts";

const MIGRATIONS = Number(process.env["MEMFERRY_SOAK"] ?? 500);
const FROM = Number(process.env["MEMFERRY_SOAK_FROM"] ?? 0);
const SEED = Number(process.env["MEMFERRY_SOAK_SEED"] ?? 1);
const REGION_BYTES = 16 * 1024 * 1024 + 4_321;
/** Every so often the regions are exported, and read while they arrive. */
const EXPORT_EVERY = 10;
/** A migration that takes this long hangs: every wait in it is shorter. */
const HANG_MS = 180_000;
const PEER = fileURLToPath(new URL("soak-peer.ts", import.meta.url));

type Role = "seeder" | "leecher";

/** A process that carries out one migration after another. */
class Peer {
  readonly #child: ChildProcess;
  readonly #reports: Report[] = [];
  #phases: string[] = [];
  #notify: () => void = () => undefined;
  stderr = "";

  constructor(role: Role, environment: NodeJS.ProcessEnv) {
    this.#child = fork(PEER, [role], {
      env: environment,
      execArgv: [],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    this.#child.stderr?.on("data", (text: Buffer) => {
      this.stderr += text.toString();
    });
    this.#child.on("message", (report: Report) => {
      if (report.report === "phase") this.#phases.push(report.phase);
      else this.#reports.push(report);
      this.#notify();
    });
    this.#child.on("exit", () => this.#notify());
  }

  order(order: Order): void {
    if (order.order === "migrate") this.#phases = [];
    this.#child.send(order);
  }

  /** The next report, which must be of this kind. */
  async next<K extends Report["report"]>(kind: K): Promise<Extract<Report, { report: K }>> {
    const until = performance.now() + HANG_MS;
    for (;;) {
      const report = this.#reports.shift();
      if (report !== undefined) {
        if (report.report !== kind) throw new Error(`${report.report} where ${kind} was due`);
        // The kind is what tells the reports apart.
        return report as Extract<Report, { report: K }>;
      }
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
        throw new Error(`the peer ended: ${this.stderr.slice(-3_000)}`);
      }
      if (performance.now() > until) throw new Error(`hangs after ${this.phases}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 5_000);
        this.#notify = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  get phases(): string {
    return this.#phases.join(", ");
  }

  async measure(): Promise<Measured> {
    this.order({ order: "measure" });
    return (await this.next("measured")).measured;
  }

  async quit(): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once("exit", resolve));
    if (this.#child.connected) this.order({ order: "quit" });
    await Promise.race([gone, sleep(10_000)]);
    this.#child.kill("SIGKILL");
  }
}

interface Scene {
  readonly stage: Stage;
  relay: TestRelay;
  readonly proxies: Readonly<Record<Role, Proxy>>;
  readonly peers: Readonly<Record<Role, Peer>>;
  readonly api: ApiClient;
}

async function inject(scene: Scene, faults: readonly Fault[], sessionId: string): Promise<void> {
  await Promise.all(
    faults.map(async (fault) => {
      await sleep(fault.atMs);
      switch (fault.kind) {
        case "cut":
          scene.proxies[fault.who].cut();
          return;
        case "blackhole":
          scene.proxies[fault.who].blackhole(true);
          await sleep(fault.forMs);
          scene.proxies[fault.who].blackhole(false);
          return;
        case "cancel":
          if (fault.by !== "api") scene.peers[fault.by].order({ order: "cancel" });
          else await cancelAtRelay(scene.api, sessionId);
          return;
        case "freeze":
          scene.relay.program.kill("SIGSTOP");
          await sleep(fault.forMs);
          scene.relay.program.kill("SIGCONT");
          return;
        case "restart":
          scene.relay.program.kill(fault.signal);
          await scene.relay.program.waitForExit();
          scene.relay = await scene.stage.relay({
            args: ["--listen", `127.0.0.1:${scene.relay.port}`],
          });
          return;
      }
    }),
  );
}

/** It may be too late for it. */
async function cancelAtRelay(api: ApiClient, sessionId: string): Promise<void> {
  try {
    await api.act(sessionId, "cancel");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}

/** What is wrong with how a migration ended, if anything is. */
function judge(seeder: Outcome, leecher: Outcome, holder: string | undefined): string[] {
  const wrong: string[] = [];
  const require = (holds: boolean, what: string): void => {
    if (!holds) wrong.push(what);
  };
  require(seeder.committed === leecher.committed, "the peers disagree on who owns the region");
  const owner = leecher.committed ? "leecher" : "seeder";
  require(holder === owner, `the relay says ${holder} and the peers ${owner}`);
  require(seeder.digest === seeder.expected, "the source's bytes are not the writer's");
  if (leecher.committed) {
    require(leecher.done && seeder.done, "a migration that was committed did not come to its end");
    require(leecher.digest === seeder.expected, "the destination's bytes are not the writer's");
    const read = leecher.expected;
    require(read === "" ||
      read === leecher.digest, "a program read other bytes at the destination");
  } else {
    require(!seeder.done && !leecher.done, "done without a commit");
  }
  return wrong;
}

interface Tally {
  done: number;
  rolledBack: number;
  writes: number;
  refetched: number;
  readonly faults: Map<string, number>;
  readonly downtimes: number[];
}

async function migrate(scene: Scene, n: number, random: SeededRandom, tally: Tally): Promise<void> {
  const { stage, api, proxies, peers } = scene;
  // The relay must stay the same process where its memory is compared.
  const faults = drawFaults(random, n < MIGRATIONS / 5);
  const exported = n % EXPORT_EVERY === 0 && existsSync("/dev/fuse");
  const mode = exported
    ? "hybrid"
    : ((["precopy", "hybrid", "postcopy"] as const)[random.below(3)] ?? "hybrid");
  if (n < FROM) return;
  for (const { kind } of faults) tally.faults.set(kind, (tally.faults.get(kind) ?? 0) + 1);
  const created = await api.createSession({ name: `soak-${n}`, ticketTtlMs: 600_000 });
  const secret = randomBytes(32);
  const task = async (role: Role, file: string): Promise<Task> => ({
    ticket: encodeTicket({
      ...created.relay,
      relayUrl: proxies[role].url,
      sessionId: created.id,
      secret,
      role,
      token: role === "seeder" ? created.seederToken : created.leecherToken,
    }),
    link: "websocket",
    file: stage.file(file),
    bytes: REGION_BYTES,
    stateDirectory: stage.file(`state-${role}`),
    exportDirectory: exported ? await stage.folder(`mount-${role}`) : undefined,
    mode,
    seed: SEED * 1_000_003 + n,
  });
  peers.seeder.order({ order: "migrate", task: await task("seeder", "source") });
  peers.leecher.order({ order: "migrate", task: await task("leecher", `copy-${n}`) });
  const id = Buffer.from(created.id).toString("hex");
  const told = `migration ${n} of seed ${SEED} (${mode}, ${JSON.stringify(faults)})`;
  let over: string | undefined;
  const outcomeOf = async (role: Role): Promise<Outcome> => {
    const { outcome } = await peers[role].next("outcome");
    over = `the ${role} is over: ${[outcome.error, ...outcome.events].join("\n")}`;
    return outcome;
  };
  const [seeder, leecher] = await Promise.all([
    outcomeOf("seeder"),
    outcomeOf("leecher"),
    inject(scene, faults, id),
  ]).catch((cause: unknown) => {
    const phases = `seeder: ${peers.seeder.phases}; leecher: ${peers.leecher.phases}`;
    throw new Error(`${told}: ${String(cause)}; ${phases}; ${over ?? "neither is over"}`, {
      cause,
    });
  });
  const { authority } = await api.getSession(id);
  const wrong = judge(seeder, leecher, authority?.holder);
  if (wrong.length > 0) {
    throw new Error(
      [
        `${told}: ${wrong.join("; ")}`,
        `seeder: ${seeder.error}`,
        ...seeder.events,
        `leecher: ${leecher.error}`,
        ...leecher.events,
      ].join("\n"),
    );
  }
  if (leecher.committed) {
    tally.done++;
    tally.downtimes.push(leecher.downtimeMs);
  } else tally.rolledBack++;
  tally.writes += seeder.writes;
  tally.refetched += leecher.refetchedChunks;
}

async function sample(scene: Scene): Promise<Sample> {
  const { exit, stderr } = scene.relay.program;
  if (exit !== undefined)
    throw new Error(`the relay ended (${exit.code}, ${exit.signal}): ${stderr}`);
  const [seeder, leecher] = await Promise.all([
    scene.peers.seeder.measure(),
    scene.peers.leecher.measure(),
  ]);
  const { pid } = scene.relay.program;
  const descriptors = descriptorsOf(pid);
  const sockets = descriptors.filter((target) => target.startsWith("socket:")).length;
  return {
    relayBytes: residentBytes(pid),
    seederBytes: seeder.residentBytes,
    leecherBytes: leecher.residentBytes,
    seederHeapBytes: seeder.heapBytes,
    leecherHeapBytes: leecher.heapBytes,
    relaySockets: sockets,
    relayFiles: descriptors.length - sockets,
    seederDescriptors: seeder.descriptors.length,
    leecherDescriptors: leecher.descriptors.length,
  };
}

/** What each descriptor stands for. */
function descriptorsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/\d{3,}/g, "N");
    } catch {
      return "";
    }
  });
}

function leftovers(stage: Stage): Record<string, readonly string[]> {
  return {
    files: readdirSync(stage.path).filter((name) => name.startsWith("copy-")),
    temporary: readdirSync(stage.file("tmp")),
    states: [
      ...readdirSync(stage.file("state-seeder")),
      ...readdirSync(stage.file("state-leecher")),
    ],
    mounts: stage.mounts(),
  };
}

function namespaces(): string[] {
  const named = existsSync("/run/netns") ? readdirSync("/run/netns") : [];
  return [...named, readFileSync("/proc/self/mountinfo", "utf8").match(/ nsfs /g)?.length ?? 0].map(
    String,
  );
}

test(`${MIGRATIONS} migrations in a row, with faults, leave one owner each time and nothing behind`, async () => {
  await using stage = await Stage.open();
  const environment = stage.environment({ TMPDIR: await stage.folder("tmp") });
  for (const role of ["seeder", "leecher"]) await stage.folder(`state-${role}`);
  await makeFile(stage.file("source"), REGION_BYTES);
  const relay = await stage.relay();
  await using seederProxy = await startProxy({ port: relay.port });
  await using leecherProxy = await startProxy({ port: relay.port });
  const peers = {
    seeder: new Peer("seeder", environment),
    leecher: new Peer("leecher", environment),
  };
  const scene: Scene = {
    stage,
    relay,
    proxies: { seeder: seederProxy, leecher: leecherProxy },
    peers,
    api: new ApiClient({
      url: relay.url,
      key: relay.key,
      certificateHashes: relay.certificateHashes.map((hash) =>
        Buffer.from(hash.replaceAll(":", ""), "hex"),
      ),
    }),
  };
  const namespacesBefore = namespaces();
  const random = new SeededRandom(SEED);
  const tally: Tally = {
    done: 0,
    rolledBack: 0,
    writes: 0,
    refetched: 0,
    faults: new Map(),
    downtimes: [],
  };
  const samples: Sample[] = [];
  const startedAtMs = performance.now();
  try {
    for (const role of ["seeder", "leecher"] as const) await peers[role].next("ready");
    for (let n = 0; n < MIGRATIONS; n++) {
      await migrate(scene, n, random, tally);
      if (n >= FROM) samples.push(await sample(scene));
      if (n % 50 === 49) console.log(progress(n + 1, startedAtMs));
    }
    console.log(summary(samples, tally, startedAtMs));
    expect(leftovers(stage)).toEqual({ files: [], temporary: [], states: [], mounts: [] });
    // Another test's may have gone meanwhile.
    expect(namespaces().filter((name) => !namespacesBefore.includes(name))).toEqual([]);
    for (const column of COLUMNS) {
      const [early, late] = medians(samples, column);
      expect(late, column).toBeLessThanOrEqual(LIMITS[column](early));
    }
  } finally {
    for (const role of ["seeder", "leecher"] as const) await peers[role].quit();
  }
});

function progress(count: number, startedAtMs: number): string {
  const seconds = (performance.now() - startedAtMs) / 1_000;
  return `${count} migrations in ${seconds.toFixed(0)} s`;
}

function summary(samples: readonly Sample[], tally: Tally, startedAtMs: number): string {
  const faults = [...tally.faults].map(([kind, count]) => `${kind} ${count}`).join(", ");
  const downtimes = tally.downtimes.toSorted((a, b) => a - b);
  const at = (share: number): string =>
    (downtimes[Math.floor(downtimes.length * share)] ?? 0).toFixed(0);
  return [
    `${progress(samples.length, startedAtMs)}, seed ${SEED}: ${tally.done} done, ${tally.rolledBack} rolled back`,
    `faults: ${faults}; ${tally.writes} writes at the source, ${tally.refetched} chunks refetched`,
    `downtime: median ${at(0.5)} ms, 90 of 100 within ${at(0.9)} ms`,
    table(samples),
  ].join("\n");
}
