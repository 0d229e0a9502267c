/**
 * One run: both peers, the relay and its database, disks and network, until the migration has ended.
 *
 * Faults happen until the scenario heals; from then on everything works and the peers must come to an end.
 *
 * @module
 */
import type { LeecherRecord, SeederRecord } from "../../peer/journal/journal.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import { Host } from "./actor.ts";
import { Clock, useClock } from "./clock.ts";
import { Database } from "./database.ts";
import { Image, JournalFile, type DiskTrouble } from "./disk.ts";
import { Nemesis } from "./nemesis.ts";
import { pskHandshake } from "./handshake.ts";
import { Invariants, Broken } from "./invariants.ts";
import { Network } from "./network.ts";
import { DirectPaths } from "./direct.ts";
import { OldSignals } from "./signals.ts";
import { describe, LeecherPeer, SeederPeer, type Surroundings } from "./peers.ts";
import { Random } from "./random.ts";
import { RelayNode } from "./relay-node.ts";
import { CHUNK_BYTES, drawScenario, type Scenario } from "./scenario.ts";
import { Shadow } from "./shadow.ts";
import { Trace } from "./trace.ts";
import { Workload } from "./workload.ts";

/** From the end of the last fault to the end of the migration: well above the sum of all deadlines. */
const PATIENCE_MS = 400_000;
/** An operator whose other side has given up does not wait longer. */
const OPERATOR_PATIENCE_MS = 30_000;

export interface Failure {
  readonly invariant: string;
  readonly what: string;
}

export interface RunResult {
  readonly seed: number;
  readonly hash: string;
  readonly events: number;
  readonly virtualMs: number;
  /** Where the workload is at the end. */
  readonly end: "destination" | "source";
  readonly operations: number;
  /** Whether an operator had to end a side that waited for one which was gone. */
  readonly helped: boolean;
  readonly failure: Failure | undefined;
  readonly trace: readonly string[];
}

/** Made once: a signature is as good as any other. */
const identities: Record<Role, PeerIdentity> = {
  seeder: PeerIdentity.generate(),
  leecher: PeerIdentity.generate(),
};

/** @param verbose Keeps the whole trace. */
export async function runSeed(seed: number, verbose = false): Promise<RunResult> {
  const random = new Random(seed);
  const world = new World(drawScenario(seed, random), random, verbose);
  useClock({ clock: world.clock, random });
  const onUnhandled = (error: unknown): void =>
    world.invariants.note("I0", `a rejection that nobody handles: ${describe(error)}`);
  process.on("unhandledRejection", onUnhandled);
  try {
    return await world.run();
  } finally {
    process.off("unhandledRejection", onUnhandled);
    useClock(undefined);
  }
}

export class World {
  readonly scenario: Scenario;
  readonly random: Random;
  readonly clock = new Clock();
  readonly tracer: Trace;
  readonly hosts = {
    seeder: new Host("source"),
    leecher: new Host("destination"),
    relay: [new Host("relay-a"), new Host("relay-b")] as const,
  };
  readonly sessionId: Uint8Array;
  readonly database: Database;
  readonly network: Network;
  readonly nodes: readonly [RelayNode, RelayNode];
  /** Where the relay's name leads to. */
  activeNode = 0;
  readonly disks: Record<Role, DiskTrouble>;
  readonly shadow: Shadow;
  readonly images: { readonly source: Image; readonly destination: Image };
  readonly workload: Workload;
  readonly seeder: SeederPeer;
  readonly leecher: LeecherPeer;
  readonly invariants: Invariants;
  readonly nemesis: Nemesis;
  /** Nothing is broken any more. */
  healed = false;
  #helped = false;

  constructor(scenario: Scenario, random: Random, verbose: boolean) {
    this.scenario = scenario;
    this.random = random;
    const { clock } = this;
    this.tracer = new Trace(() => clock.nowMs, verbose);
    const trace = (actor: string, what: string): void => this.trace(actor, what);
    const broken = (invariant: string, what: string): void => this.invariants.note(invariant, what);
    const secrets = { hashKey: random.bytes(32), secret: random.bytes(32) };
    const tokens = { seeder: random.bytes(32), leecher: random.bytes(32) };
    this.sessionId = random.bytes(16);
    this.shadow = new Shadow(scenario.slices, CHUNK_BYTES);
    const onRelayBytes = (bytes: Uint8Array): void => this.invariants.checkSecrecy(bytes);
    this.database = new Database({
      clock,
      random,
      tokens,
      onChange: (change, what) => {
        trace("database", what);
        if (change === "commit") this.invariants.committed();
        this.invariants.stateChanged();
      },
    });
    this.database.trouble.meanMs = scenario.databaseMeanMs;
    this.network = new Network(
      { clock, random, onRelayBytes, onBroken: broken, trace },
      scenario.quality,
    );
    this.network.ghostRatio = scenario.ghostRatio;
    const onLog = (text: string): void => this.invariants.checkSecrecy(Buffer.from(text));
    const node = (host: Host): RelayNode => new RelayNode({ host, database: this.database, onLog });
    this.nodes = [node(this.hosts.relay[0]), node(this.hosts.relay[1])];
    const disk = (): DiskTrouble => ({
      meanMs: scenario.diskMeanMs,
      full: false,
      journalFails: 0,
      syncFails: 0,
      readFails: 0,
    });
    this.disks = { seeder: disk(), leecher: disk() };
    const image = (role: Role, present: "all" | "none"): Image =>
      new Image({
        host: this.hosts[role],
        slices: scenario.slices,
        chunkBytes: CHUNK_BYTES,
        hashKey: secrets.hashKey,
        present,
        clock,
        random,
        trouble: this.disks[role],
        placeOf: (cell) => this.shadow.place(cell),
        onWrite: (cell) => {
          this.invariants.accessed(role === "seeder" ? "source" : "destination");
          return this.shadow.write(cell);
        },
      });
    this.images = { source: image("seeder", "all"), destination: image("leecher", "none") };
    this.workload = new Workload({
      random,
      shadow: this.shadow,
      images: this.images,
      pauseMs: scenario.workloadPauseMs,
      writeRatio: scenario.writeRatio,
      mappedRatio: scenario.mappedRatio,
      exported: scenario.exported,
      onBroken: broken,
      trace,
    });
    const around: Surroundings = {
      clock,
      random,
      scenario,
      workload: this.workload,
      handshake: pskHandshake(random),
      sessionId: this.sessionId,
      tokens,
      ...secrets,
      identities,
      dial: (peer, signal) =>
        this.network.dial(peer, () => this.nodes[this.activeNode]?.listener, signal),
      direct: new DirectPaths(this.network, scenario.direct),
      signals: new OldSignals(
        clock,
        new Random(scenario.seed + 0x51_61_a1),
        scenario.signalsRepeated,
      ),
      trace,
      onGate: () => this.invariants.checkOwner(),
      onRelease: (record) => this.invariants.released(record),
      onEnding: (role, ending) => this.invariants.ended(role, ending),
    };
    const journal = <R extends { readonly phase: string }>(role: Role): JournalFile<R> =>
      new JournalFile<R>({
        clock,
        random,
        trouble: this.disks[role],
        onWrite: (actor, record, moment) => trace(actor.name, `journal ${record.phase} ${moment}`),
      });
    this.seeder = new SeederPeer(this.images.source, journal<SeederRecord>("seeder"), around);
    this.leecher = new LeecherPeer(
      this.images.destination,
      journal<LeecherRecord>("leecher"),
      around,
    );
    this.invariants = new Invariants(this, secrets);
    this.nemesis = new Nemesis(this);
  }

