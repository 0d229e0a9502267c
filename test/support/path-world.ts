/**
 * Two path managers with a relay between them that can do what it likes with their signals, and a network that either
 * lets them reach each other or does not. For fake timers.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import type { Role } from "../../relay/protocol/ids.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import type {
  ConnectRequest,
  DirectDialer,
  DirectEndpoint,
  DirectNetwork,
} from "../../peer/net/paths/direct-dialer.ts";
import type { PathPolicy } from "../../peer/net/paths/path-policy.ts";
import {
  PathManager,
  type PathEvent,
  type PathManagerOptions,
  type RelayedSession,
} from "../../peer/net/paths/path-manager.ts";
import type { Pairing } from "../../peer/net/relay-control.ts";
import { sleep } from "../../peer/sleep.ts";

const LATENCY_MS = 5;
const PUNCH_MS = 5_000;

/** @returns What reaches the other side, and after how many milliseconds. */
export type Tamper = (
  payload: Uint8Array,
  from: Role,
) => readonly { readonly payload: Uint8Array; readonly afterMs: number }[];

const asItIs: Tamper = (payload) => [{ payload, afterMs: LATENCY_MS }];

export class PathRelay {
  tamper: Tamper = asItIs;
  passesSignals = true;
  /** All that was signalled, as the relay saw it. */
  readonly seen: { readonly from: Role; readonly payload: Uint8Array }[] = [];
  readonly renewals: { readonly by: Role; readonly pairing: number }[] = [];
  readonly #sessions: Record<Role, FakeSession>;
  #pairing = 0;

