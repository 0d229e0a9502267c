/**
 * A link whose every stream has a connection of its own, so that none waits for another.
 *
 * On WebSocket that is one TCP connection each. On WebTransport it is one session each, because of what
 * one QUIC library does when a stream is not read: its connection window starts at 48 KiB and a stream may
 * hold 1 MiB, so that one stalled stream stalls all others of the session (rwebtransport 0.2.2 with
 * quiche 0.29, which offers no setting for it). The relay pauses streams all the time.
 *
 * Connections are made ahead of need, where need can be foreseen: a few round trips less when it comes.
 *
 * @module
 */
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import { PREFACE_DEADLINE_MS } from "../../relay/protocol/limits.ts";
import type { ByteStream, CloseInfo, LinkKind } from "../../relay/protocol/stream.ts";
import { messageOf } from "../../relay/protocol/web-stream.ts";
import { LinkError } from "./errors.ts";
import type { Link } from "./link.ts";

export const DIAL_DEADLINE_MS = 10_000;
/** Connections that are made ahead of need, at most. */
export const SPARES_MAX = 16;
/** Past this age the relay may have given up on a connection on which nothing was said. */
const SPARE_AGE_MAX_MS = PREFACE_DEADLINE_MS / 2;
/** Between two words on a spare that is kept: the relay, and most proxies, wait 30 s and longer. */
const SPARE_WORD_MS = 20_000;
const SPARES_LOOK_MS = 1_000;

/** Ends of a stream that say something of the relay, not of the stream. */
const LOST_CODES: ReadonlySet<ProtocolErrorCode> = new Set([
  "LINK_CLOSED",
  "RELAY_DRAINING",
  "RELAY_UNAVAILABLE",
]);

export interface OpenLimits {
  readonly deadlineMs: number;
  readonly signal: AbortSignal | undefined;
}

/** A connection whose stream has not begun. */
export interface Connection {
  /**
   * The stream, which may be used at once; it fails if it turns out that the relay does not open it.
   *
   * @throws LinkError
   */
  open(): Promise<ByteStream>;
  /**
   * The same, when the relay has said that it is open.
   *
   * @param greeting Sent with what opens it.
   * @throws LinkError
   */
  openFirst(greeting: Uint8Array | undefined): Promise<ByteStream>;
  /** Resolves when it is of no use any more; never rejects. */
  readonly gone: Promise<unknown>;
  /** Says something without a meaning, so that the relay keeps it. `false` if it did not. */
  keep?(): Promise<boolean>;
  drop(): void;
}

export interface Connector {
  readonly kind: LinkKind;
  /** Whether `openFirst` sends a greeting. */
  readonly greets: boolean;
  /** @throws LinkError */
  connect(limits: OpenLimits): Promise<Connection>;
}

export interface LinkOptions extends OpenLimits {
  readonly greeting?: (() => Uint8Array | undefined) | undefined;
}

/**
 * Opens the first stream at once, so that an unreachable relay is an error here. Who greets will want a second one
 * soon, and its connection is made beside.
 */
export async function openConnectionLink(
  connector: Connector,
  { greeting, ...limits }: LinkOptions,
): Promise<Link> {
  const spare = greeting === undefined ? undefined : new Spare(connector.connect(limits));
  try {
    const connection = await connector.connect(limits);
    const words = connector.greets ? greeting?.() : undefined;
    const first = await connection.openFirst(words);
    return new ConnectionLink(connector, first, { greeted: words !== undefined, spare });
  } catch (error) {
    spare?.drop();
    throw error;
  }
}

/** A connection that is made, or is being made. */
class Spare {
  readonly connection: Promise<Connection>;
  readonly madeAtMs = performance.now();
  heardAtMs = performance.now();
  isKept = false;

  constructor(connection: Promise<Connection>) {
    this.connection = connection;
    // Who takes it hears of it.
    connection.catch(() => {});
  }

  drop(): void {
    this.connection.then(
      (connection) => connection.drop(),
      () => {},
    );
  }
}

class ConnectionLink implements Link {
  readonly kind: LinkKind;
  readonly closed: Promise<CloseInfo>;
  readonly greeted: boolean;
  readonly #connector: Connector;
  readonly #streams = new Set<ByteStream>();
  readonly #dialing = new AbortController();
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #first: { readonly stream: ByteStream; readonly madeAtMs: number } | null;
  /** Oldest first. */
  #spares: Spare[] = [];
  #looking: ReturnType<typeof setInterval> | undefined;
  #over: CloseInfo | null = null;

