/**
 * Reads chunks at the source and sends them: many at once on the data streams as far as credit goes, and
 * faults one by one on the urgent stream. What comes next is the schedule's to say.
 *
 * @module
 */
import type { ChunkStore } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";
import type { ChannelStreams } from "./channel.ts";
import { FEATURES } from "./handshake.ts";
import { sleep } from "../sleep.ts";
import { Latch } from "./latch.ts";
import { LAST_WORD_MS, PART_BYTES, PARTED_CHUNK_BYTES_MAX } from "./limits.ts";
import type { Manifest } from "./manifest.ts";
import {
  decodeMessage,
  encodeChunksHeader,
  encodePartHeader,
  partStart,
  SAME_OFFSET,
  ZERO_OFFSET,
} from "./messages.ts";
import type { Schedule } from "./schedule.ts";
import type { SealedStream } from "./sealed-stream.ts";
import { HASH_BYTES } from "../../relay/protocol/frame.ts";
import { MigrationError } from "../errors.ts";

/** Faults that are read and sent at the same time: as many as fit, within bounds. */
const FAULT_BYTES_MAX = 8 * 1024 * 1024;
const FAULTS_IN_FLIGHT_MIN = 8;
const FAULTS_IN_FLIGHT_MAX = 128;

type Streams = Pick<ChannelStreams, "urgent" | "data" | "features">;

export interface ChunkSenderOptions {
  readonly region: ChunkStore;
  readonly manifest: Manifest;
  readonly schedule: Schedule;
  /** Holds the chunks whose bytes are being read, while they are. */
  readonly reading: ChunkSet;
  /** The epoch of dirty tracking now: the tag of what is read from now on. */
  readonly epoch: () => number;
  /** Whether the leecher said that it has a chunk with this hash; asked once per chunk that is sent. */
  readonly takeKnown: (index: number, hash: Uint8Array) => boolean;
  readonly onSent: (chunkBytes: number) => void;
  /** Whether only faults are served for now; `wake` when that is over. */
  readonly held?: () => boolean;
}

/** How long a stream is idle before something is sent on it. */
const FOLLOW_UP_MS = 3_000;
/** A chunk as it was before the first epoch, which is older than what any leecher has or wants. */
const NOTHING = encodeChunksHeader({
  epoch: 0,
  indexes: Uint32Array.of(0),
  offsets: Uint32Array.of(ZERO_OFFSET),
  hashes: new Uint8Array(HASH_BYTES),
});

/** A data stream on which no batch left for so long has nothing standing before what comes next. */
const IDLE_MS = 500;

/** The sending side of one channel. */
export class ChunkSender {
  readonly #options: ChunkSenderOptions;
  readonly #channel: Streams;
  /** When the last batch of each data stream was handed over; `Infinity`: one is being handed over. */
  readonly #batchAtMs: number[];
  #ahead: number | undefined;
  /** What went in parts on this channel. Asked for again, it goes whole: the leecher may have had no room for parts. */
  readonly #parted: ChunkSet;
  #sendingAhead: Promise<void> | undefined;
  #partsSerial = 0;
  readonly #credit = new Latch();
  readonly #work = new Latch();
  readonly #idle = new Latch();
  #creditBytes = 0;
  #usedBytes = 0;
  #busyPumps = 0;
  #started = false;

  constructor(channel: Streams, options: ChunkSenderOptions) {
    this.#channel = channel;
    this.#batchAtMs = channel.data.map(() => -Infinity);
    this.#options = options;
    this.#parted = new ChunkSet(options.region.chunkCount);
  }

  /** Sends until the signal aborts or a stream fails. Never resolves otherwise. */
  async run(signal: AbortSignal): Promise<never> {
    // Who waits says so anew on each channel; and until now another one was served.
    this.#options.schedule.clearFaults();
    const pumps = this.#channel.data.map((stream, i) => this.#pump(stream, i, signal));
    const ahead = this.#sendingAhead?.then(() => new Promise<never>(() => {}));
    return await Promise.race([
      ...pumps,
      ...(ahead === undefined ? [] : [ahead]),
      this.#serveFaults(signal),
      this.#followUp(signal),
    ]);
  }

  /** Sends one chunk although nobody has asked for any. What goes wrong is said by `run`. */
  sendAhead(index: number): void {
    if (this.#started || this.#sendingAhead !== undefined) return;
    this.#ahead = index;
    const buffer = new Uint8Array(this.#options.region.chunkBytes);
    this.#sendingAhead = this.#send(this.#channel.urgent, Uint32Array.of(index), buffer, {
      spread: this.#streamsFor(index),
    }).then((sent) => {
      this.#usedBytes += sent;
    });
    // The channel may end before `run`.
    this.#sendingAhead.catch(() => {});
  }

