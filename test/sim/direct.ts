/**
 * Direct paths of the simulated network: what hole punching would find, or not, and what breaks of it.
 *
 * The two sides never agree for sure: one may take the path into use and the other not, and each learns of its end by
 * itself, at once or by silence.
 *
 * @module
 */
import type { Role } from "../../relay/protocol/ids.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import type {
  ConnectRequest,
  DirectDialer,
  DirectEndpoint,
  DirectNetwork,
} from "../../peer/net/paths/direct-dialer.ts";
import { sleep } from "../../peer/sleep.ts";
import type { Actor } from "./actor.ts";
import { SimLink, SimStream, type Network } from "./network.ts";

/** As the real one: a side that heard nothing for this long gives up. */
const SILENCE_MS = 3_500;
const LOOK_MS = 250;
const PUNCH_MS = 5_000;

export interface DirectWeather {
  /** Of the attempts, how many find a way. */
  readonly works: number;
  /** Of those, in how many only the source hears that it was chosen. */
  readonly halfChosen: number;
}

export class DirectPaths {
  readonly #network: Network;
  readonly #weather: DirectWeather;
  readonly #meetings = new Map<number, Meeting>();
  readonly open = new Set<SimDirect>();

  constructor(network: Network, weather: DirectWeather) {
    this.#network = network;
    this.#weather = weather;
  }

  dialer(actor: Actor): DirectDialer {
    return { open: (signal) => this.#endpoint(actor, signal) };
  }

  async #endpoint(actor: Actor, signal: AbortSignal): Promise<DirectEndpoint> {
    await sleep(this.#network.latencyMs(), signal);
    return {
      candidates: [{ kind: "host", address: "192.0.2.1", port: 4_000 }],
      nat: "none",
      connect: (request) => this.#connect(actor, request),
      close: () => Promise.resolve(),
    };
  }

  async #connect(actor: Actor, request: ConnectRequest): Promise<DirectNetwork | undefined> {
    const { random } = this.#network.options;
    const { role, keys, signal } = request;
    const meeting = this.#meetings.get(keys.id) ?? new Meeting();
    this.#meetings.set(keys.id, meeting);
    meeting.come(role, actor);
    await Promise.race([meeting.both, sleep(PUNCH_MS, signal)]);
    signal.throwIfAborted();
    const path = meeting.path(() => this.#make(meeting));
    if (path === undefined) {
      await sleep(random.delay(PUNCH_MS / 2), signal);
      return undefined;
    }
    // The source hears first that the pair was chosen.
    await sleep(this.#network.latencyMs() * (role === "seeder" ? 1 : 2), signal);
    if (role === "leecher" && meeting.halfChosen) {
      await sleep(2_000, signal);
      return undefined;
    }
    return path.side(role);
  }

  #make(meeting: Meeting): SimDirect | undefined {
    const { random } = this.#network.options;
    const { seeder, leecher } = meeting;
    if (seeder === undefined || leecher === undefined) return undefined;
    if (!random.chance(this.#weather.works)) return undefined;
    if (this.#network.blocks(seeder.host, leecher.host)) return undefined;
    if (this.#network.blocks(leecher.host, seeder.host)) return undefined;
    meeting.halfChosen = random.chance(this.#weather.halfChosen);
    const path = new SimDirect(this.#network, seeder, leecher);
    this.open.add(path);
    return path;
  }
}

class Meeting {
  seeder: Actor | undefined;
  leecher: Actor | undefined;
  halfChosen = false;
  #path: { readonly made: SimDirect | undefined } | undefined;
  readonly #both = Promise.withResolvers<void>();

  get both(): Promise<void> {
    return this.#both.promise;
  }

  come(role: Role, actor: Actor): void {
    this[role] = actor;
    if (this.seeder !== undefined && this.leecher !== undefined) this.#both.resolve();
  }

  path(make: () => SimDirect | undefined): SimDirect | undefined {
    this.#path ??= { made: make() };
    return this.#path.made;
  }
}

/** One path, of which each side has its own idea. */
export class SimDirect {
  readonly network: Network;
  readonly #actors: Record<Role, Actor>;
  readonly #link: SimLink;
  readonly #streams = new Map<number, Record<Role, SimStream>>();
  /** Who was told that it was chosen. */
  readonly #taken = new Set<Role>();
  readonly #lost: Record<Role, AbortController> = {
    seeder: new AbortController(),
    leecher: new AbortController(),
  };

  constructor(network: Network, seeder: Actor, leecher: Actor) {
    this.network = network;
    this.#actors = { seeder, leecher };
    this.#link = new SimLink(
      network,
      leecher,
      { actor: seeder, accept: () => undefined },
      "direct",
      false,
    );
    for (const role of ["seeder", "leecher"] as const) this.#watch(role);
  }

  side(role: Role): DirectNetwork {
    this.#taken.add(role);
    return {
      remote: "192.0.2.1:4000",
      rttMs: 1,
      lost: this.#lost[role].signal,
      openStream: (index) => {
        this.#lost[role].signal.throwIfAborted();
        return Promise.resolve(this.#stream(index)[role]);
      },
      close: (reason) => {
        const twin = other(role);
        if (
          reason.startsWith("the other peer left it") &&
          this.#taken.has(twin) &&
          !this.#lost[twin].signal.aborted
        ) {
          this.network.options.onBroken("I8", `the ${role} left a path that the ${twin} is on`);
        }
        this.lose(role, reason);
        return Promise.resolve();
      },
    };
  }

  /** This side gives it up and says so; the other hears it if it can. */
  lose(role: Role, reason: string): void {
    const lost = this.#lost[role];
    if (lost.signal.aborted) return;
    lost.abort(new ProtocolError("LINK_CLOSED", reason));
    for (const streams of this.#streams.values()) streams[role].abort("LINK_CLOSED", reason);
    const twin = other(role);
    const [from, to] = [this.#actors[role], this.#actors[twin]];
    if (this.network.blocks(from.host, to.host)) return;
    this.network.options.clock.after(this.network.latencyMs(), to, () =>
      this.lose(twin, "the other peer closed it"),
    );
  }

  /** Silence is all that tells of a dead host or a blocked way. */
  #watch(role: Role): void {
    const twin = other(role);
    const [here, there] = [this.#actors[role], this.#actors[twin]];
    let silentMs = 0;
    const look = (): void => {
      const { signal } = this.#lost[role];
      if (signal.aborted || !here.alive) return;
      const gone = !there.alive || this.#lost[twin].signal.aborted;
      silentMs = gone || this.network.blocks(there.host, here.host) ? silentMs + LOOK_MS : 0;
      if (silentMs > SILENCE_MS) this.lose(role, "the other peer is silent");
      else this.network.options.clock.after(LOOK_MS, here, look);
    };
    this.network.options.clock.after(LOOK_MS, here, look);
  }

  #stream(index: number): Record<Role, SimStream> {
    const known = this.#streams.get(index);
    if (known !== undefined) return known;
    const leecher = new SimStream(this.#link, this.#actors.leecher, "up");
    const seeder = new SimStream(this.#link, this.#actors.seeder, "down");
    leecher.join(seeder);
    seeder.join(leecher);
    this.#link.streams.add(leecher);
    this.#link.streams.add(seeder);
    const both = { leecher, seeder };
    this.#streams.set(index, both);
    // To drop one stream is to drop the path.
    for (const role of ["seeder", "leecher"] as const) {
      void both[role].closed.then(({ code, reason }) => {
        if (code !== "OK") this.lose(role, reason);
      });
    }
    return both;
  }
}

function other(role: Role): Role {
  return role === "seeder" ? "leecher" : "seeder";
}