  constructor(
    connector: Connector,
    first: ByteStream,
    { greeted, spare }: { greeted: boolean; spare: Spare | undefined },
  ) {
    this.kind = connector.kind;
    this.greeted = greeted;
    this.#connector = connector;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#first = { stream: first, madeAtMs: performance.now() };
    void first.closed.then(() => {
      if (this.#first?.stream === first && !greeted) this.#first = null;
    });
    if (spare !== undefined) this.#hold(spare);
  }

  async openStream(): Promise<ByteStream> {
    this.#throwIfOver();
    const first = this.#first;
    this.#first = null;
    if (first !== null) {
      const isFresh = performance.now() - first.madeAtMs < SPARE_AGE_MAX_MS;
      // One that was greeted is what the relay knows this peer by.
      if (isFresh || this.greeted) return this.#keep(first.stream);
      first.stream.abort("OK", "not used");
    }
    let stream;
    try {
      stream = await (await this.#connection()).open();
    } catch (error) {
      this.#throwIfOver();
      const late = error instanceof LinkError && error.code === "DEADLINE_EXCEEDED";
      throw new ProtocolError(late ? "DEADLINE_EXCEEDED" : "LINK_CLOSED", messageOf(error), {
        cause: error,
      });
    }
    if (this.#over !== null) {
      stream.abort("LINK_CLOSED", "the link was closed");
      this.#throwIfOver();
    }
    return this.#keep(stream);
  }

  /** Makes connections ahead, so that with those that wait already there are `streams`. Never throws. */
  warm(streams: number): void {
    if (this.#over !== null) return;
    for (let have = this.#spares.length; have < Math.min(streams, SPARES_MAX); have++) {
      this.#hold(new Spare(this.#connect()));
    }
  }

  async close(code: ProtocolErrorCode, reason: string): Promise<void> {
    if (this.#over === null) this.#end({ code, reason });
    await this.closed;
  }

  #connect(): Promise<Connection> {
    return this.#connector.connect({
      deadlineMs: DIAL_DEADLINE_MS,
      signal: this.#dialing.signal,
    });
  }

  /** The oldest that is made ahead and not too old, else a new one. */
  async #connection(): Promise<Connection> {
    for (;;) {
      const spare = this.#spares.shift();
      if (spare === undefined) return await this.#connect();
      if (isUsable(spare)) {
        try {
          return await spare.connection;
        } catch {
          // It failed some time ago: what is true now shows with the next.
          continue;
        }
      }
      spare.drop();
    }
  }

  #hold(spare: Spare): void {
    this.#spares.push(spare);
    const remove = (): void => {
      this.#spares = this.#spares.filter((one) => one !== spare);
    };
    spare.connection.then(({ gone }) => void gone.then(remove), remove);
    this.#looking ??= setInterval(() => this.#look(), SPARES_LOOK_MS);
    if (typeof this.#looking === "object") this.#looking.unref();
  }

  /** Drops what nobody took in time, and keeps one for a peer that waits for the other one. */
  #look(): void {
    const now = performance.now();
    for (const spare of this.#spares) {
      if (spare.isKept) {
        if (now - spare.heardAtMs >= SPARE_WORD_MS) void this.#keepSpare(spare);
      } else if (now - spare.madeAtMs >= SPARE_AGE_MAX_MS / 2) {
        const isWaiting = this.#streams.size <= 1 && !this.#spares.some((one) => one.isKept);
        if (isWaiting) void this.#keepSpare(spare);
        else if (!isUsable(spare)) this.#drop(spare);
      }
    }
    if (this.#spares.length > 0) return;
    clearInterval(this.#looking);
    this.#looking = undefined;
  }

  async #keepSpare(spare: Spare): Promise<void> {
    spare.isKept = true;
    spare.heardAtMs = performance.now();
    const connection = await spare.connection.catch(() => undefined);
    // Taken meanwhile.
    if (connection === undefined || !this.#spares.includes(spare)) return;
    const kept = this.#take(spare, () => connection.keep?.() ?? Promise.resolve(false));
    if (!(await kept)) connection.drop();
  }

  /** Nobody may take it while it says something. */
  async #take(spare: Spare, say: () => Promise<boolean>): Promise<boolean> {
    this.#spares = this.#spares.filter((one) => one !== spare);
    const kept = await say();
    if (kept && this.#over === null) this.#spares.unshift(spare);
    return kept && this.#over === null;
  }

  #drop(spare: Spare): void {
    this.#spares = this.#spares.filter((one) => one !== spare);
    spare.drop();
  }

  /**
   * A stream that the other side aborts is over, and the link goes on. A connection that is lost takes
   * the link with it once none is left: the next one may go another way, but nothing says so.
   */
  #keep(stream: ByteStream): ByteStream {
    this.#streams.add(stream);
    void stream.closed.then((info) => {
      this.#streams.delete(stream);
      const lost = LOST_CODES.has(info.code);
      if (lost && this.#streams.size === 0 && this.#over === null) this.#end(info);
    });
    return stream;
  }

  #end(info: CloseInfo): void {
    this.#over = info;
    this.#dialing.abort();
    clearInterval(this.#looking);
    const code = info.code === "OK" ? "LINK_CLOSED" : info.code;
    this.#first?.stream.abort(code, info.reason);
    this.#first = null;
    for (const spare of this.#spares.splice(0)) spare.drop();
    for (const stream of this.#streams) stream.abort(code, info.reason);
    this.#resolveClosed(info);
  }

  #throwIfOver(): void {
    if (this.#over === null) return;
    throw new ProtocolError("LINK_CLOSED", `the link is closed: ${this.#over.reason}`);
  }
}

function isUsable(spare: Spare): boolean {
  return spare.isKept || performance.now() - spare.madeAtMs < SPARE_AGE_MAX_MS;
}
