/**
 * The sealed streams between the two peers: one for control, one for what is urgent, and some for data.
 *
 * A channel lives as long as its pairing. When it is lost, the migration waits for the next one and goes on
 * from what each side knows; nothing in a channel is state of the migration.
 *
 * @module
 */
import { MessageReader } from "../../relay/protocol/message-stream.ts";
import type { LinkKind } from "../../relay/protocol/stream.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import { gaveUp, MigrationError, publicReason } from "../errors.ts";
import { PendingStream } from "../net/pending-stream.ts";
import type { RttMeter } from "../net/rtt-meter.ts";
import { sleep } from "../sleep.ts";

import {
  hpkeHandshake,
  type ChannelKeys,
  type Handshake,
  type HandshakeContext,
} from "./handshake.ts";
import {
  CONTROL_MESSAGE_BYTES_MAX,
  DATA_MESSAGE_BYTES_MAX,
  DATA_STREAMS_DEFAULT,
  HANDSHAKE_DEADLINE_MS,
} from "./limits.ts";
import type { MigrationOutcome, OnMigrationEvent } from "./events.ts";
import { aborted } from "./latch.ts";
import { decodeMessage, encodeMessage, type Message, type OfferMessage } from "./messages.ts";
import { SealedStream } from "./sealed-stream.ts";

/** A better network is ready. What is under way on this one is to arrive, and nothing more to be asked for. */
export interface Retirement {
  readonly signal: AbortSignal;
  /** The better network, while it is there. */
  next(): ChannelNetwork | undefined;
  /** It has arrived, or nothing came for a while. */
  done(): void;
}

/** What a channel needs of the network: both peers are there, and streams of one index are joined. */
export interface ChannelNetwork {
  readonly linkKind: LinkKind;
  readonly lost: AbortSignal;
  /** Whether a better network has taken its place. */
  readonly superseded?: () => boolean;
  readonly retire?: Retirement;
  openStream(streamIndex: number): Promise<ByteStream>;
  /** So many streams will be opened soon. */
  warm?(streams: number): void;
}

/** How long what was said by `abort` may take to leave. */
const ABORT_MS = 200;
/** How long the other side has to read the last word. */
const FAREWELL_MS = 2_000;
/** A question that waits for so long may have been lost. */
const UNANSWERED_MS = 3_000;
/** When a channel on which nothing is answered is given up. Far more than the longest queue of a path that can be used. */
const ANSWER_MAX_MS = 20_000;
/** Of a question whose answer measures nothing. */
export const NOT_MEASURED = 1;
const CONTROL_STREAM = 0;
const URGENT_STREAM = 1;
const FIRST_DATA_STREAM = 2;

/** What carries messages. A seeder may use it before the leecher has proved that it can read them. */
export interface ChannelStreams {
  readonly control: MessageChannel;
  readonly urgent: SealedStream;
  readonly data: readonly SealedStream[];
  /** `FEATURES` that both sides have. */
  readonly features: number;
}

export interface Channel extends ChannelStreams {
  readonly linkKind: LinkKind;
  readonly retire: Retirement | undefined;
  /** The same on both sides. */
  readonly fingerprint: string;
  /** Aborted when any of the streams, or what carries them, is gone. */
  readonly lost: AbortSignal;
  /** Bytes on the wire in both directions so far. */
  wireBytes(): number;
  /**
   * Says that nothing more comes on the control stream. The others stay: the end of one of them could overtake
   * the last word on this one.
   */
  endControl(): Promise<void>;
  /** Drops the streams. */
  abort(reason: string): void;
}

/** Small messages on a sealed stream. */
export class MessageChannel {
  readonly #stream: SealedStream;

  constructor(stream: SealedStream) {
    this.#stream = stream;
  }

  send(message: Message): Promise<void> {
    return this.#stream.send(encodeMessage(message));
  }

  /** The next message that this version knows, or `null` at the end. */
  async receive(): Promise<Message | null> {
    for (;;) {
      const bytes = await this.#stream.receive();
      if (bytes === null) return null;
      const message = decodeMessage(bytes);
      if (message !== undefined) return message;
    }
  }
}

/**
 * @param onStreams Called when the handshake is answered and what is sent is for the leecher alone: whatever is sent in
 *   it, and later, is on its way before the leecher's proof has come.
 * @throws MigrationError, or what the network throws when it is lost.
 */
