/**
 * Which way the two peers' bytes go: through the relay, which always works, or directly, where the network lets them.
 *
 * ```
 *            leecher: offer → answer → both punch → leecher nominates
 * relayed ─────────────────────────────────────────────────────────▶ direct
 *    ▲                                                                  │
 *    └──────────── silent for 3.5 s, closed, or the other side says so ─┘
 *                  tried again after 15 s, 60 s, 5 min, or when the peers meet anew
 * ```
 *
 * It stands between the migration and the relay's session: whoever asks for the next `pairing` gets the way that is
 * best now, and a way that is left says so by `lost`. The migration then opens a channel on the next one and goes on
 * from what both sides know, so that nothing is lost however the two sides' ideas of the path differ for a while. Who
 * owns the region, and everything that is reported, stays with the relay.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { messageOf, ProtocolError } from "../../../relay/protocol/errors.ts";
import type { ProgressMore } from "../../../relay/protocol/frame.ts";
import type { Role } from "../../../relay/protocol/ids.ts";
import type { LinkKind } from "../../../relay/protocol/stream.ts";
import type { ChannelNetwork } from "../../migration/channel.ts";
import { aborted, Latch } from "../../migration/latch.ts";
import type { Ownership, SessionPort } from "../../migration/session-port.ts";
import { sleep } from "../../sleep.ts";
import { choosePath, retryInMs } from "../path-choice.ts";
import type { Pairing } from "../relay-control.ts";
import type { Candidate, NatKind } from "./candidate.ts";
import type { DirectDialer, DirectNetwork } from "./direct-dialer.ts";
import type { PathPolicy } from "./path-policy.ts";
import { attemptKeys, NONCE_BYTES, SignalSealer, type Signal } from "./signal.ts";

/** Gathering addresses at the other side, and the signal's way there and back. */
const ANSWER_MS = 6_000;
/** How often it is asked whether this is still the better path. */
const LOOK_INTERVAL_MS = 2_000;
/** Between the beginnings of two attempts, whatever happens and whoever asks: nobody must make a peer punch without end. */
const ATTEMPT_INTERVAL_MS = 2_000;
/** A path that lived for so long was a good one: it is tried again at once. */
const GOOD_PATH_MS = 10_000;
/** A rate is an average over so long: before that it is in part the rate of the path before. */
const RATE_WINDOW_MS = 3_000;
/** How long what is under way on the relayed path may take to arrive. */
const RETIRE_MS = 5_000;
/** How long the other side is given to leave the relayed path by itself, before its streams are taken away. */
const LEAVE_MS = 500;

/** The relay's side of the session: `RelayControl` is the real one. */
export interface RelayedSession extends Omit<SessionPort, "pairing" | "reportMore"> {
  reportMore?(more: ProgressMore): void;
  pairing(signal?: AbortSignal): Promise<Pairing>;
  readonly passesSignals: boolean;
  sendSignal(payload: Uint8Array): void;
  set onSignal(listener: (payload: Uint8Array) => void);
  renewPairing(number: number): void;
}

export type PathEvent =
  | {
      readonly event: "path";
      readonly path: "direct" | "relayed";
      /** One line for a person. */
      readonly reason: string;
      /** Address and port of the other side. */
      readonly remote?: string;
      readonly rttMs?: number;
    }
  | { readonly event: "pathAttempt"; readonly failed: string; readonly nat: NatKind | "unknown" };

export interface PathManagerOptions {
  readonly role: Role;
  readonly session: RelayedSession;
  readonly sessionId: Uint8Array;
  /** The ticket's secret. */
  readonly secret: Uint8Array;
  readonly policy: PathPolicy;
  readonly dialer: DirectDialer;
  /** What the migration carries now, in bytes a second, and has carried in all. */
  readonly measure?: () => { readonly bytesPerS: number; readonly bytes: number };
  readonly onEvent?: (event: PathEvent) => void;
}

interface RelayedPath {
  readonly pairing: Pairing;
  readonly move: AbortController;
  readonly retire: AbortController;
}

interface DirectPath {
  readonly network: DirectNetwork;
  readonly attempt: Uint8Array;
  readonly sinceMs: number;
  readonly bytesBefore: number;
  bestBytesPerS: number;
  /** It was left because the relay carries more. */
  slow: boolean;
}

type Offer = Extract<Signal, { kind: "offer" }>;

interface Attempt {
  readonly id: Uint8Array;
  readonly stop: AbortController;
}

