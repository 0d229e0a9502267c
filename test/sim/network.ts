/**
 * A network that delays, reorders, loses, splits and breaks, between peers and the nodes of a relay.
 *
 * As TCP and QUIC would have it, the bytes of one stream arrive in order or not at all; streams overtake each
 * other. A packet that is lost comes later. What was under way when a connection broke may still come through:
 * a relay then hears a peer that has long connected anew.
 *
 * @module
 */
import { LinkError } from "../../peer/net/errors.ts";
import type { Link } from "../../peer/net/link.ts";
import { ByteQueue, SendWindow, StreamLife } from "../../relay/protocol/byte-queue.ts";
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import { STREAM_BUFFER_BYTES_MAX } from "../../relay/protocol/limits.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";
import type { Actor, Host } from "./actor.ts";
import type { Clock } from "./clock.ts";
import type { Random } from "./random.ts";

const DIAL_DEADLINE_MS = 10_000;
/** Retransmission of a lost packet. */
const RETRANSMIT_MS = [200, 900] as const;
/** What a peer's stream may hold beyond its window: answers to faults overlap. */
const PEER_EXCESS_BYTES_MAX = 16 * 1024;
/** The relay waits for room after each piece, which may hold several messages that a peer sent at once. */
const RELAY_EXCESS_BYTES_MAX = 6 * 1024;

export interface NetworkOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Sees every piece that enters or leaves a relay. */
  readonly onRelayBytes: (bytes: Uint8Array) => void;
  readonly onBroken: (invariant: string, what: string) => void;
  readonly trace: (actor: string, what: string) => void;
}

/** What takes a peer's streams at the far end. */
export interface Listener {
  readonly actor: Actor;
  accept(incoming: IncomingStream): void;
}

export interface PathQuality {
  readonly latencyMs: number;
  readonly jitterMs: number;
  readonly lossRatio: number;
  readonly bytesPerMs: number;
}

export class Network {
  readonly options: NetworkOptions;
  readonly #blocked = new Set<string>();
  #waiting: (() => void)[] = [];
  readonly links = new Set<SimLink>();
  #connections = 0;
  quality: PathQuality;
  /** Of broken connections, how many still deliver what was under way. */
  ghostRatio = 0;

  constructor(options: NetworkOptions, quality: PathQuality) {
    this.options = options;
    this.quality = quality;
  }

  blocks(from: Host, to: Host): boolean {
    return this.#blocked.has(`${from.name}>${to.name}`);
  }

  /** From now on nothing that `from` sends reaches `to`; it is not told. */
  block(from: Host, to: Host): void {
    this.#blocked.add(`${from.name}>${to.name}`);
  }

  heal(): void {
    this.#blocked.clear();
    for (const wake of this.#waiting.splice(0)) wake();
  }

  whenHealed(action: () => void): void {
    this.#waiting.push(action);
  }

  /** Random, but for the bandwidth. */
  latencyMs(): number {
    const { random } = this.options;
    const { latencyMs, jitterMs, lossRatio } = this.quality;
    let delayMs = latencyMs + random.delay(jitterMs);
    while (random.chance(lossRatio)) delayMs += random.between(...RETRANSMIT_MS);
    return delayMs;
  }

  /** @param find Who listens there when the first packet arrives. */
  dial(peer: Actor, find: () => Listener | undefined, signal: AbortSignal): Promise<Link> {
    const { clock } = this.options;
    return new Promise((resolve, reject) => {
      let over = false;
      const fail = (error: Error): void => {
        if (over || !peer.alive) return;
        over = true;
        stopDeadline();
        reject(error);
      };
      const stopDeadline = clock.after(DIAL_DEADLINE_MS, peer, () =>
        fail(new LinkError("DEADLINE_EXCEEDED", "the relay does not answer")),
      );
      const onAbort = (): void => fail(new LinkError("CANCELLED", "dialing was cancelled"));
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      const knock = (againAfterMs: number): void => {
        clock.after(this.latencyMs(), peer, () => {
          if (over) return;
          const listener = find();
          if (listener === undefined) {
            return fail(new LinkError("RELAY_UNREACHABLE", "nobody listens there"));
          }
          const { host } = listener.actor;
          // A host that is down, or a path that is blocked, says nothing; the kernel knocks again.
          if (!host.up || this.blocks(peer.host, host) || this.blocks(host, peer.host)) {
            clock.after(againAfterMs, peer, () => knock(2 * againAfterMs));
            return;
          }
          if (!listener.actor.alive) return fail(new LinkError("RELAY_UNREACHABLE", "refused"));
          clock.after(this.latencyMs(), peer, () => {
            if (over) return;
            over = true;
            stopDeadline();
            signal.removeEventListener("abort", onAbort);
            resolve(new SimLink(this, peer, listener, `sim-${++this.#connections}`));
          });
        });
      };
      knock(1_000);
    });
  }

  /** The bytes of no stream wait without bound. */
  checkBounds(): void {
    for (const link of this.links) {
      for (const stream of link.streams) {
        const relay = link.relayed && stream.owner === link.listener.actor;
        const excess = relay ? RELAY_EXCESS_BYTES_MAX : PEER_EXCESS_BYTES_MAX;
        if (stream.unreadBytes > STREAM_BUFFER_BYTES_MAX + excess) {
          const who = relay ? "the relay" : "a peer";
          this.options.onBroken("I7", `${who} holds ${stream.unreadBytes} bytes in one stream`);
        }
      }
    }
  }
}

export class SimLink implements Link {
  readonly kind = "memory";
  readonly closed: Promise<CloseInfo>;
  readonly network: Network;
  readonly peer: Actor;
  readonly listener: Listener;
  readonly id: string;
  /** Whether the far end is a relay's, and not the other peer's. */
  readonly relayed: boolean;
  readonly streams = new Set<SimStream>();
  /** When the wire is free again, by direction. */
  readonly freeAtMs = { up: 0, down: 0 };
  #resolveClosed: (info: CloseInfo) => void = () => undefined;
  #over: CloseInfo | undefined;