  /** Whether the chunk was sent ahead on this channel. */
  isAhead(index: number): boolean {
    return this.#ahead === index;
  }

  /**
   * A record that was left out is seen by the one after it: so there always comes another, which says nothing.
   * Without it nobody would miss the last chunks of a stream.
   */
  async #followUp(signal: AbortSignal): Promise<never> {
    const streams = [this.#channel.urgent, ...this.#channel.data];
    const bytesSeen = streams.map((stream) => stream.bytesSent);
    const waiting = new Set<number>();
    for (;;) {
      await sleep(FOLLOW_UP_MS, signal);
      for (const [i, stream] of streams.entries()) {
        const isIdle = stream.bytesSent === bytesSeen[i] && stream.bytesSent > 0;
        if (isIdle && !waiting.has(i)) {
          waiting.add(i);
          void stream
            .send(NOTHING)
            .catch(() => {
              // The stream's reader sees the loss.
            })
            .finally(() => waiting.delete(i));
        }
        bytesSeen[i] = stream.bytesSent;
      }
    }
  }

  /** From now on what is in the schedule is sent. */
  start(): void {
    this.#started = true;
    this.#work.notify();
  }

  grant(bytes: number): void {
    this.#creditBytes = Math.max(this.#creditBytes, bytes);
    this.#credit.notify();
  }

  /** The schedule has more. */
  wake(): void {
    this.#work.notify();
  }