export class PathManager implements SessionPort {
  readonly #options: PathManagerOptions;
  readonly #sealer: SignalSealer;
  readonly #over = new AbortController();
  readonly #changed = new Latch();
  readonly #left = new WeakSet<Pairing>();
  #relayed: RelayedPath | undefined;
  #direct: DirectPath | undefined;
  #attempt: Attempt | undefined;
  /** Why the last direct path ended, until it is told. */
  #wayBack: string | undefined;
  #answer: ((signal: Extract<Signal, { kind: "answer" | "refuse" }>) => void) | undefined;
  /** Orders the leecher's attempts. */
  #startedAtMs = 0;
  /** The seeder's: the newest that it has not begun to follow. */
  #offer: Offer | undefined;
  #isAccepting = false;
  #lastAttemptAtMs = -Infinity;
  #failures = 0;
  /** The best that the relayed path was seen to carry. */
  readonly #relayedRate = { bytesPerS: 0, bytes: 0 };
  /** Since when what is measured is this path's. */
  #movedAtMs = -Infinity;
  readonly #looking: ReturnType<typeof setInterval>;
  #running: Promise<void>;

  constructor(options: PathManagerOptions) {
    this.#options = options;
    this.#sealer = new SignalSealer(options.role, options);
    options.session.onSignal = (payload) => this.#hear(payload);
    this.#looking = setInterval(() => this.#look(), LOOK_INTERVAL_MS);
    const seeks = options.role === "leecher" && options.policy !== "relay";
    this.#running = seeks ? this.#seek() : Promise.resolve();
  }

  get ownership(): Ownership {
    return this.#options.session.ownership;
  }

  /** What the bytes go over now. */
  get linkKind(): LinkKind | undefined {
    return this.#direct === undefined ? this.#relayed?.pairing.linkKind : "direct";
  }

