/**
 * Carries out the faults of a scenario, and takes them all back when it heals.
 *
 * @module
 */
import type { Role } from "../../relay/protocol/ids.ts";
import type { Host } from "./actor.ts";
import type { Deed, Fault } from "./faults.ts";
import type { PathQuality } from "./network.ts";
import type { World } from "./world.ts";

interface Armed {
  readonly fault: Fault;
  left: number;
  done: boolean;
}

export class Nemesis {
  readonly #world: World;
  readonly #armed: Armed[];
  readonly #goodPath: PathQuality;
  #over = false;
  #underWay = 0;

  constructor(world: World) {
    this.#world = world;
    this.#goodPath = world.network.quality;
    this.#armed = world.scenario.faults.map((fault) => ({
      fault,
      left: fault.trigger.kind === "step" ? fault.trigger.nth : 0,
      done: false,
    }));
  }

  /** Whether something is broken now, or about to be. */
  get pending(): boolean {
    return this.#underWay > 0;
  }

  arm(): void {
    for (const armed of this.#armed) {
      const { trigger } = armed.fault;
      if (trigger.kind === "time") this.#later(trigger.atMs, armed);
    }
  }

  /** Something happened. */
  notice(what: string): void {
    if (this.#over) return;
    for (const armed of this.#armed) {
      const { trigger } = armed.fault;
      if (armed.done || trigger.kind !== "step" || !what.startsWith(trigger.step)) continue;
      if (--armed.left === 0) this.#later(trigger.delayMs, armed);
    }
  }

  heal(): void {
    this.#over = true;
    const { network, database, disks, nodes, hosts } = this.#world;
    network.heal();
    network.quality = this.#goodPath;
    this.#hold(false);
    Object.assign(database.trouble, { refused: 0, unanswered: 0, late: 0 });
    database.unfreeze();
    for (const disk of [disks.seeder, disks.leecher]) {
      Object.assign(disk, { full: false, journalFails: 0, syncFails: 0, readFails: 0 });
      disk.meanMs = this.#world.scenario.diskMeanMs;
    }
    for (const node of nodes) if (!node.alive) node.start();
    for (const host of [hosts.seeder, hosts.leecher]) host.up = true;
  }

  #later(delayMs: number, armed: Armed): void {
    armed.done = true;
    this.#underWay++;
    this.#world.clock.after(delayMs, undefined, () => {
      this.#underWay--;
      if (!this.#over) this.#do(armed.fault.deed);
    });
  }

  /** Takes something back after a time, if healing did not before. */
  #undo(forMs: number, undo: () => void): void {
    this.#underWay++;
    this.#world.clock.after(forMs, undefined, () => {
      this.#underWay--;
      if (!this.#over) undo();
    });
  }

  #do(deed: Deed): void {
    const world = this.#world;
    world.trace("nemesis", JSON.stringify(deed));
    switch (deed.kind) {
      case "crashProcess":
        return this.#crashProcess(deed.role, deed.downMs);
      case "crashHost":
        return this.#crashHost(deed.role, deed.downMs);
      case "crashRelay":
        return this.#crashRelay(deed.hard, deed.downMs, deed.failOver);
      case "partition": {
        for (const relay of world.hosts.relay) {
          const peer: Host = world.hosts[deed.role];
          if (deed.way !== "fromRelay") world.network.block(peer, relay);
          if (deed.way !== "toRelay") world.network.block(relay, peer);
        }
        return this.#undo(deed.forMs, () => world.network.heal());
      }
      case "cut":
        for (const link of world.network.links) {
          if (link.peer.host === world.hosts[deed.role]) link.cut(deed.silent);
        }
        return;
      case "cutStream":
        for (const link of world.network.links) {
          if (link.peer.host !== world.hosts[deed.role]) continue;
          const streams = [...link.streams];
          streams[world.random.below(streams.length)]?.breakBoth("a stream was reset");
        }
        return;
      case "blockDirect": {
        const { seeder, leecher } = world.hosts;
        if (deed.way !== "toSeeder") world.network.block(seeder, leecher);
        if (deed.way !== "toLeecher") world.network.block(leecher, seeder);
        return this.#undo(deed.forMs, () => world.network.heal());
      }
      case "badPath":
        world.network.quality = {
          latencyMs: 250,
          jitterMs: 200,
          lossRatio: 0.15,
          bytesPerMs: 2,
        };
        return this.#undo(deed.forMs, () => {
          world.network.quality = this.#goodPath;
        });
      case "database":
        return this.#database(deed.how, deed.forMs);
      case "clockJump":
        for (const host of deed.role === "relay" ? world.hosts.relay : [world.hosts[deed.role]]) {
          host.wallAheadMs += deed.byMs;
        }
        return;
      case "slowDisk":
        world.disks[deed.role].meanMs = 300;
        return this.#undo(deed.forMs, () => {
          world.disks[deed.role].meanMs = world.scenario.diskMeanMs;
        });
      case "fullDisk":
        world.disks.leecher.full = true;
        return this.#undo(deed.forMs, () => {
          world.disks.leecher.full = false;
        });
      case "journalFails":
      case "syncFails":
      case "readFails":
        world.disks[deed.role][deed.kind] = 0.5;
        return this.#undo(deed.forMs, () => {
          world.disks[deed.role][deed.kind] = 0;
        });
      case "cancel":
        return this.#cancel(deed.by);
      case "hold":
        this.#hold(true);
        return this.#undo(deed.forMs, () => this.#hold(false));
      case "postcopy":
        for (const node of world.nodes) node.command(world.sessionId, "postcopy");
        return;
    }
  }

  #hold(held: boolean): void {
    const { database, nodes, sessionId } = this.#world;
    database.held = held;
    for (const node of nodes) node.command(sessionId, held ? "pause" : "resume");
  }

  #crashProcess(role: Role, downMs: number): void {
    const { workload, random } = this.#world;
    const peer = this.#world[role];
    if (!peer.alive) return;
    peer.actor?.kill(false);
    // Without a supervisor that hands the mount over, programs at the destination fall with it.
    if (role === "leecher" && random.chance(0.4)) workload.stop("destination");
    this.#undo(downMs, () => peer.start());
  }

  #crashHost(role: Role, downMs: number): void {
    const { invariants } = this.#world;
    const peer = this.#world[role];
    if (!peer.host.up) return;
    peer.host.crash();
    peer.image.crash();
    invariants.hostCrashed(role);
    this.#undo(downMs, () => peer.start());
  }

  #crashRelay(hard: boolean, downMs: number, failOver: boolean): void {
    const world = this.#world;
    const node = world.nodes[world.activeNode];
    if (node === undefined) return;
    node.crash(hard);
    if (failOver) world.activeNode = 1 - world.activeNode;
    this.#undo(downMs, () => {
      if (!node.alive) node.start();
    });
  }

  #database(how: "frozen" | "refused" | "unanswered" | "late", forMs: number): void {
    const { database } = this.#world;
    if (how === "frozen") {
      database.frozen = true;
      return this.#undo(forMs, () => database.unfreeze());
    }
    database.trouble[how] = 0.5;
    this.#undo(forMs, () => {
      database.trouble[how] = 0;
    });
  }

  #cancel(by: Role | "api"): void {
    const world = this.#world;
    world.invariants.cancelled();
    const failed = (error: unknown): void =>
      world.trace("operator", `cancel: ${error instanceof Error ? error.message : String(error)}`);
    if (by === "api") {
      const node = world.nodes[world.activeNode];
      node?.cancel(world.sessionId, "the operator of the relay").catch(failed);
    } else {
      world[by].cancel().catch(failed);
    }
  }
}
