/**
 * A relay that does what it likes with what passes through it: stands between a peer's link and the real relay, sees
 * each message of each stream both ways, and may change, drop, repeat, hold or invent some.
 *
 * @module
 */
import type { Link } from "../../peer/net/link.ts";
import { decodeFrame, encodeFrame, FRAME_HEADER_BYTES } from "../../relay/protocol/frame.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import type { ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import { SeededRandom } from "./seeded-random.ts";

/** Of the stream on which a peer talks with the relay itself. */
export const RELAY_CONTROL = -1;

/** Where a message is. */
export interface Place {
  /** Whose end of the stream it is. */
  readonly role: Role;
  /** 0 for the relay's own stream. */
  readonly pairing: number;
  /** 0 control, 1 urgent, then data; `RELAY_CONTROL`. */
  readonly streamIndex: number;
  /** How often this stream was opened before: a channel that is lost is followed by another. */
  readonly channel: number;
  /** Messages before it on this end and this way; a stream's opening frame does not count. */
  readonly count: number;
}

/** @returns What is passed on in its place. */
export type Change = (
  message: Uint8Array,
  place: Place,
  relay: HostileRelay,
) => readonly Uint8Array[] | Promise<readonly Uint8Array[]>;

export interface Attack {
  /** Of what a peer sends. */
  readonly fromPeer?: Change;
  /** Of what a peer is to get. */
  readonly toPeer?: Change;
  /** The index as which a stream of a peer is joined. */
  readonly joinAs?: (place: Place, relay: HostileRelay) => number;
}

export class HostileRelay {
  readonly attack: Attack;
  readonly random: SeededRandom;
  readonly #ends = new Map<string, HostileStream>();
  readonly #opened = new Map<string, number>();
  #strikesLeft: number;
  strikes = 0;

  /** @param strikes After so many it behaves. */
  constructor(attack: Attack, seed: number, strikes: number) {
    this.attack = attack;
    this.random = new SeededRandom(seed);
    this.#strikesLeft = strikes;
  }

  get behaves(): boolean {
    return this.#strikesLeft <= 0;
  }

  /** Whether it may do something bad now. */
  strike(): boolean {
    if (this.behaves) return false;
    this.#strikesLeft--;
    this.strikes++;
    return true;
  }

  behave(): void {
    this.#strikesLeft = 0;
  }

  /** Delivers bytes to a peer that nobody sent. */
  inject(place: Pick<Place, "role" | "pairing" | "streamIndex">, bytes: Uint8Array): void {
    this.#ends.get(keyOf(place))?.inject(bytes);
  }

  /** What the peer gets on this stream ends here, in order. */
  endEarly(place: Place): void {
    this.#ends.get(keyOf(place))?.endEarly();
  }

  link(role: Role, inner: Link): Link {
    return {
      kind: inner.kind,
      closed: inner.closed,
      close: (code, reason) => inner.close(code, reason),
      openStream: async () =>
        new HostileStream(await inner.openStream(), role, this, (end) => this.#onOpen(end)),
    };
  }

  /** @returns How often it was opened before. */
  #onOpen(end: HostileStream): number {
    this.#ends.set(keyOf(end), end);
    const stream = `${end.role} ${end.streamIndex}`;
    const before = this.#opened.get(stream) ?? 0;
    this.#opened.set(stream, before + 1);
    return before;
  }
}

function keyOf({
  role,
  pairing,
  streamIndex,
}: Pick<Place, "role" | "pairing" | "streamIndex">): string {
  return `${role} ${pairing} ${streamIndex}`;
}

class HostileStream implements ByteStream {
  readonly role: Role;
  pairing = 0;
  streamIndex = RELAY_CONTROL;
  #channel = 0;
  readonly closed: Promise<CloseInfo>;
  readonly #inner: ByteStream;
  readonly #relay: HostileRelay;
  readonly #onOpen: (end: HostileStream) => number;
  readonly #sent = new Splitter();
  readonly #received = new Splitter();
  readonly #count = { sent: 0, received: 0 };
  #isOpen = false;
  #writing: Promise<unknown> = Promise.resolve();
  readonly #queue: Uint8Array[] = [];
  #ended = false;
  #reading: Promise<void> | undefined;
  #woken = Promise.withResolvers<void>();