  constructor() {
    this.#sessions = {
      seeder: new FakeSession("seeder", this),
      leecher: new FakeSession("leecher", this),
    };
    this.repair();
  }

  session(role: Role): RelayedSession {
    return this.#sessions[role];
  }

  signal(from: Role, payload: Uint8Array): void {
    this.seen.push({ from, payload });
    for (const one of this.tamper(payload, from)) {
      setTimeout(() => this.deliver(other(from), one.payload), one.afterMs);
    }
  }

  deliver(to: Role, payload: Uint8Array): void {
    this.#sessions[to].hear(payload);
  }

  renew(by: Role, pairing: number): void {
    this.renewals.push({ by, pairing });
    if (pairing === this.#pairing) this.repair();
  }

  /** The peers meet anew. */
  repair(): void {
    this.#pairing++;
    for (const session of Object.values(this.#sessions)) session.pair(this.#pairing);
  }

  endSession(error: Error): void {
    for (const session of Object.values(this.#sessions)) session.fail(error);
  }
}

class FakeSession implements RelayedSession {
  readonly #role: Role;
  readonly #relay: PathRelay;
  #listener: ((payload: Uint8Array) => void) | undefined;
  #current: { readonly pairing: Pairing; readonly lose: AbortController } | undefined;
  #failure: Error | undefined;
  readonly #waiters = new Set<{ resolve(pairing: Pairing): void; reject(error: unknown): void }>();
  readonly ownership = { owner: "seeder", epoch: 0, state: "precopy", reason: "" } as const;

  constructor(role: Role, relay: PathRelay) {
    this.#role = role;
    this.#relay = relay;
  }

  get passesSignals(): boolean {
    return this.#relay.passesSignals;
  }

  set onSignal(listener: (payload: Uint8Array) => void) {
    this.#listener = listener;
  }

  hear(payload: Uint8Array): void {
    this.#listener?.(payload);
  }

  sendSignal(payload: Uint8Array): void {
    this.#relay.signal(this.#role, payload);
  }

  renewPairing(number: number): void {
    setTimeout(() => this.#relay.renew(this.#role, number), LATENCY_MS);
  }

  pair(number: number): void {
    this.#current?.lose.abort(new ProtocolError("PEER_GONE", "the peers meet anew"));
    const lose = new AbortController();
    const pairing: Pairing = {
      number,
      linkKind: "memory",
      lost: lose.signal,
      openStream: () => Promise.reject(new Error("not in this test")),
      warm: () => undefined,
    };
    this.#current = { pairing, lose };
    for (const waiter of this.#waiters) waiter.resolve(pairing);
    this.#waiters.clear();
  }

  fail(error: Error): void {
    this.#failure = error;
    this.#current?.lose.abort(error);
    this.#current = undefined;
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }

  pairing(signal?: AbortSignal): Promise<Pairing> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#current !== undefined) return Promise.resolve(this.#current.pairing);
    return new Promise((resolve, reject) => {
      const waiter = { resolve, reject };
      this.#waiters.add(waiter);
      const giveUp = (): void => {
        this.#waiters.delete(waiter);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", giveUp, { once: true });
    });
  }

  commit(): Promise<typeof this.ownership> {
    return Promise.resolve(this.ownership);
  }

  revoke(): Promise<typeof this.ownership> {
    return Promise.resolve(this.ownership);
  }

  reportPhase(): void {}
  reportProgress(): void {}

  reportIndex(): Promise<boolean> {
    return Promise.resolve(true);
  }
}

/** `half`: only the source hears that the path was chosen. */
export type Reach = "both" | "half" | "none";

export class PathNetwork {
  reach: Reach = "both";
  /** How long gathering addresses takes. */
  openMs = 20;
  /** When attempts began, in `performance.now()`. */
  readonly opened: Record<Role, number[]> = { seeder: [], leecher: [] };
  readonly open: Record<Role, number> = { seeder: 0, leecher: 0 };
  /** Most at one time. */
  readonly most: Record<Role, number> = { seeder: 0, leecher: 0 };
  readonly aborted: Record<Role, number> = { seeder: 0, leecher: 0 };
  readonly requests: { readonly role: Role; readonly request: ConnectRequest }[] = [];
  readonly paths: Record<Role, FakeDirect>[] = [];
  /** Called when a side is about to be given its path. */
  onConnected: ((role: Role) => void) | undefined;
  readonly #meetings = new Map<number, Set<Role>>();
  readonly #made = new Map<number, Record<Role, FakeDirect>>();

  dialer(role: Role): DirectDialer {
    return { open: (signal) => this.#open(role, signal) };
  }

  async #open(role: Role, signal: AbortSignal): Promise<DirectEndpoint> {
    this.opened[role].push(performance.now());
    this.open[role]++;
    this.most[role] = Math.max(this.most[role], this.open[role]);
    let isOpen = true;
    const close = (): Promise<void> => {
      if (isOpen) this.open[role]--;
      isOpen = false;
      return Promise.resolve();
    };
    try {
      await sleep(this.openMs, signal);
    } catch (error) {
      this.aborted[role]++;
      await close();
      throw error;
    }
    return {
      candidates: [{ kind: "host", address: "192.0.2.1", port: 4_000 }],
      nat: "none",
      close,
      connect: async (request) => {
        const path = await this.#connect(role, request);
        // The path has the socket from here on.
        if (path !== undefined) void close();
        return path;
      },
    };
  }

  async #connect(role: Role, request: ConnectRequest): Promise<DirectNetwork | undefined> {
    this.requests.push({ role, request });
    const { id } = request.keys;
    const here = this.#meetings.get(id) ?? new Set();
    this.#meetings.set(id, here.add(role));
    const until = performance.now() + PUNCH_MS;
    while (here.size < 2 && performance.now() < until) await sleep(10, request.signal);
    const isReached = here.size === 2 && this.reach !== "none";
    if (!isReached || (this.reach === "half" && role === "leecher")) {
      await sleep(Math.max(0, until - performance.now()), request.signal);
      return undefined;
    }
    const made = this.#made.get(id) ?? pairOfPaths();
    if (!this.#made.has(id)) this.paths.push(made);
    this.#made.set(id, made);
    this.onConnected?.(role);
    return made[role];
  }
}

class FakeDirect implements DirectNetwork {
  readonly remote = "192.0.2.1:4000";
  readonly rttMs = 1;
  readonly #lost = new AbortController();
  other: FakeDirect | undefined;
  closedFor: string | undefined;

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  openStream(): Promise<ByteStream> {
    return Promise.reject(new Error("not in this test"));
  }

  /** Only this side notices. */
  lose(reason: string): void {
    this.#lost.abort(new ProtocolError("LINK_CLOSED", reason));
  }

  close(reason: string): Promise<void> {
    this.closedFor ??= reason;
    this.lose(reason);
    setTimeout(() => this.other?.lose("the other peer closed it"), LATENCY_MS);
    return Promise.resolve();
  }
}

function pairOfPaths(): Record<Role, FakeDirect> {
  const both = { seeder: new FakeDirect(), leecher: new FakeDirect() };
  both.seeder.other = both.leecher;
  both.leecher.other = both.seeder;
  return both;
}

export interface PathWorld {
  readonly relay: PathRelay;
  readonly network: PathNetwork;
  readonly managers: Record<Role, PathManager>;
  readonly events: { readonly by: Role; readonly event: PathEvent }[];
  readonly secrets: { readonly sessionId: Uint8Array; readonly secret: Uint8Array };
}

export function makePaths(
  options: {
    readonly reach?: Reach;
    readonly policies?: Partial<Record<Role, PathPolicy>>;
    readonly measure?: PathManagerOptions["measure"];
  } = {},
): PathWorld {
  const relay = new PathRelay();
  const network = new PathNetwork();
  network.reach = options.reach ?? "both";
  const secrets = { sessionId: randomBytes(16), secret: randomBytes(32) };
  const events: PathWorld["events"] = [];
  const make = (role: Role): PathManager =>
    new PathManager({
      role,
      session: relay.session(role),
      ...secrets,
      policy: options.policies?.[role] ?? "auto",
      dialer: network.dialer(role),
      onEvent: (event) => events.push({ by: role, event }),
      ...(options.measure === undefined ? {} : { measure: options.measure }),
    });
  const managers = { seeder: make("seeder"), leecher: make("leecher") };
  return { relay, network, managers, events, secrets };
}

export function other(role: Role): Role {
  return role === "seeder" ? "leecher" : "seeder";
}
