/**
 * A peer's place in its session at the relay: joins with the ticket, keeps the control stream alive, comes
 * back when it breaks, and asks the relay for the one thing that it decides: who owns the region.
 *
 * @module
 */
import {
  encodeFrame,
  type Command,
  type DescribeFrame,
  type DiscoveryFrame,
  type Frame,
  type IndexDeltaFrame,
  type IndexRootFrame,
  type IndexSegmentFrame,
  type PeerToRelayFrame,
  type Progress,
  type ProgressMore,
  type SessionTerms,
  type WelcomeFrame,
  type ThrottledFrame,
} from "../../relay/protocol/frame.ts";
import { messageOf, ProtocolError } from "../../relay/protocol/errors.ts";
import type { Role, SessionState } from "../../relay/protocol/ids.ts";
import {
  CONTROL_FRAME_BYTES_MAX,
  HEARTBEAT_MS,
  SILENCE_LOOK_MS,
  SILENCE_MAX_MS,
} from "../../relay/protocol/limits.ts";
import { MessageReader, readFrame, writeFrame } from "../../relay/protocol/message-stream.ts";
import type { ByteStream, LinkKind } from "../../relay/protocol/stream.ts";
import type { Ticket } from "../../relay/protocol/ticket.ts";
import { FEATURES, PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../relay/protocol/version.ts";
import { Hold } from "../migration/hold.ts";
import type { Link } from "./link.ts";
import { sleep } from "../sleep.ts";
import { RttMeter } from "./rtt-meter.ts";
import type { PeerIdentity } from "./peer-identity.ts";

/** Waits between attempts to come back: doubled up to the longest, with jitter against stampedes. */
const BACKOFF_FIRST_MS = 200;
const BACKOFF_MAX_MS = 5_000;
/** A relay that goes down says when to leave it, up to this, */
const RECONNECT_IN_MS_MAX = 60_000;
/** and for how long another one is to be expected, up to this: */
const TRY_FOR_MS_MAX = 600_000;
/** so long the waits between attempts stay below this. */
const BACKOFF_EXPECTED_MAX_MS = 1_000;
/** From an open link to the relay's welcome. */
const WELCOME_MS = 10_000;
/** How long leaving waits for the relay to have heard the last reports. */
const GOODBYE_MS = 3_000;

const EARLY_SIGNALS_MAX = 8;

/** Errors that no later attempt can cure. */
const FATAL_CODES: ReadonlySet<string> = new Set([
  "VERSION_UNSUPPORTED",
  "TICKET_MALFORMED",
  "TICKET_UNKNOWN",
  "TICKET_USED",
  "TICKET_EXPIRED",
  "TICKET_WRONG_ROLE",
  "PEER_UNKNOWN",
  "PROOF_INVALID",
  "SESSION_ENDED",
  "CERTIFICATE_MISMATCH",
]);

export interface Ownership {
  readonly owner: Role;
  readonly epoch: number;
  readonly state: SessionState;
  /** Why the session has just been ended; else empty. */
  readonly reason: string;
}

export interface RelayControlOptions {
  readonly ticket: Ticket;
  readonly identity: PeerIdentity;
  /** This identity has used the ticket before: the relay is asked by proof of the key. */
  readonly rejoin?: boolean;
  /** @param greeting As in `DialOptions`. */
  readonly dial: (signal: AbortSignal, greeting: () => Uint8Array) => Promise<Link>;
  /** Described to the relay at every (re)join. */
  readonly describe?: () => Omit<DescribeFrame, "kind"> | undefined;
  /** A person asked for this through the API. */
  readonly onCommand?: (command: Command, reason: string) => void;
  /** The relay said who owns the region. */
  readonly onOwnership?: (ownership: Ownership) => void;
  /** A bound of the relay's begins to hold this session back, or keeps it out. For people only. */
  readonly onThrottled?: (held: Omit<ThrottledFrame, "kind">) => void;
  /** The link broke, or is back. For people only. */
  readonly onConnection?: (connected: boolean, detail: string) => void;
}

/** Both peers are there and may open the streams of this pairing. */
export interface Pairing {
  readonly number: number;
  readonly linkKind: LinkKind;
  openStream(streamIndex: number): Promise<ByteStream>;
  /** So many streams will be opened soon. */
  warm(streams: number): void;
  /** Aborted when the other peer or the link is gone. */
  readonly lost: AbortSignal;
}

interface Connection {
  readonly link: Link;
  readonly stream: ByteStream;
  readonly welcome: WelcomeFrame;
  readonly reader: MessageReader;
}

/** The relay said that it is going down. Milliseconds of `performance.now()`. */
interface GoingAway {
  /** When this peer leaves: what is under way may arrive until then. */
  readonly leaveAtMs: number;
  /** Until then another relay, or the same again, is to be expected. */
  readonly expectUntilMs: number;
}

interface Waiter<T> {
  resolve(value: T): void;
  reject(error: unknown): void;
}

export class RelayControl {
  readonly #options: RelayControlOptions;
  readonly #stop = new AbortController();
  #connection: Connection | undefined;
  /** The ticket's token is shown until the relay has welcomed us once. */
  #joined = false;
  #pairing: { pairing: Pairing; lose: AbortController } | undefined;
  #pairingWaiters: Waiter<Pairing>[] = [];
  #ownership: Ownership | undefined;
  /** Waits for the next answer about the owner, or for the loss of the connection that carries it. */
  #ownershipWaiters: Waiter<Ownership>[] = [];
  #discovery: DiscoveryFrame | undefined;
  #failure: unknown;
  #running: Promise<void> = Promise.resolve();
  #heardAtMs = 0;
  /** When a relay that was full is to be asked again. */
  #askAgainAtMs = 0;
  #goingAway: GoingAway | undefined;
  readonly #rtt = new RttMeter();
  /** Set by `pause` and `resume`, also before anybody here has begun. */
  readonly hold = new Hold();
  #terms: SessionTerms | undefined;
  #onSignal: ((payload: Uint8Array) => void) | undefined;
  /** Signals of the other peer that came before somebody here listened. */
  readonly #earlySignals: Uint8Array[] = [];

  private constructor(options: RelayControlOptions) {
    this.#options = options;
    this.#joined = options.rejoin ?? false;
  }

  /** @throws LinkError or ProtocolError if the first attempt fails. */
  static async join(options: RelayControlOptions): Promise<RelayControl> {
    const control = new RelayControl(options);
    const first = await control.#connect();
    control.#running = control.#run(first);
    return control;
  }

  /** What the relay last said of the owner. */
  get ownership(): Ownership {
    if (this.#ownership === undefined) throw new Error("not joined yet");
    return this.#ownership;
  }

  /** What the operator wants of the migration, as last told. */
  get terms(): SessionTerms | undefined {
    return this.#terms;
  }

  get linkKind(): LinkKind | undefined {
    return this.#connection?.link.kind;
  }

  /** Smoothed round trip to the relay, 0 until it is measured. */
  get rttMs(): number {
    return this.#rtt.rttMs;
  }

  /** How to ask the relay for this host's UDP address; undefined if it does not tell, or not yet. */
  get discovery(): Pick<DiscoveryFrame, "token" | "ports"> | undefined {
    return this.#discovery;
  }

  /**
   * The pairing with the other peer, as soon as there is one that is not lost.
   *
   * @throws what ended the session for good, or the signal's reason.
   */
  pairing(signal?: AbortSignal): Promise<Pairing> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#pairing !== undefined) return Promise.resolve(this.#pairing.pairing);
    return new Promise((resolve, reject) => {
      const waiter = { resolve, reject };
      this.#pairingWaiters.push(waiter);
      const giveUp = (): void => {
        this.#pairingWaiters = this.#pairingWaiters.filter((one) => one !== waiter);
        reject(signal?.reason);
      };
      if (signal?.aborted === true) giveUp();
      else signal?.addEventListener("abort", giveUp, { once: true });
    });
  }

  /**
   * Asks to make the leecher the owner at `epoch`, until there is an answer.
   *
   * @throws what ended the session for good, or the signal's reason.
   */
  commit(epoch: number, signal?: AbortSignal): Promise<Ownership> {
    return this.#ask({ kind: "commit", epoch }, signal);
  }

  /** Asks to end the session with the seeder as the owner, until there is an answer. */
  revoke(reason: string, signal?: AbortSignal): Promise<Ownership> {
    return this.#ask({ kind: "revoke", reason }, signal);
  }

  /** Whether the relay passes signals between the peers. */
  get passesSignals(): boolean {
    const features = this.#connection?.welcome.features ?? 0;
    return (features & FEATURES.signals) !== 0;
  }

  /** Tells the other peer something by way of the relay. Best effort. */
  sendSignal(payload: Uint8Array): void {
    if (this.passesSignals) this.#report({ kind: "signal", payload });
  }

  /** Who hears what the other peer signals, also what came before. */
  set onSignal(listener: (payload: Uint8Array) => void) {
    this.#onSignal = listener;
    for (const payload of this.#earlySignals.splice(0)) listener(payload);
  }

  /** The streams of this pairing were left: the next ones need a new one. */
  renewPairing(number: number): void {
    if (this.passesSignals) this.#report({ kind: "renewPairing", pairing: number });
  }

  /** Tells the relay what this peer is, as far as it is known by now. */
  sendDescription(): void {
    const describe = this.#options.describe?.();
    if (describe !== undefined) this.#report({ kind: "describe", ...describe });
  }

  reportPhase(state: SessionState, reason = ""): void {
    this.#report({ kind: "phase", state, reason });
  }

  reportProgress(progress: Progress): void {
    this.#report({ kind: "progress", progress });
  }

  reportMore(more: ProgressMore): void {
    const features = this.#connection?.welcome.features ?? 0;
    if ((features & FEATURES.commands) !== 0) this.#report({ kind: "progressMore", more });
  }

  /** Resolves when the relay will take more; `false` if there is no connection and nothing was sent. */
  async reportIndex(frame: IndexSegmentFrame | IndexDeltaFrame | IndexRootFrame): Promise<boolean> {
    const connection = this.#connection;
    if (connection === undefined) return false;
    try {
      await writeFrame(connection.stream, frame);
      return true;
    } catch {
      // The read side sees the loss and reconnects; the caller sends the checkpoint again.
      return false;
    }
  }

  /** Says goodbye and leaves. */
  async close(): Promise<void> {
    if (this.#stop.signal.aborted) return this.#running;
    const connection = this.#connection;
    if (connection !== undefined) {
      // The relay ends the stream once it has read everything up to the goodbye; a silent one is not waited for.
      await Promise.race([sayGoodbye(connection.stream), sleep(GOODBYE_MS)]);
    }
    this.#stop.abort(new ProtocolError("LINK_CLOSED", "this peer left the session"));
    const closing = Promise.all([connection?.link.close("OK", "done"), this.#running]);
    // A link whose other end is gone may take its time; nobody needs to see it.
    await Promise.race([closing, sleep(GOODBYE_MS)]);
  }

  async #ask(frame: PeerToRelayFrame, signal?: AbortSignal): Promise<Ownership> {
    for (;;) {
      signal?.throwIfAborted();
      if (this.#failure !== undefined) throw this.#failure;
      const connection = this.#connection;
      if (connection !== undefined) {
        try {
          const answer = this.#nextOwnership(signal);
          await Promise.all([writeFrame(connection.stream, frame), answer]);
          return await answer;
        } catch (error) {
          if (signal?.aborted === true) throw signal.reason;
          if (error instanceof ProtocolError && FATAL_CODES.has(error.code)) throw error;
          // Not answered: the outcome is unknown, so the same question is asked again.
        }
      }
      await sleep(BACKOFF_FIRST_MS, signal);
    }
  }

  #nextOwnership(signal?: AbortSignal): Promise<Ownership> {
    return new Promise((resolve, reject) => {
      this.#ownershipWaiters.push({ resolve, reject });
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  }

  #report(frame: PeerToRelayFrame): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    writeFrame(connection.stream, frame).catch(() => {
      // Reports are for people; the read side sees the loss and reconnects.
    });
  }

  async #run(first: Connection): Promise<void> {
    let connection: Connection | undefined = first;
    let delayMs = BACKOFF_FIRST_MS;
    for (;;) {
      try {
        connection ??= await this.#connect();
        delayMs = BACKOFF_FIRST_MS;
        this.#options.onConnection?.(true, connection.link.kind);
        await this.#serve(connection);
      } catch (error) {
        this.#disconnected(error);
        if (this.#stop.signal.aborted) return;
        if (isFatal(error)) {
          this.#fail(error);
          return;
        }
        this.#options.onConnection?.(false, messageOf(error));
        // It went before it was left, as it may: the next one is there no sooner than it said.
        const early = (this.#goingAway?.leaveAtMs ?? 0) - performance.now();
        delayMs = Math.max(delayMs, early, this.#askAgainAtMs - performance.now());
      }
      connection = undefined;
      try {
        await sleep(delayMs * (0.5 + Math.random()), this.#stop.signal);
      } catch {
        return;
      }
      const expected = performance.now() < (this.#goingAway?.expectUntilMs ?? 0);
      const longestMs = expected ? BACKOFF_EXPECTED_MAX_MS : BACKOFF_MAX_MS;
      delayMs = Math.min(Math.max(delayMs, BACKOFF_FIRST_MS) * 2, longestMs);
    }
  }

  async #connect(): Promise<Connection> {
    const { ticket, identity, dial } = this.#options;
    const hello = encodeFrame({
      kind: "hello",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
      features: FEATURES.direct | FEATURES.commands,
      role: ticket.role,
      sessionId: ticket.sessionId,
      peerKey: identity.publicKey,
      token: this.#joined ? undefined : ticket.token,
    });
    const link = await dial(this.#stop.signal, () => hello);
    const giveUp = (): void => void link.close("DEADLINE_EXCEEDED", "no welcome");
    const deadline = setTimeout(giveUp, WELCOME_MS);
    this.#stop.signal.addEventListener("abort", giveUp, { once: true });
    try {
      const stream = await link.openStream();
      const reader = new MessageReader(stream);
      if (link.greeted !== true) await stream.write(hello);
      let frame = await this.#frame(reader);
      if (frame.kind === "challenge") {
        const signature = identity.prove(frame.challenge, ticket.sessionId, ticket.role);
        await writeFrame(stream, { kind: "proof", signature });
        frame = await this.#frame(reader);
      }
      if (frame.kind !== "welcome") {
        throw new ProtocolError("FRAME_UNEXPECTED", `the relay sent ${frame.kind}, not a welcome`);
      }
      this.#joined = true;
      // The token was the last connection's.
      this.#discovery = undefined;
      this.#ownership = {
        owner: frame.owner,
        epoch: frame.ownerEpoch,
        state: frame.state,
        reason: "",
      };
      this.#options.onOwnership?.(this.#ownership);
      this.#heardAtMs = performance.now();
      const connection = { link, stream, welcome: frame, reader };
      this.#connection = connection;
      this.sendDescription();
      return connection;
    } catch (error) {
      await link.close("LINK_CLOSED", "join failed");
      throw error;
    } finally {
      clearTimeout(deadline);
      this.#stop.signal.removeEventListener("abort", giveUp);
    }
  }

  /** The next frame; an `error` frame is thrown as what it says. */
  async #frame(reader: MessageReader): Promise<Frame> {
    for (;;) {
      const frame = await readFrame(reader, CONTROL_FRAME_BYTES_MAX);
      if (frame === null) throw new ProtocolError("LINK_CLOSED", "the relay closed the connection");
      if (frame.kind === "error") throw new ProtocolError(frame.code, frame.message);
      if (frame.kind !== "throttled") return frame;
      const { limitName, bytesPerS } = frame;
      const retryInMs = Math.min(frame.retryInMs, RECONNECT_IN_MS_MAX);
      this.#askAgainAtMs = performance.now() + retryInMs;
      this.#options.onThrottled?.({ limitName, bytesPerS, retryInMs });
    }
  }

  /** Handles frames until the connection ends, which is always an error. */
  async #serve(connection: Connection): Promise<never> {
    const looking = setInterval(() => {
      if (performance.now() - this.#heardAtMs > SILENCE_MAX_MS) {
        connection.stream.abort("DEADLINE_EXCEEDED", "the relay is silent");
        void connection.link.close("DEADLINE_EXCEEDED", "the relay is silent");
      }
    }, SILENCE_LOOK_MS);
    const heartbeat = setInterval(() => {
      this.#rtt.sent();
      this.#report({ kind: "ping", nonce: 0 });
    }, HEARTBEAT_MS);
    const { promise: leaving, reject: leave } = Promise.withResolvers<never>();
    leaving.catch(() => {});
    const goodbye = new ProtocolError("RELAY_DRAINING", "the relay is going down");
    let leaveTimer: ReturnType<typeof setTimeout> | undefined;
    this.#goingAway = undefined;
    try {
      for (;;) {
        const frame = await Promise.race([this.#frame(connection.reader), leaving]);
        this.#handle(frame, connection);
        if (frame.kind !== "goAway" || leaveTimer !== undefined) continue;
        // With jitter: others may have been told the same.
        const inMs = Math.min(frame.reconnectInMs, RECONNECT_IN_MS_MAX) * (0.5 + Math.random());
        const leaveAtMs = performance.now() + inMs;
        const expectUntilMs = leaveAtMs + Math.min(frame.tryForMs, TRY_FOR_MS_MAX);
        this.#goingAway = { leaveAtMs, expectUntilMs };
        leaveTimer = setTimeout(() => leave(goodbye), inMs);
      }
    } catch (error) {
      throw leaveTimer === undefined ? error : goodbye;
    } finally {
      clearTimeout(leaveTimer);
      clearInterval(looking);
      clearInterval(heartbeat);
    }
  }

  #handle(frame: Frame, connection: Connection): void {
    this.#heardAtMs = performance.now();
    switch (frame.kind) {
      case "pong":
        this.#rtt.answered();
        return;
      case "peer":
        this.#losePairing("the other peer is gone");
        if (frame.present) this.#pair(connection, frame.pairing);
        return;
      case "owner": {
        const { owner, ownerEpoch: epoch, state, reason } = frame;
        const ownership = { owner, epoch, state, reason };
        this.#ownership = ownership;
        for (const waiter of this.#ownershipWaiters.splice(0)) waiter.resolve(ownership);
        this.#options.onOwnership?.(ownership);
        return;
      }
      case "discovery":
        this.#discovery = frame;
        return;
      case "terms":
        this.#terms = frame.terms;
        return;
      case "command":
        if (frame.command === "pause" || frame.command === "resume") {
          this.hold.held = frame.command === "pause";
        }
        this.#options.onCommand?.(frame.command, frame.reason);
        return;
      case "peerSignal":
        // A copy: the frame is a view of a piece that may be many times larger.
        if (this.#onSignal !== undefined) this.#onSignal(frame.payload.slice());
        else if (this.#earlySignals.length < EARLY_SIGNALS_MAX)
          this.#earlySignals.push(frame.payload.slice());
        return;
      case "goAway":
        // Whoever serves the connection leaves it in time.
        return;
      default:
        // A frame that has no place here, or none that this version knows: not worth the session.
        return;
    }
  }

  #pair(connection: Connection, number: number): void {
    const { ticket } = this.#options;
    const lose = new AbortController();
    const pairing: Pairing = {
      number,
      linkKind: connection.link.kind,
      lost: lose.signal,
      warm: (streams) => connection.link.warm?.(streams),
      openStream: async (streamIndex) => {
        const stream = await connection.link.openStream();
        await writeFrame(stream, {
          kind: "stream",
          sessionId: ticket.sessionId,
          role: ticket.role,
          streamSecret: connection.welcome.streamSecret,
          pairing: number,
          streamIndex,
        });
        return stream;
      },
    };
    this.#pairing = { pairing, lose };
    for (const waiter of this.#pairingWaiters.splice(0)) waiter.resolve(pairing);
  }

  #losePairing(reason: string): void {
    this.#pairing?.lose.abort(new ProtocolError("PEER_GONE", reason));
    this.#pairing = undefined;
  }

  #disconnected(error: unknown): void {
    const connection = this.#connection;
    this.#connection = undefined;
    this.#losePairing(`the connection to the relay is lost: ${messageOf(error)}`);
    for (const waiter of this.#ownershipWaiters.splice(0)) waiter.reject(error);
    void connection?.link.close("LINK_CLOSED", "reconnecting");
  }

  #fail(error: unknown): void {
    this.#failure = error;
    for (const waiter of this.#pairingWaiters.splice(0)) waiter.reject(error);
  }
}

async function sayGoodbye(stream: ByteStream): Promise<void> {
  try {
    await writeFrame(stream, { kind: "bye" });
    await stream.end();
    await stream.closed;
  } catch {
    // Gone already: there is nobody to say goodbye to.
  }
}

function isFatal(error: unknown): boolean {
  return (
    error instanceof Error &&
    "code" in error &&
    typeof error.code === "string" &&
    FATAL_CODES.has(error.code)
  );
}