  constructor(network: Network, peer: Actor, listener: Listener, id: string, relayed = true) {
    this.network = network;
    this.peer = peer;
    this.listener = listener;
    this.id = id;
    this.relayed = relayed;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    network.links.add(this);
    peer.onDeath((hard) => this.#died("peer", hard));
    listener.actor.onDeath((hard) => this.#died("relay", hard));
  }

  openStream(): Promise<ByteStream> {
    const over = this.#over;
    if (over !== undefined || !this.peer.alive) {
      return Promise.reject(new ProtocolError("LINK_CLOSED", over?.reason ?? "closed"));
    }
    const near = new SimStream(this, this.peer, "up");
    const far = new SimStream(this, this.listener.actor, "down");
    near.join(far);
    far.join(near);
    this.streams.add(near);
    this.streams.add(far);
    near.opens(() =>
      this.listener.accept({
        stream: far,
        kind: "memory",
        remoteAddress: this.peer.host.name,
        connectionId: this.id,
      }),
    );
    return Promise.resolve(near);
  }

  close(code: ProtocolErrorCode, reason: string): Promise<void> {
    this.#finish({ code, reason });
    const streamCode = code === "OK" ? "LINK_CLOSED" : code;
    for (const stream of this.streams) {
      if (stream.owner === this.peer) stream.abort(streamCode, reason);
    }
    return Promise.resolve();
  }

  /** The connection breaks. @param silent One side is not told, and finds out by silence. */
  cut(silent: "none" | "peer" | "relay"): void {
    const info: CloseInfo = { code: "LINK_CLOSED", reason: "the connection was reset" };
    for (const stream of this.streams) {
      const side = stream.owner === this.peer ? "peer" : "relay";
      if (side !== silent) stream.reset(info.reason);
      else stream.deafen();
    }
    if (silent !== "peer") this.#finish(info);
    else this.#over = info;
  }

  #died(side: "peer" | "relay", hard: boolean): void {
    const left = side === "peer" ? this.listener.actor : this.peer;
    for (const stream of this.streams) {
      if (stream.owner !== left) continue;
      // A host that stops says nothing; the kernel of a dead process closes its sockets.
      if (hard) stream.deafen();
      else stream.remoteGone();
    }
    if (side === "relay") {
      const { clock } = this.network.options;
      if (!hard) {
        clock.after(this.network.latencyMs(), this.peer, () =>
          this.#finish({ code: "LINK_CLOSED", reason: "the relay is gone" }),
        );
      }
    } else {
      this.network.links.delete(this);
    }
  }

  #finish(info: CloseInfo): void {
    this.network.links.delete(this);
    this.#over ??= info;
    if (this.peer.alive) this.#resolveClosed(this.#over);
  }
}

export class SimStream implements ByteStream {
  readonly owner: Actor;
  readonly #link: SimLink;
  readonly #way: "up" | "down";
  readonly #life = new StreamLife();
  readonly #received: ByteQueue;
  /** Bytes that the other side has not read, under way or in its queue. */
  readonly #sending = new SendWindow(STREAM_BUFFER_BYTES_MAX);
  readonly #underWay: (() => void)[] = [];
  #lastArrivalMs = 0;
  #other: SimStream | undefined;
  #held = 0;
  #ended = false;
  #deaf = false;