  trace(actor: string, what: string): void {
    this.tracer.add(actor, what);
    this.nemesis.notice(what);
  }

  async run(): Promise<RunResult> {
    const { clock, scenario, random } = this;
    this.#fill();
    this.nodes[0].start();
    this.nodes[1].start();
    this.nemesis.arm();
    this.seeder.start();
    clock.after(random.delay(200), undefined, () => this.leecher.start());
    clock.after(scenario.finalizeAtMs, undefined, () => {
      if (scenario.finalize.kind !== "auto") this.leecher.finalize();
    });
    clock.after(scenario.healAtMs, undefined, () => this.#heal());
    try {
      const alive = await clock.run(() => {
        this.invariants.step();
        if (!this.healed && this.#ended && !this.nemesis.pending) return true;
        return this.healed && (this.#ended || clock.nowMs > scenario.healAtMs + PATIENCE_MS);
      });
      if (!alive) this.invariants.note("I4", "nothing is left to happen");
      this.invariants.end();
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
    }
    return {
      seed: scenario.seed,
      hash: this.tracer.hash,
      events: this.tracer.count,
      virtualMs: clock.nowMs,
      end: this.database.truth.owner === "leecher" ? "destination" : "source",
      operations: this.workload.operations,
      helped: this.#helped,
      failure: this.invariants.failure,
      trace: this.tracer.lines(),
    };
  }

  /** Both peers' parts are over, and for good. */
  get #ended(): boolean {
    const { seeder, leecher } = this;
    const over = (peer: SeederPeer | LeecherPeer): boolean =>
      peer.alive && peer.ending !== undefined && peer.ending.kind !== "failed";
    return over(seeder) && over(leecher);
  }

  /** What the region holds at the start, made durable. */
  #fill(): void {
    const { shadow, images, scenario, random } = this;
    for (let cell = 0; cell < shadow.cellCount; cell++) {
      if (!random.chance(scenario.filledRatio)) continue;
      images.source.cache.set(shadow.write(cell), shadow.place(cell).offset);
    }
    images.source.file.set(images.source.cache);
    images.source.durable.set(images.source.cache);
    shadow.fsynced(shadow.snapshot());
  }

  #heal(): void {
    this.healed = true;
    this.trace("nemesis", "all is well from now on");
    this.nemesis.heal();
    this.workload.calm();
    const tick = (): void => {
      this.#operate();
      this.clock.after(2_000, undefined, tick);
    };
    tick();
  }

  /** What operators do when nothing is broken any more: start what is down, end what waits for nobody. */
  #operate(): void {
    const { seeder, leecher, clock, scenario } = this;
    for (const peer of [seeder, leecher]) {
      if (peer.ending?.kind === "failed") peer.actor?.kill(false);
      if (!peer.alive) peer.start();
    }
    if (scenario.finalize.kind !== "auto") leecher.finalize();
    if (clock.nowMs < scenario.healAtMs + OPERATOR_PATIENCE_MS) return;
    if (this.database.truth.owner === "leecher") {
      // The destination's last word was lost with its connection; its operator sees that it is done.
      if (leecher.ending?.kind !== "done" || seeder.ending !== undefined) return;
      this.#helped = true;
      seeder.dismiss();
      return;
    }
    const alone = (one: SeederPeer | LeecherPeer, other: SeederPeer | LeecherPeer): boolean =>
      one.ending === undefined && other.ending?.kind === "cancelled";
    for (const [one, other] of [
      [seeder, leecher],
      [leecher, seeder],
    ] as const) {
      if (!alone(one, other)) continue;
      this.#helped = true;
      this.trace("operator", `cancels the ${one.role}`);
      one.cancel().catch((error: unknown) => this.trace("operator", describe(error)));
    }
  }
}