export function openSeederChannel(
  network: ChannelNetwork,
  context: HandshakeContext,
  handshake: Handshake = hpkeHandshake,
  onStreams?: (streams: ChannelStreams) => void,
): Promise<Channel> {
  // How many the leecher wants is not known yet, but most want this many.
  network.warm?.(FIRST_DATA_STREAM + DATA_STREAMS_DEFAULT);
  return openChannel(network, "seeder", async (opening) => {
    const stream = await opening.control();
    let isTold = false;
    const begin = (keys: ChannelKeys): void => {
      if (isTold) return;
      isTold = true;
      opening.streams(keys.dataStreams);
      onStreams?.(opening.finish(keys));
    };
    const keys = await handshake.seeder(stream, opening.reader(stream), context, begin);
    begin(keys);
    return keys;
  });
}

/** @param context `dataStreams` is how many the leecher wants. */
export function openLeecherChannel(
  network: ChannelNetwork,
  context: HandshakeContext & { readonly dataStreams: number },
  handshake: Handshake = hpkeHandshake,
): Promise<Channel> {
  return openChannel(network, "leecher", async (opening) => {
    const stream = await opening.control();
    const others = (): void => opening.streams(context.dataStreams);
    // Not before: it is work, and the other side waits for the offer.
    const keys = await handshake.leecher(stream, opening.reader(stream), context, others);
    others();
    return keys;
  });
}

/** What is open of a channel while its keys are agreed on. */
class Opening {
  readonly #network: ChannelNetwork;
  readonly #role: Role;
  readonly #onStream: (stream: ByteStream) => void;
  #control: ByteStream | undefined;
  #reader: MessageReader | undefined;
  /** One for each stream: its numbers of records go on. */
  readonly #sealed = new Map<number, SealedStream>();
  /** Urgent, then data. They open while the handshake is under way. */
  #others: PendingStream[] = [];

  constructor(network: ChannelNetwork, role: Role, onStream: (stream: ByteStream) => void) {
    this.#network = network;
    this.#role = role;
    this.#onStream = onStream;
  }

  async control(): Promise<ByteStream> {
    const stream = await this.#network.openStream(CONTROL_STREAM);
    this.#control = stream;
    this.#onStream(stream);
    return stream;
  }

  reader(control: ByteStream): MessageReader {
    this.#reader ??= new MessageReader(control);
    return this.#reader;
  }

  /** Opens the urgent stream and those for data. */
  streams(dataStreams: number): void {
    for (let i = this.#others.length; i < 1 + dataStreams; i++) {
      const stream = new PendingStream(this.#network.openStream(URGENT_STREAM + i));
      this.#others.push(stream);
      this.#onStream(stream);
    }
  }

  #seal(stream: ByteStream, streamIndex: number, keys: ChannelKeys): SealedStream {
    const known = this.#sealed.get(streamIndex);
    if (known !== undefined) return known;
    const isControl = streamIndex === CONTROL_STREAM;
    const sealed = new SealedStream(
      stream,
      {
        streamIndex,
        sendSecret: this.#role === "seeder" ? keys.seederToLeecher : keys.leecherToSeeder,
        receiveSecret: this.#role === "seeder" ? keys.leecherToSeeder : keys.seederToLeecher,
        messageBytesMax: isControl ? CONTROL_MESSAGE_BYTES_MAX : DATA_MESSAGE_BYTES_MAX,
      },
      isControl ? this.#reader : undefined,
    );
    this.#sealed.set(streamIndex, sealed);
    return sealed;
  }

