/**
 * A relay's transport in memory, for tests and simulation: what a peer opens comes out at an `OnStream`.
 *
 * @module
 */
import { ByteQueue, SendWindow, StreamLife } from "../../relay/protocol/byte-queue.ts";
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import { STREAM_BUFFER_BYTES_MAX } from "../../relay/protocol/limits.ts";
import type { ByteStream, CloseInfo, LinkKind } from "../../relay/protocol/stream.ts";
import { LinkError } from "./errors.ts";
import type { Dial, Link } from "./link.ts";

/**
 * When a step happens: a delivered piece, an end, an abort. Steps of one direction of a stream keep their
 * order whatever the scheduler does.
 */
export type Scheduler = (step: () => void) => void;

/** What the relay side takes; the relay's `IncomingStream`. */
export interface MemoryIncoming {
  readonly stream: ByteStream;
  readonly kind: LinkKind;
  readonly remoteAddress: string;
  readonly connectionId: string;
}

export interface MemoryRelayOptions {
  /** Default: a microtask. */
  readonly schedule?: Scheduler;
  /** Each way of each stream. Default `STREAM_BUFFER_BYTES_MAX`. */
  readonly bufferBytesMax?: number;
  /** What the relay sees as the peers' address. Default "memory". */
  readonly remoteAddress?: string;
}

export interface MemoryRelay {
  readonly dial: Dial;
  /** Loses every link as a crash would, and refuses new ones until `revive`. */
  crash(): void;
  revive(): void;
  /** Ends every link in order. */
  close(code: ProtocolErrorCode, reason: string): void;
}

export function memoryRelay(
  onStream: (incoming: MemoryIncoming) => void,
  options: MemoryRelayOptions = {},
): MemoryRelay {
  const schedule = options.schedule ?? queueMicrotask;
  const bytesMax = options.bufferBytesMax ?? STREAM_BUFFER_BYTES_MAX;
  const links = new Set<MemoryLink>();
  let up = true;
  let connections = 0;
  const dial: Dial = (dialOptions) =>
    new Promise((resolve, reject) => {
      schedule(() => {
        if (dialOptions.signal?.aborted === true) {
          return reject(new LinkError("CANCELLED", `dialing ${dialOptions.url} was cancelled`));
        }
        if (!up) {
          return reject(
            new LinkError(
              "RELAY_UNREACHABLE",
              `no relay answers at ${dialOptions.url} (it is down): is \`memferry relay\` running there?`,
            ),
          );
        }
        connections += 1;
        const connectionId = `memory-${connections}`;
        const link = new MemoryLink((error) => {
          const [peer, relay] = memoryStreamPair({ schedule, bytesMax });
          schedule(() => {
            if (error() !== null) return;
            onStream({
              stream: relay,
              kind: "memory",
              remoteAddress: options.remoteAddress ?? "memory",
              connectionId,
            });
          });
          return [peer, relay];
        });
        links.add(link);
        void link.closed.then(() => links.delete(link));
        resolve(link);
      });
    });
  const endAll = (info: CloseInfo): void => {
    for (const link of links) link.lose(info);
  };
  return {
    dial,
    crash: () => {
      up = false;
      endAll({ code: "LINK_CLOSED", reason: "the connection was lost" });
    },
    revive: () => {
      up = true;
    },
    close: (code, reason) => {
      up = false;
      endAll({ code, reason });
    },
  };
}

class MemoryLink implements Link {
  readonly kind = "memory";
  readonly closed: Promise<CloseInfo>;
  readonly #open: (error: () => CloseInfo | null) => readonly [MemoryStream, MemoryStream];
  readonly #streams = new Set<MemoryStream>();
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #over: CloseInfo | null = null;