  /**
   * The way to the other peer that is best now, as soon as there is one.
   *
   * @throws what ended the session for good, or the signal's reason.
   */
  async pairing(signal: AbortSignal = this.#over.signal): Promise<ChannelNetwork> {
    for (;;) {
      signal.throwIfAborted();
      const network = this.#directNetwork();
      if (network !== undefined) {
        // The leecher leaves when what is under way has arrived.
        if (this.#options.role === "seeder") this.#leaveRelayed();
        return network;
      }
      const pairing = await this.#relayedPairing(signal);
      if (pairing === undefined) continue;
      // All may be over by now: then nothing goes on that way.
      signal.throwIfAborted();
      this.#tellWayBack();
      const move = new AbortController();
      const retire = new AbortController();
      const relayed = { pairing, move, retire };
      this.#relayed = relayed;
      return {
        linkKind: pairing.linkKind,
        lost: AbortSignal.any([pairing.lost, move.signal]),
        superseded: () => this.#direct !== undefined,
        retire: {
          signal: retire.signal,
          next: () => this.#directNetwork(),
          done: () => {
            if (this.#relayed === relayed && this.#direct !== undefined) this.#leaveRelayed();
          },
        },
        openStream: (streamIndex) => pairing.openStream(streamIndex),
        warm: (streams) => pairing.warm?.(streams),
      };
    }
  }

  #directNetwork(): ChannelNetwork | undefined {
    const network = this.#direct?.network;
    if (network === undefined || network.lost.aborted) return undefined;
    return { linkKind: "direct", lost: network.lost, openStream: (i) => network.openStream(i) };
  }

  commit(epoch: number, signal?: AbortSignal): Promise<Ownership> {
    return this.#options.session.commit(epoch, signal);
  }

  revoke(reason: string, signal?: AbortSignal): Promise<Ownership> {
    return this.#options.session.revoke(reason, signal);
  }

  reportPhase(...phase: Parameters<SessionPort["reportPhase"]>): void {
    this.#options.session.reportPhase(...phase);
  }

  reportProgress(...progress: Parameters<SessionPort["reportProgress"]>): void {
    this.#options.session.reportProgress(...progress);
  }

  reportMore(more: Omit<ProgressMore, "path">): void {
    this.#options.session.reportMore?.({ ...more, path: this.linkKind });
  }

  get terms(): SessionPort["terms"] {
    return this.#options.session.terms;
  }

  get hold(): SessionPort["hold"] {
    return this.#options.session.hold;
  }

  reportIndex(...index: Parameters<SessionPort["reportIndex"]>): Promise<boolean> {
    return this.#options.session.reportIndex(...index);
  }

  /** Ends what it has begun. The relay's session is not its own. */
  async close(): Promise<void> {
    clearInterval(this.#looking);
    this.#over.abort(new ProtocolError("LINK_CLOSED", "this peer left the session"));
    this.#attempt?.stop.abort(this.#over.signal.reason);
    await this.#direct?.network.close("this peer left the session");
    await this.#running;
  }

  /** Only once the migration really goes on that way: a path also ends because everything is done. */
  #tellWayBack(): void {
    if (this.#wayBack === undefined) return;
    this.#options.onEvent?.({ event: "path", path: "relayed", reason: this.#wayBack });
    this.#wayBack = undefined;
  }

  /** `undefined`: there is a direct path now, or this pairing was left; look again. */
  async #relayedPairing(signal: AbortSignal): Promise<Pairing | undefined> {
    const { session, policy } = this.#options;
    const look = new AbortController();
    const looking = AbortSignal.any([signal, look.signal]);
    const changed = this.#changed.wait(looking);
    try {
      const found = await Promise.race([session.pairing(looking), changed]);
      signal.throwIfAborted();
      if (found === undefined) return undefined;
      // Whoever wants no relay is to hear all the same that the session has ended.
      if (policy !== "direct" && !this.#left.has(found)) return found;
      // The next one is on its way.
      await Promise.race([aborted(found.lost), changed]);
      signal.throwIfAborted();
      return undefined;
    } finally {
      look.abort(new ProtocolError("LINK_CLOSED", "looks again"));
    }
  }

  /** The leecher tries to go direct, now and from time to time. */
  async #seek(): Promise<void> {
    const { signal } = this.#over;
    const { session } = this.#options;
    while (!signal.aborted) {
      try {
        await session.pairing(signal);
        const startedAtMs = performance.now();
        const path = this.#direct ?? (await this.#try());
        if (path === undefined) {
          this.#failures++;
        } else {
          await Promise.race([aborted(path.network.lost), aborted(signal)]);
          const lived = performance.now() - path.sinceMs;
          const good = lived > GOOD_PATH_MS && !path.slow;
          this.#failures = good ? 0 : this.#failures + 1;
        }
        // Peers that meet anew may do so on another network.
        const { lost } = await session.pairing(signal);
        const waking = AbortSignal.any([signal, lost]);
        await sleep(retryInMs(this.#failures), waking).catch(() => undefined);
        signal.throwIfAborted();
        const sinceMs = performance.now() - startedAtMs;
        if (sinceMs < ATTEMPT_INTERVAL_MS) await sleep(ATTEMPT_INTERVAL_MS - sinceMs, signal);
      } catch (error) {
        if (signal.aborted) return;
        // The session has ended: nobody needs a path any more.
        if (!(error instanceof ProtocolError) || error.code !== "LINK_CLOSED") return;
        await sleep(ATTEMPT_INTERVAL_MS, signal).catch(() => undefined);
      }
    }
  }

  async #try(): Promise<DirectPath | undefined> {
    const { session } = this.#options;
    if (!session.passesSignals) return undefined;
    this.#startedAtMs = Math.max(Date.now(), this.#startedAtMs + 1);
    const id = randomBytes(NONCE_BYTES);
    return await this.#run(id, async (endpoint, signal) => {
      const answered = this.#nextAnswer(id, signal);
      const { candidates } = endpoint;
      this.#signal({ kind: "offer", attempt: id, startedAtMs: this.#startedAtMs, candidates });
      const answer = await answered;
      if (answer === undefined) return "the other peer did not answer";
      if (answer.kind === "refuse") return answer.reason;
      return { nonce: answer.nonce, candidates: answer.candidates };
    });
  }

  /** The leecher begins an attempt: the one before it is over. */
  #offered(offer: Offer): void {
    if (offer.startedAtMs <= this.#startedAtMs) return;
    this.#startedAtMs = offer.startedAtMs;
    this.#offer = offer;
    this.#attempt?.stop.abort(new ProtocolError("LINK_CLOSED", "another attempt has begun"));
    if (!this.#isAccepting) this.#running = this.#acceptOffers();
  }

  /** One at a time, and not too often. */
  async #acceptOffers(): Promise<void> {
    const { signal } = this.#over;
    this.#isAccepting = true;
    try {
      while (this.#offer !== undefined && !signal.aborted) {
        const sinceMs = performance.now() - this.#lastAttemptAtMs;
        if (sinceMs < ATTEMPT_INTERVAL_MS) await sleep(ATTEMPT_INTERVAL_MS - sinceMs, signal);
        const offer: Offer | undefined = this.#offer;
        this.#offer = undefined;
        this.#lastAttemptAtMs = performance.now();
        if (offer !== undefined) await this.#accept(offer);
      }
    } catch {
      // Closed meanwhile.
    } finally {
      this.#isAccepting = false;
    }
  }

