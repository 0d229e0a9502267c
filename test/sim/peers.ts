/**
 * The two peers as an operator runs them: a process, its journal and its identity; started again as
 * `memferry resume` would, from what the journal says.
 *
 * @module
 */
import { loadNative } from "../../native/index.ts";
import type { LeecherRecord, SeederRecord } from "../../peer/journal/journal.ts";
import type { KeptChunks } from "../../peer/migration/destination.ts";
import type { MigrationEvent } from "../../peer/migration/events.ts";
import type { Handshake } from "../../peer/migration/handshake.ts";
import { Leecher } from "../../peer/migration/leecher.ts";
import { Seeder } from "../../peer/migration/seeder.ts";
import { sleep } from "../../peer/sleep.ts";
import type { Link } from "../../peer/net/link.ts";
import type { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { PathManager } from "../../peer/net/paths/path-manager.ts";
import { RelayControl, type Ownership } from "../../peer/net/relay-control.ts";
import { MigrationError } from "../../peer/errors.ts";
import type { Command } from "../../relay/protocol/frame.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import type { Ticket } from "../../relay/protocol/ticket.ts";
import { Actor, type Host } from "./actor.ts";
import type { DirectPaths } from "./direct.ts";
import type { Clock } from "./clock.ts";
import { SECRET_PATH, type Image, type JournalFile } from "./disk.ts";
import type { Random } from "./random.ts";
import { SimRegion } from "./region.ts";
import type { Scenario } from "./scenario.ts";
import type { OldSignals } from "./signals.ts";
import type { Side, Workload } from "./workload.ts";

/** How a peer's part in the migration ended. */
export type Ending =
  | { readonly kind: "done" }
  | { readonly kind: "cancelled"; readonly error: unknown }
  /** It owns the region or serves the owner, and stopped all the same: it must be started again. */
  | { readonly kind: "failed"; readonly error: unknown };

/** What peers find around them. */
export interface Surroundings {
  readonly clock: Clock;
  readonly random: Random;
  readonly scenario: Scenario;
  readonly workload: Workload;
  readonly handshake: Handshake;
  readonly sessionId: Uint8Array;
  readonly secret: Uint8Array;
  readonly tokens: Record<Role, Uint8Array>;
  readonly hashKey: Uint8Array;
  readonly identities: Record<Role, PeerIdentity>;
  readonly dial: (peer: Actor, signal: AbortSignal) => Promise<Link>;
  readonly direct: DirectPaths;
  readonly signals: OldSignals;
  readonly trace: (actor: string, what: string) => void;
  readonly onGate: (side: Side) => void;
  /** The source's operator may now delete the image. */
  /** With what stands in the journal by then. */
  readonly onRelease: (record: SeederRecord | undefined) => void;
  readonly onEnding: (role: Role, ending: Ending) => void;
}

abstract class Peer {
  readonly role: Role;
  readonly host: Host;
  readonly image: Image;
  protected readonly around: Surroundings;
  actor: Actor | undefined;
  ending: Ending | undefined;
  #incarnation = 0;
  readonly #hooks = new Set<Actor>();

  constructor(role: Role, image: Image, around: Surroundings) {
    this.role = role;
    this.host = image.options.host;
    this.image = image;
    this.around = around;
  }

  get alive(): boolean {
    return this.actor?.alive === true;
  }

  /** Starts the process, again if need be. */
  start(): void {
    if (this.alive) return;
    this.host.up = true;
    this.ending = undefined;
    // A hook that outlived the process before is not left running beside those of this one.
    for (const hook of this.#hooks) hook.kill(false);
    const actor = new Actor(`${this.role}#${++this.#incarnation}`, this.host);
    this.actor = actor;
    this.around.trace(actor.name, this.#incarnation > 1 ? "starts again" : "starts");
    void actor.run(() => this.live(actor));
  }

  protected abstract live(actor: Actor): Promise<void>;

  protected end(actor: Actor, ending: Ending): void {
    if (!actor.alive) return;
    this.ending = ending;
    const why = ending.kind === "done" ? "" : `: ${describe(ending.error)}`;
    this.around.trace(actor.name, `ends ${ending.kind}${why}`);
    this.around.onEnding(this.role, ending);
  }

  /** @returns `undefined` if the session was over before this peer was ever in it. */
  protected async join(
    actor: Actor,
    rejoin: boolean,
    onOwnership: (ownership: Ownership) => void,
  ): Promise<RelayControl | undefined> {
    const { sessionId, secret, tokens, identities, trace } = this.around;
    const { role } = this;
    const ticket: Ticket = {
      relayUrl: "https://relay:1",
      certificateHashes: [],
      sessionId,
      role,
      token: tokens[role],
      secret,
    };
    for (;;) {
      try {
        const control = await RelayControl.join({
          ticket,
          identity: identities[role],
          rejoin,
          dial: (signal) => this.around.dial(actor, signal),
          onOwnership: (ownership) => {
            trace(actor.name, `hears ${ownership.owner} ${ownership.epoch} ${ownership.state}`);
            onOwnership(ownership);
          },
          onCommand: (command) => this.hears(command),
          onConnection: (connected) => trace(actor.name, connected ? "connected" : "disconnected"),
        });
        trace(actor.name, "joins");
        return control;
      } catch (error) {
        trace(actor.name, `cannot join: ${describe(error)}`);
        if (codeOf(error) === "SESSION_ENDED") return undefined;
        await sleep(1_000);
      }
    }
  }

  /** What a person asked for through the API. */
  protected hears(_command: Command): void {}

  protected paths(actor: Actor, session: RelayControl): PathManager {
    const { sessionId, secret, direct, signals, trace } = this.around;
    return new PathManager({
      role: this.role,
      session: signals.session(this.role, actor, session),
      sessionId,
      secret,
      policy: "auto",
      dialer: direct.dialer(actor),
      onEvent: (event) => {
        const what = event.event === "path" ? `${event.path} ${event.reason}` : event.failed;
        trace(actor.name, `${event.event} ${what}`);
      },
    });
  }

  /** Runs something of the operator's beside the process, which may die meanwhile. */
  protected hook(name: string, actor: Actor, effect: () => void): Promise<void> {
    const { clock, random, scenario, trace } = this.around;
    trace(actor.name, `hook ${name} begins`);
    const process = new Actor(`hook ${name}`, this.host);
    this.#hooks.add(process);
    process.onDeath(() => this.#hooks.delete(process));
    const fails = random.chance(scenario.hookFails);
    actor.onDeath(() => {
      if (random.chance(0.5)) process.kill(false);
    });
    return new Promise((resolve, reject) => {
      clock.after(random.delay(scenario.hookMeanMs), process, () => {
        trace(process.name, fails ? "fails" : "ends");
        process.kill(false);
        if (!fails) effect();
        if (!actor.alive) return;
        if (fails) reject(new MigrationError("HOOK_FAILED", `${SECRET_PATH}/hook failed`));
        else resolve();
      });
    });
  }

  protected noteEvent(actor: Actor, event: MigrationEvent): void {
    const { trace } = this.around;
    if (event.event === "phase") trace(actor.name, `phase ${event.phase} ${event.detail ?? ""}`);
    else if (event.event === "warning") trace(actor.name, `warning ${event.code} ${event.message}`);
    else if (event.event === "round")
      trace(actor.name, `round ${event.round}: ${event.dirtyBytes} bytes`);
    else trace(actor.name, event.event);
  }
}

export class SeederPeer extends Peer {
  readonly journal: JournalFile<SeederRecord>;
  #seeder: Seeder | undefined;
  #damaged = new Set<number>();

  constructor(image: Image, journal: JournalFile<SeederRecord>, around: Surroundings) {
    super("seeder", image, around);
    this.journal = journal;
  }

  /** The operator knows that it is needed no more. */
  dismiss(): void {
    if (this.actor !== undefined) this.end(this.actor, { kind: "done" });
  }

  async cancel(): Promise<void> {
    const [actor, seeder] = [this.actor, this.#seeder];
    if (actor?.alive !== true || seeder === undefined || this.ending !== undefined) return;
    await actor.run(() => seeder.cancel("the operator of the source"));
  }

  protected async live(actor: Actor): Promise<void> {
    const { workload, trace, onGate } = this.around;
    const record = this.journal.record;
    const phase = record?.phase;
    const gone = phase === "committed" || phase === "released";
    const region = new SimRegion({
      image: this.image,
      actor,
      gate: gone ? "fenced" : phase === "finalized" ? "closed" : "open",
      damage: (index, bytes) => this.#damage(index, bytes),
      onGate: () => onGate("source"),
      trace,
    });
    this.#seeder = undefined;
    // What runs when this host starts: the workload, unless a migration holds it.
    const here = phase === undefined || ["offered", "tracking", "rolledBack"].includes(phase);
    if (this.host.booted && here) workload.start("source");
    this.host.booted = false;
    if (phase === "released") return this.end(actor, { kind: "done" });
    if (phase === "rolledBack") return this.end(actor, { kind: "cancelled", error: phase });
    const control = await this.join(actor, record !== undefined, (ownership) =>
      this.#seeder?.ownershipChanged(ownership),
    );
    if (control === undefined) return this.end(actor, { kind: "cancelled", error: "never joined" });
    const { sessionId, secret, hashKey, handshake } = this.around;
    const paths = this.paths(actor, control);
    const seeder = new Seeder({
      session: paths,
      sessionId,
      secret,
      region,
      dirty: region,
      hashKey,
      keyedHash: (data) => loadNative().blake3(data, hashKey),
      journal: this.journal.open(actor),
      handshake,
      hooks: {
        onSuspend: () => this.hook("suspend", actor, () => workload.stop("source")),
        onRollback: () => this.hook("rollback", actor, () => workload.start("source")),
        onRelease: () =>
          this.hook("release", actor, () => this.around.onRelease(this.journal.record)),
      },
      onEvent: (event) => this.noteEvent(actor, event),
    });
    this.#seeder = seeder;
    try {
      await seeder.run();
      this.end(actor, { kind: "done" });
    } catch (error) {
      this.end(actor, { kind: seeder.committed ? "failed" : "cancelled", error });
    }
    await paths.close();
    await control.close();
  }

  #damage(index: number, bytes: Uint8Array): void {
    const { random, scenario } = this.around;
    if (!random.chance(scenario.damageRatio) || this.#damaged.has(index)) return;
    this.#damaged.add(index);
    bytes[random.below(bytes.length)] = (bytes[0] ?? 0) ^ 0x55;
  }
}

export class LeecherPeer extends Peer {
  readonly journal: JournalFile<LeecherRecord>;
  #leecher: Leecher | undefined;

  constructor(image: Image, journal: JournalFile<LeecherRecord>, around: Surroundings) {
    super("leecher", image, around);
    this.journal = journal;
  }

  finalize(): void {
    const leecher = this.#leecher;
    if (leecher !== undefined) this.actor?.run(() => leecher.finalize());
  }

  protected override hears(command: Command): void {
    if (command === "postcopy") this.#leecher?.finalize({ postcopy: true });
  }

  async cancel(): Promise<void> {
    const [actor, leecher] = [this.actor, this.#leecher];
    if (actor?.alive !== true || leecher === undefined || this.ending !== undefined) return;
    await actor.run(() => leecher.cancel("the operator of the destination"));
  }

  protected async live(actor: Actor): Promise<void> {
    const { workload, scenario, sessionId, secret, handshake } = this.around;
    const record = this.journal.record;
    this.#leecher = undefined;
    if (record?.phase === "cancelled") {
      return this.end(actor, { kind: "cancelled", error: "cancelled" });
    }
    if (record?.phase === "done") {
      this.#open(actor, "open");
      workload.start("destination");
      return this.end(actor, { kind: "done" });
    }
    const control = await this.join(actor, record !== undefined, (ownership) =>
      this.#leecher?.ownershipChanged(ownership),
    );
    if (control === undefined) return this.end(actor, { kind: "cancelled", error: "never joined" });
    const paths = this.paths(actor, control);
    const leecher = new Leecher({
      session: paths,
      sessionId,
      secret,
      keyedHash: (key) => (data) => loadNative().blake3(data, key),
      mode: scenario.mode,
      finalize: scenario.finalize,
      downtimeBudgetMs: scenario.downtimeBudgetMs,
      dataStreams: scenario.dataStreams,
      journal: this.journal.open(actor),
      workloadStayed: workload.running("destination"),
      prepare: async () => {
        const region = this.#open(actor, "closed");
        return {
          region,
          exported: scenario.exported,
          get onFault() {
            return region.onFault;
          },
          set onFault(onFault) {
            region.onFault = onFault;
          },
          ...(record?.offer === undefined ? {} : { kept: await this.#kept(region) }),
        };
      },
      onResume: () => this.hook("resume", actor, () => workload.start("destination")),
      onEvent: (event) => this.noteEvent(actor, event),
      handshake,
    });
    this.#leecher = leecher;
    try {
      await leecher.run();
      this.end(actor, { kind: "done" });
    } catch (error) {
      this.end(actor, { kind: leecher.committed ? "failed" : "cancelled", error });
    }
    await paths.close();
    await control.close();
  }

  #open(actor: Actor, gate: "open" | "closed"): SimRegion {
    const { trace, onGate } = this.around;
    return new SimRegion({
      image: this.image,
      actor,
      gate,
      onGate: () => onGate("destination"),
      trace,
    });
  }

  async #kept(region: SimRegion): Promise<KeptChunks> {
    const { hashes } = await region.hash(
      Uint32Array.from({ length: region.chunkCount }, (_, i) => i),
    );
    return {
      present: this.image.present.toBits(),
      presentHashes: this.image.storedHashes.slice(),
      heldHashes: hashes,
    };
  }
}

export function codeOf(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string")
    return error.code;
  return error instanceof Error ? error.name : "";
}

export function describe(error: unknown): string {
  return error instanceof Error ? `${codeOf(error)} ${error.message}` : String(error);
}