  constructor(open: (error: () => CloseInfo | null) => readonly [MemoryStream, MemoryStream]) {
    this.#open = open;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  async openStream(): Promise<ByteStream> {
    if (this.#over !== null) throw new ProtocolError("LINK_CLOSED", this.#over.reason);
    const pair = this.#open(() => this.#over);
    for (const stream of pair) {
      this.#streams.add(stream);
      void stream.closed.then(() => this.#streams.delete(stream));
    }
    return pair[0];
  }

  async close(code: ProtocolErrorCode, reason: string): Promise<void> {
    this.lose({ code, reason });
    await this.closed;
  }

  /** Both ends of every stream at once: nothing in flight arrives. */
  lose(info: CloseInfo): void {
    if (this.#over !== null) return;
    this.#over = info;
    const code = info.code === "OK" ? "LINK_CLOSED" : info.code;
    for (const stream of this.#streams) stream.lose(code, info.reason);
    this.#resolveClosed(info);
  }
}

/** Two ends of one stream. */
export function memoryStreamPair(
  options: { readonly schedule?: Scheduler; readonly bytesMax?: number } = {},
): readonly [MemoryStream, MemoryStream] {
  const schedule = options.schedule ?? queueMicrotask;
  const bytesMax = options.bytesMax ?? STREAM_BUFFER_BYTES_MAX;
  const left = new MemoryStream(schedule, bytesMax);
  const right = new MemoryStream(schedule, bytesMax);
  left.join(right);
  right.join(left);
  return [left, right];
}

class MemoryStream implements ByteStream {
  readonly #life = new StreamLife();
  readonly #schedule: Scheduler;
  readonly #received: ByteQueue;
  /** Bytes that the other side has not read, in flight or in its queue. */
  readonly #sending: SendWindow;
  readonly #inFlight: (() => void)[] = [];
  #other: MemoryStream | null = null;
  #held = 0;
  #ended = false;

  constructor(schedule: Scheduler, bytesMax: number) {
    this.#schedule = schedule;
    this.#sending = new SendWindow(bytesMax);
    this.#received = new ByteQueue(() => this.#release());
  }

  get closed(): ByteStream["closed"] {
    return this.#life.closed;
  }

  join(other: MemoryStream): void {
    this.#other = other;
  }

  async read(): Promise<Uint8Array | null> {
    const piece = await this.#received.read();
    this.#release();
    return piece;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#life.error !== null || this.#ended) throw this.#life.overError();
    if (bytes.length > 0) {
      this.#sending.add(bytes.length);
      this.#deliver((other) => {
        other.#held += bytes.length;
        other.#received.push(bytes);
      });
    }
    await this.#sending.room();
  }

  async end(): Promise<void> {
    if (this.#life.error !== null) throw this.#life.error;
    if (this.#ended) return;
    this.#ended = true;
    this.#deliver((other) => {
      other.#received.end();
      other.#life.readOver();
    });
    this.#life.writeOver();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    if (!this.#fail(code, reason)) return;
    this.#deliver((other) => other.#fail(code === "OK" ? "LINK_CLOSED" : code, reason));
  }

  /** The link is gone: nothing more arrives, not even what is in flight. */
  lose(code: ProtocolErrorCode, reason: string): void {
    this.#inFlight.length = 0;
    this.#fail(code, reason);
  }

  #fail(code: ProtocolErrorCode, reason: string): boolean {
    const error = this.#life.fail(code, reason);
    if (error === null) return false;
    this.#received.fail(error);
    this.#sending.fail(error);
    return true;
  }

  /** One step of the schedule does the oldest delivery, whichever it was made for. */
  #deliver(step: (other: MemoryStream) => void): void {
    const other = this.#other;
    if (other === null) throw new Error("a memory stream has no other end");
    this.#inFlight.push(() => step(other));
    this.#schedule(() => this.#inFlight.shift()?.());
  }

  /** Tells the sender what was read. */
  #release(): void {
    const read = this.#held - this.#received.bytes;
    if (read <= 0) return;
    this.#held -= read;
    const other = this.#other;
    if (other !== null) other.#sending.taken(read);
  }
}
export type { MemoryStream };