  /** The seeder's side of an attempt. */
  async #accept(offer: Offer): Promise<void> {
    if (this.#options.policy === "relay") {
      const reason = "the source was told to use the relay only";
      return this.#signal({ kind: "refuse", attempt: offer.attempt, reason });
    }
    await this.#run(offer.attempt, (endpoint) => {
      const nonce = randomBytes(NONCE_BYTES);
      const { candidates } = endpoint;
      this.#signal({ kind: "answer", attempt: offer.attempt, nonce, candidates });
      return Promise.resolve({ nonce, candidates: offer.candidates });
    });
  }

  /** @param agree What both sides agree on, or why not. */
  async #run(
    id: Uint8Array,
    agree: (
      endpoint: Awaited<ReturnType<DirectDialer["open"]>>,
      signal: AbortSignal,
    ) => Promise<
      { readonly nonce: Uint8Array; readonly candidates: readonly Candidate[] } | string
    >,
  ): Promise<DirectPath | undefined> {
    const { role, dialer } = this.#options;
    const attempt: Attempt = { id, stop: new AbortController() };
    this.#attempt = attempt;
    const signal = AbortSignal.any([attempt.stop.signal, this.#over.signal]);
    let endpoint;
    try {
      endpoint = await dialer.open(signal);
      const agreed = await agree(endpoint, signal);
      if (typeof agreed === "string") return this.#failed(agreed, endpoint.nat);
      const network = await endpoint.connect({
        role,
        keys: attemptKeys(this.#options, id, agreed.nonce),
        candidates: agreed.candidates,
        bytesPerS: this.#relayedRate.bytesPerS,
        signal,
      });
      if (network === undefined) {
        this.#signal({ kind: "fallback", attempt: id, reason: "no direct path was found" });
        return this.#failed("no datagram of the other peer came through", endpoint.nat);
      }
      // From here on the network owns the socket.
      endpoint = undefined;
      if (signal.aborted) {
        await network.close(messageOf(signal.reason));
        throw signal.reason;
      }
      return this.#adopt(network, id);
    } catch (error) {
      if (this.#over.signal.aborted) return undefined;
      return this.#failed(messageOf(error), endpoint?.nat);
    } finally {
      await endpoint?.close();
      if (this.#attempt === attempt) this.#attempt = undefined;
    }
  }

  /** Measures, and leaves a direct path that carries less than the relay's. The leecher decides for both. */
  #look(): void {
    const { role, policy, measure } = this.#options;
    if (performance.now() - this.#movedAtMs < RATE_WINDOW_MS) return;
    const now = measure?.() ?? { bytesPerS: 0, bytes: 0 };
    const direct = this.#direct;
    if (direct === undefined) {
      const rate = this.#relayedRate;
      Object.assign(rate, { bytesPerS: Math.max(rate.bytesPerS, now.bytesPerS), bytes: now.bytes });
      return;
    }
    // What is still let in on the relayed path says nothing of this one.
    if (role !== "leecher" || this.#relayed !== undefined) return;
    const { path, reason } = choosePath({
      policy,
      current: "direct",
      sinceSwitchMs: performance.now() - direct.sinceMs,
      direct: {
        state: "connected",
        rttMs: direct.network.rttMs,
        bytesPerS: this.#directRate(direct, now),
        sampleBytes: now.bytes - direct.bytesBefore,
        lossRatio: undefined,
        silentForMs: 0,
        failures: 0,
      },
      relayed: {
        state: "connected",
        rttMs: 0,
        bytesPerS: this.#relayedRate.bytesPerS,
        sampleBytes: this.#relayedRate.bytes,
        lossRatio: undefined,
        silentForMs: 0,
        failures: 0,
      },
    });
    if (path === "direct") return;
    direct.slow = true;
    void direct.network.close(reason);
  }

  /** Its best: a migration that has little to send measures the migration. */
  #directRate(direct: DirectPath, now: { readonly bytesPerS: number }): number {
    direct.bestBytesPerS = Math.max(direct.bestBytesPerS, now.bytesPerS);
    return direct.bestBytesPerS;
  }

  #failed(failed: string, nat: NatKind | undefined): undefined {
    this.#options.onEvent?.({ event: "pathAttempt", failed, nat: nat ?? "unknown" });
  }

  /** From now on the bytes go this way. */
  #adopt(network: DirectNetwork, attempt: Uint8Array): DirectPath {
    const { onEvent } = this.#options;
    const former = this.#direct;
    const path: DirectPath = {
      network,
      attempt,
      sinceMs: performance.now(),
      bytesBefore: this.#options.measure?.().bytes ?? 0,
      bestBytesPerS: 0,
      slow: false,
    };
    this.#direct = path;
    this.#movedAtMs = path.sinceMs;
    void former?.network.close("another direct path took its place");
    const { remote, rttMs } = network;
    onEvent?.({
      event: "path",
      path: "direct",
      reason: "both peers reach each other",
      remote,
      rttMs,
    });
    network.lost.addEventListener("abort", () => this.#directLost(path), { once: true });
    if (network.lost.aborted) this.#directLost(path);
    this.#retireRelayed();
    this.#changed.notify();
    return path;
  }

  /**
   * What is under way is let in first: sent again it would cost its time twice. It is the leecher that leaves, by which
   * its streams break at the source: should the leecher not have heard that the path was chosen, nothing happens.
   */
  #retireRelayed(): void {
    const relayed = this.#relayed;
    if (relayed === undefined) return;
    relayed.retire.abort();
    if (this.#options.role === "seeder") return;
    void sleep(RETIRE_MS, AbortSignal.any([this.#over.signal, relayed.move.signal]))
      .then(() => this.#relayed === relayed && this.#direct !== undefined && this.#leaveRelayed())
      .catch(() => undefined);
  }

  /** The streams of the relayed pairing are of no more use: the way back begins with new ones. */
  #leaveRelayed(): void {
    const relayed = this.#relayed;
    if (relayed === undefined) return;
    this.#relayed = undefined;
    this.#movedAtMs = performance.now();
    const { pairing, move } = relayed;
    this.#left.add(pairing);
    move.abort(new ProtocolError("LINK_CLOSED", "the peers go another way now"));
    // The other side leaves at about the same time, and better by itself than because its streams break.
    void sleep(LEAVE_MS, this.#over.signal)
      .then(() => this.#options.session.renewPairing(pairing.number))
      .catch(() => undefined);
  }

  #directLost(path: DirectPath): void {
    if (this.#direct !== path) return;
    this.#direct = undefined;
    this.#movedAtMs = performance.now();
    if (this.#over.signal.aborted) return;
    const reason = messageOf(path.network.lost.reason);
    this.#signal({ kind: "fallback", attempt: path.attempt, reason });
    this.#wayBack = reason;
    // It went on there all the time.
    if (this.#relayed !== undefined) this.#tellWayBack();
    this.#changed.notify();
  }

  #signal(signal: Signal): void {
    this.#options.session.sendSignal(this.#sealer.seal(signal));
  }

  #hear(payload: Uint8Array): void {
    const signal = this.#sealer.open(payload);
    if (signal === undefined || this.#over.signal.aborted) return;
    const { role } = this.#options;
    switch (signal.kind) {
      case "offer":
        if (role === "seeder") this.#offered(signal);
        return;
      case "answer":
      case "refuse":
        this.#answer?.(signal);
        return;
      case "fallback": {
        const reason = `the other peer left it: ${signal.reason}`;
        if (same(this.#offer?.attempt, signal.attempt)) this.#offer = undefined;
        if (same(this.#direct?.attempt, signal.attempt)) void this.#direct?.network.close(reason);
        if (same(this.#attempt?.id, signal.attempt) && role === "seeder") {
          this.#attempt?.stop.abort(new ProtocolError("LINK_CLOSED", reason));
        }
      }
    }
  }

  async #nextAnswer(
    id: Uint8Array,
    signal: AbortSignal,
  ): Promise<Extract<Signal, { kind: "answer" | "refuse" }> | undefined> {
    const { promise, resolve } =
      Promise.withResolvers<Extract<Signal, { kind: "answer" | "refuse" }>>();
    this.#answer = (answer) => {
      if (same(id, answer.attempt)) resolve(answer);
    };
    try {
      return await Promise.race([promise, sleep(ANSWER_MS, signal).then(() => undefined)]);
    } finally {
      this.#answer = undefined;
    }
  }
}

function same(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && Buffer.compare(a, b) === 0;
}