  /** Resolves when the schedule is empty and everything taken from it is handed to the transport. */
  drained(scheduleIsEmpty: () => boolean, signal: AbortSignal): Promise<void> {
    return this.#idle.until(
      () => this.#started && this.#busyPumps === 0 && scheduleIsEmpty(),
      signal,
    );
  }

  async #pump(stream: SealedStream, streamAt: number, signal: AbortSignal): Promise<never> {
    const { region, schedule } = this.#options;
    const buffer = new Uint8Array(schedule.batchChunks * region.chunkBytes);
    // A new connection carries little at first: what is small is there sooner.
    let batchBytes = region.chunkBytes;
    for (;;) {
      await this.#credit.until(() => this.#usedBytes < this.#creditBytes, signal);
      signal.throwIfAborted();
      const room = this.#creditBytes - this.#usedBytes;
      const indexes =
        this.#started && this.#options.held?.() !== true
          ? schedule.take(Math.min(room, batchBytes))
          : new Uint32Array(0);
      if (indexes.length === 0) {
        this.#idle.notify();
        await this.#work.wait(signal);
        signal.throwIfAborted();
        continue;
      }
      batchBytes = Math.min(2 * batchBytes, buffer.length);
      this.#busyPumps++;
      // At most so much, as long as nobody knows better: the other pumps must not take the same room.
      const reserved = indexes.length * region.chunkBytes;
      this.#usedBytes += reserved;
      try {
        this.#batchAtMs[streamAt] = Infinity;
        const sent = await this.#send(stream, indexes, buffer);
        this.#batchAtMs[streamAt] = performance.now();
        this.#usedBytes += sent - reserved;
      } finally {
        this.#busyPumps--;
      }
      this.#credit.notify();
    }
  }

  /** The urgent stream, and those for data that have nothing to send: together they carry more at once. */
  #streamsFor(index: number): SealedStream[] {
    const { urgent, data, features } = this.#channel;
    if ((features & FEATURES.parts) === 0 || !this.#parted.add(index)) return [urgent];
    const idleSinceMs = performance.now() - IDLE_MS;
    return [urgent, ...data.filter((_, i) => (this.#batchAtMs[i] ?? 0) < idleSinceMs)];
  }

  /**
   * @param spread Streams over which a single chunk goes in parts, if that is worth it.
   * @returns Payload bytes that left.
   */
  async #send(
    stream: SealedStream,
    indexes: Uint32Array,
    buffer: Uint8Array,
    { spread = [] }: { readonly spread?: readonly SealedStream[] } = {},
  ): Promise<number> {
    const { region, manifest, reading, epoch, takeKnown, onSent } = this.#options;
    // Before the read: a write during it belongs to this epoch, and its chunk comes again.
    const tag = epoch();
    for (const index of indexes) reading.add(index);
    const { hashes, zero } = await region.read(indexes, buffer);
    const offsets = new Uint32Array(indexes.length);
    const parts: Uint8Array[] = [];
    let payloadBytes = 0;
    let chunkBytesSum = 0;
    let runStart = -1;
    for (let i = 0; i < indexes.length; i++) {
      const index = indexes[i] ?? 0;
      const length = region.chunkLength(index);
      const hash = hashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
      chunkBytesSum += length;
      manifest.set(index, tag, hash);
      reading.delete(index);
      const slot = i * region.chunkBytes;
      const isZero = zero[i] === 1;
      if (isZero || takeKnown(index, hash)) {
        offsets[i] = isZero ? ZERO_OFFSET : SAME_OFFSET;
        if (runStart >= 0) parts.push(buffer.subarray(runStart, slot));
        runStart = -1;
        continue;
      }
      offsets[i] = payloadBytes;
      payloadBytes += length;
      if (runStart < 0) runStart = slot;
      // A region's short last chunk ends its run, for its slot is longer than it is.
      if (length < region.chunkBytes) {
        parts.push(buffer.subarray(runStart, slot + length));
        runStart = -1;
      }
    }
    if (runStart >= 0) parts.push(buffer.subarray(runStart, indexes.length * region.chunkBytes));
    onSent(chunkBytesSum);
    const partCount = Math.min(spread.length, Math.ceil(payloadBytes / PART_BYTES));
    if (partCount > 1 && indexes.length === 1 && payloadBytes <= PARTED_CHUNK_BYTES_MAX) {
      const chunk = { epoch: tag, index: indexes[0] ?? 0, hash: hashes.subarray(0, HASH_BYTES) };
      await this.#sendParts(spread.slice(0, partCount), chunk, buffer.subarray(0, payloadBytes));
    } else {
      await stream.send(encodeChunksHeader({ epoch: tag, indexes, offsets, hashes }), ...parts);
    }
    return payloadBytes;
  }

  async #sendParts(
    streams: readonly SealedStream[],
    chunk: { readonly epoch: number; readonly index: number; readonly hash: Uint8Array },
    bytes: Uint8Array,
  ): Promise<void> {
    const partCount = streams.length;
    const serial = this.#partsSerial++;
    const sending = streams.map((stream, part) => {
      const header = encodePartHeader({ ...chunk, serial, part, partCount });
      const start = partStart(part, partCount, bytes.length);
      return stream.send(
        header,
        bytes.subarray(start, partStart(part + 1, partCount, bytes.length)),
      );
    });
    await Promise.all(sending);
  }

  /** Answers faults as they come, several at a time, each chunk in a message of its own. */
  async #serveFaults(signal: AbortSignal): Promise<never> {
    const { region, schedule } = this.#options;
    const { urgent } = this.#channel;
    const buffers: Uint8Array[] = [];
    const inFlightMax = Math.min(
      FAULTS_IN_FLIGHT_MAX,
      Math.max(FAULTS_IN_FLIGHT_MIN, Math.floor(FAULT_BYTES_MAX / region.chunkBytes)),
    );
    let inFlight = 0;
    let failure: unknown;
    const serve = async (index: number): Promise<void> => {
      const buffer = buffers.pop() ?? new Uint8Array(region.chunkBytes);
      // Ahead of the credit: somebody waits. It is counted all the same, as the other side counts it.
      const sent = await this.#send(urgent, Uint32Array.of(index), buffer, {
        spread: this.#streamsFor(index),
      });
      this.#usedBytes += sent;
      buffers.push(buffer);
    };
    const next = (): void => {
      while (inFlight < inFlightMax && failure === undefined && !signal.aborted) {
        const index = schedule.takeFault();
        if (index === undefined) return;
        inFlight++;
        serve(index)
          .catch((error: unknown) => {
            failure ??= error;
            urgent.abort("LINK_CLOSED", "a fault could not be served");
          })
          .finally(() => {
            inFlight--;
            next();
          });
      }
    };
    for (;;) {
      const bytes = await urgent.receive();
      signal.throwIfAborted();
      if (failure !== undefined) throw failure;
      // The end of this stream says nothing: the control stream has the last word.
      if (bytes === null) break;
      const message = decodeMessage(bytes);
      if (message === undefined) continue;
      if (message.kind !== "fault") {
        throw new MigrationError("MESSAGE_UNEXPECTED", `${message.kind} on the urgent stream`);
      }
      for (const index of message.indexes) {
        if (index >= region.chunkCount) {
          throw new MigrationError("MESSAGE_MALFORMED", `chunk ${index} is past the region's end`);
        }
      }
      schedule.addFaults(message.indexes);
      next();
      // The last fault may have emptied the schedule, and that is a pump's to say.
      this.#work.notify();
    }
    await sleep(LAST_WORD_MS, signal);
    throw new MigrationError("PEER_LOST", "the other peer ended a stream and says no more");
  }
}