  /** All of them, sealed. */
  finish(keys: ChannelKeys): ChannelStreams & {
    readonly controlStream: ByteStream;
    readonly sealed: readonly SealedStream[];
  } {
    const controlStream = this.#control;
    const [urgent, ...data] = this.#others;
    if (controlStream === undefined || urgent === undefined) {
      throw new MigrationError("CHANNEL_REFUSED", "the other peer asked for streams too late");
    }
    const control = this.#seal(controlStream, CONTROL_STREAM, keys);
    const sealedUrgent = this.#seal(urgent, URGENT_STREAM, keys);
    const sealedData = data.map((stream, i) => this.#seal(stream, FIRST_DATA_STREAM + i, keys));
    return {
      controlStream,
      control: new MessageChannel(control),
      urgent: sealedUrgent,
      data: sealedData,
      features: keys.features,
      sealed: [control, sealedUrgent, ...sealedData],
    };
  }
}

async function openChannel(
  network: ChannelNetwork,
  role: Role,
  agree: (opening: Opening) => Promise<ChannelKeys>,
): Promise<Channel> {
  network.lost.throwIfAborted();
  const streams: ByteStream[] = [];
  let dropped: string | undefined;
  const abort = (reason: string): void => {
    dropped ??= reason;
    for (const stream of streams) stream.abort("LINK_CLOSED", reason);
  };
  const onLost = (): void => abort("the path is lost");
  network.lost.addEventListener("abort", onLost, { once: true });
  const deadline = setTimeout(
    () => abort("the other peer did not answer in time"),
    HANDSHAKE_DEADLINE_MS,
  );
  const lost = new AbortController();
  const opening = new Opening(network, role, (stream) => {
    streams.push(stream);
    if (dropped !== undefined) stream.abort("LINK_CLOSED", dropped);
    void stream.closed.then((info) => {
      // An orderly end is not a loss: what came before it is still to be read.
      if (info.code === "OK") return;
      lost.abort(
        new MigrationError("PEER_LOST", `a stream to the other peer ended: ${info.reason}`),
      );
      abort(info.reason);
    });
  });
  try {
    const keys = await agree(opening);
    const { controlStream, sealed, ...carrying } = opening.finish(keys);
    return {
      ...carrying,
      linkKind: network.linkKind,
      retire: network.retire,
      fingerprint: keys.fingerprint,
      lost: lost.signal,
      wireBytes: () => sealed.reduce((sum, s) => sum + s.bytesSent + s.bytesReceived, 0),
      endControl: () => controlStream.end(),
      abort,
    };
  } catch (error) {
    abort("the channel could not be opened");
    throw error;
  } finally {
    clearTimeout(deadline);
  }
}

/** The first message of a seeder. @throws MigrationError if it is another, or none; ProtocolError if it is late */
export async function receiveOffer(channel: Channel): Promise<OfferMessage> {
  const deadline = setTimeout(
    () => channel.abort("the source did not say in time what it offers"),
    HANDSHAKE_DEADLINE_MS,
  );
  const offer = await channel.control.receive().finally(() => clearTimeout(deadline));
  if (offer === null) throw new MigrationError("PEER_LOST", "the source left");
  if (offer.kind === "abort") throw gaveUp("source", offer.reason);
  if (offer.kind === "offer") return offer;
  throw new MigrationError("MESSAGE_UNEXPECTED", `${offer.kind} where an offer was due`);
}

/** Tells the program what is connected. */
export function tellChannel(
  channel: Channel,
  { regions, chunkBytes }: Pick<OfferMessage, "regions" | "chunkBytes">,
  onEvent: OnMigrationEvent | undefined,
): void {
  const bytes = regions.reduce((sum, region) => sum + region.bytes, 0);
  const { linkKind: path, fingerprint } = channel;
  onEvent?.({ event: "channel", path, fingerprint, regions, bytes, chunkBytes });
}

/** Says that the migration is over before its commit, if an error ended it. */
export async function sayAbort(
  channel: Channel,
  outcome: MigrationOutcome | undefined,
): Promise<void> {
  if (outcome === undefined || "totals" in outcome) return;
  try {
    await channel.control.send({ kind: "abort", reason: publicReason(outcome.error) });
    await channel.endControl();
    await sleep(ABORT_MS, channel.lost);
  } catch {
    // Lost meanwhile: the relay tells the other side.
  }
}

/** Says the last word about the migration and waits until the other side has had time to read it. */
export async function sayFarewell(
  channel: Channel,
  outcome: MigrationOutcome | undefined,
): Promise<void> {
  try {
    if (outcome !== undefined && "error" in outcome) {
      await channel.control.send({ kind: "abort", reason: publicReason(outcome.error) });
    }
    await channel.endControl();
    // The other side closes when it has read it.
    await Promise.race([aborted(channel.lost), sleep(FAREWELL_MS, channel.lost)]);
  } catch {
    // The channel is lost: the other side learns the outcome from the relay.
  }
}

/**
 * Measures the round trip between the peers until the signal aborts: one question at a time. One that is not answered
 * is followed by others, since a record that was left out is seen by the one after it; when none is answered, somebody in
 * between keeps the channel and holds back what is on it.
 *
 * @throws MigrationError `PEER_LOST`, or the signal's reason
 * @param intervalMs Between two questions; asked before each.
 */
export async function keepPinging(
  channel: Channel,
  rtt: RttMeter,
  intervalMs: () => number,
  signal: AbortSignal,
): Promise<never> {
  rtt.reset();
  let askedAtMs = performance.now();
  let answeredAtMs = askedAtMs;
  for (;;) {
    if (!rtt.isWaiting) answeredAtMs = performance.now();
    if (performance.now() - answeredAtMs > ANSWER_MAX_MS) {
      throw new MigrationError(
        "PEER_LOST",
        `nothing of the other peer has come for ${ANSWER_MAX_MS / 1_000} s, though the path is open`,
      );
    }
    const isUnanswered = performance.now() - askedAtMs > UNANSWERED_MS;
    if (!rtt.isWaiting || isUnanswered) {
      askedAtMs = performance.now();
      const nonce = rtt.isWaiting ? NOT_MEASURED : 0;
      if (nonce === 0) rtt.sent();
      await channel.control.send({ kind: "ping", nonce });
    }
    await sleep(intervalMs(), signal);
  }
}