  constructor(
    inner: ByteStream,
    role: Role,
    relay: HostileRelay,
    onOpen: (end: HostileStream) => number,
  ) {
    this.#inner = inner;
    this.role = role;
    this.#relay = relay;
    this.#onOpen = onOpen;
    this.closed = inner.closed;
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      const piece = this.#queue.shift();
      if (piece !== undefined) return piece;
      if (this.#ended) return null;
      this.#reading ??= this.#pull();
      await Promise.race([this.#reading, this.#woken.promise]);
    }
  }

  write(bytes: Uint8Array): Promise<void> {
    const written = this.#writing.then(async () => {
      for (const message of this.#sent.take(bytes)) {
        for (const out of await this.#outgoing(message)) await this.#inner.write(out);
      }
    });
    this.#writing = written.catch(() => undefined);
    return written;
  }

  async end(): Promise<void> {
    await this.#writing;
    await this.#inner.end();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    this.#inner.abort(code, reason);
  }

  inject(bytes: Uint8Array): void {
    if (this.#ended) return;
    this.#queue.push(bytes);
    this.#wake();
  }

  endEarly(): void {
    this.#ended = true;
    this.#wake();
  }

  #wake(): void {
    this.#woken.resolve();
    this.#woken = Promise.withResolvers();
  }

  async #pull(): Promise<void> {
    try {
      const piece = await this.#inner.read();
      if (piece === null) {
        this.#queue.push(...this.#received.rest());
        this.#ended = true;
        return;
      }
      for (const message of this.#received.take(piece)) {
        const place = this.#place(this.#count.received++);
        const { toPeer } = this.#relay.attack;
        const out = toPeer === undefined ? [message] : await toPeer(message, place, this.#relay);
        this.#queue.push(...out);
      }
    } finally {
      this.#reading = undefined;
    }
  }

  async #outgoing(message: Uint8Array): Promise<readonly Uint8Array[]> {
    if (!this.#isOpen) return [this.#opening(message)];
    const place = this.#place(this.#count.sent++);
    const { fromPeer } = this.#relay.attack;
    return fromPeer === undefined ? [message] : await fromPeer(message, place, this.#relay);
  }

  /** The first frame says what the stream is. */
  #opening(message: Uint8Array): Uint8Array {
    this.#isOpen = true;
    const frame = decodeFrame(message[4] ?? 0, message.subarray(FRAME_HEADER_BYTES));
    if (frame?.kind !== "stream") {
      this.#channel = this.#onOpen(this);
      return message;
    }
    this.pairing = frame.pairing;
    this.streamIndex = frame.streamIndex;
    this.#channel = this.#onOpen(this);
    const { joinAs } = this.#relay.attack;
    if (joinAs === undefined) return message;
    return encodeFrame({ ...frame, streamIndex: joinAs(this.#place(0), this.#relay) });
  }

  #place(count: number): Place {
    const { role, pairing, streamIndex } = this;
    return { role, pairing, streamIndex, channel: this.#channel, count };
  }
}

/** Frames, the handshake's messages and records alike: `u32 length`, `u8 kind`, payload. */
class Splitter {
  #bytes = new Uint8Array();

  *take(piece: Uint8Array): Iterable<Uint8Array> {
    this.#bytes = joined(this.#bytes, piece);
    for (;;) {
      if (this.#bytes.length < FRAME_HEADER_BYTES) return;
      const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset);
      const end = FRAME_HEADER_BYTES + view.getUint32(0, true);
      if (this.#bytes.length < end) return;
      const message = this.#bytes.slice(0, end);
      this.#bytes = this.#bytes.subarray(end);
      yield message;
    }
  }

  rest(): Uint8Array[] {
    return this.#bytes.length === 0 ? [] : [this.#bytes];
  }
}

function joined(one: Uint8Array, two: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(one.length + two.length);
  both.set(one);
  both.set(two, one.length);
  return both;
}