  constructor(link: SimLink, owner: Actor, way: "up" | "down") {
    this.#link = link;
    this.owner = owner;
    this.#way = way;
    this.#received = new ByteQueue(() => this.#release());
    void this.#life.closed.then(() => {
      this.#link.streams.delete(this);
    });
  }

  get closed(): Promise<CloseInfo> {
    return this.#life.closed;
  }

  get unreadBytes(): number {
    return this.#sending.bytes;
  }

  join(other: SimStream): void {
    this.#other = other;
  }

  /** The first packet. */
  opens(arrive: () => void): void {
    this.#deliver(64, (other) => {
      if (other.#life.error === null) other.owner.run(arrive);
    });
  }

  async read(): Promise<Uint8Array | null> {
    const piece = await this.#received.read();
    this.#release();
    return piece;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (!this.owner.alive) return await new Promise(() => undefined);
    if (this.#life.error !== null || this.#ended) throw this.#life.overError();
    if (bytes.length > 0) {
      if (this.#link.relayed) this.#link.network.options.onRelayBytes(bytes);
      this.#sending.add(bytes.length);
      // A receiver may find a message in pieces.
      const { random } = this.#link.network.options;
      const split = bytes.length > 8 && random.chance(0.1) ? random.below(bytes.length) : 0;
      for (const piece of split > 0 ? [bytes.subarray(0, split), bytes.subarray(split)] : [bytes]) {
        this.#deliver(piece.length, (other) => {
          other.#held += piece.length;
          other.#received.push(Uint8Array.from(piece));
        });
      }
    }
    await this.#sending.room();
  }

  end(): Promise<void> {
    if (!this.owner.alive) return new Promise(() => undefined);
    if (this.#life.error !== null) return Promise.reject(this.#life.error);
    if (this.#ended) return Promise.resolve();
    this.#ended = true;
    this.#deliver(0, (other) => {
      other.#received.end();
      other.#life.readOver();
    });
    this.#life.writeOver();
    return Promise.resolve();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    if (!this.owner.alive || !this.#fail(code, reason)) return;
    const { random } = this.#link.network.options;
    if (!random.chance(this.#link.network.ghostRatio)) this.#underWay.length = 0;
    this.#deliver(0, (other) => other.#fail(code === "OK" ? "LINK_CLOSED" : code, reason));
  }

  /** The network breaks it at this end. What this side sent may still come through. */
  reset(reason: string): void {
    const { random, clock } = this.#link.network.options;
    if (!random.chance(this.#link.network.ghostRatio)) this.#underWay.length = 0;
    clock.after(random.delay(5), this.owner, () => this.#fail("LINK_CLOSED", reason));
  }

  breakBoth(reason: string): void {
    this.reset(reason);
    this.#other?.reset(reason);
  }

  /** Nothing from the other side arrives here any more, not even its end. */
  deafen(): void {
    this.#deaf = true;
  }

  /** The other side's process ended: its kernel says so, after what it had sent. */
  remoteGone(): void {
    const { network } = this.#link;
    const other = this.#other;
    if (other === undefined) return;
    if (!network.options.random.chance(network.ghostRatio)) other.#underWay.length = 0;
    other.#deliver(0, (here) => here.#fail("LINK_CLOSED", "the other side is gone"));
  }

  #fail(code: ProtocolErrorCode, reason: string): boolean {
    const error = this.#life.fail(code, reason);
    if (error === null) return false;
    this.#received.fail(error);
    this.#sending.fail(error);
    return true;
  }

  /** One arrival does the oldest delivery, whichever it was made for. */
  #deliver(bytes: number, step: (other: SimStream) => void): void {
    const other = this.#other;
    if (other === undefined) return;
    const { network, freeAtMs } = this.#link;
    const { clock } = network.options;
    const leavesMs =
      Math.max(clock.nowMs, freeAtMs[this.#way]) + bytes / network.quality.bytesPerMs;
    freeAtMs[this.#way] = leavesMs;
    const arrivesMs = Math.max(leavesMs + network.latencyMs(), this.#lastArrivalMs);
    this.#lastArrivalMs = arrivesMs;
    this.#underWay.push(() => step(other));
    clock.after(arrivesMs - clock.nowMs, undefined, () => this.#arrive(other));
  }

  #arrive(other: SimStream): void {
    const { network } = this.#link;
    if (network.blocks(this.owner.host, other.owner.host)) {
      network.whenHealed(() => {
        const { clock, random } = network.options;
        // Sent again by the kernel, with its own patience. Order is kept by `#underWay`.
        clock.after(network.latencyMs() + random.delay(100), undefined, () => this.#arrive(other));
      });
      return;
    }
    const step = this.#underWay.shift();
    if (step === undefined || !other.owner.alive || other.#deaf) return;
    step();
  }

  /** Tells the sender what was read. */
  #release(): void {
    const read = this.#held - this.#received.bytes;
    if (read <= 0) return;
    this.#held -= read;
    const other = this.#other;
    if (other?.owner.alive === true) other.#sending.taken(read);
  }
}
