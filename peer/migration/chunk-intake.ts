/**
 * The receiving side of one channel: takes chunks off its streams, keeps the window open, asks for what somebody
 * waits for.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import type { Channel } from "./channel.ts";
import { ChunkParts } from "./chunk-parts.ts";
import type { ChunkReceiver } from "./chunk-receiver.ts";
import { DelayWindow } from "./delay-window.ts";
import { sleep } from "../sleep.ts";
import { Latch } from "./latch.ts";
import {
  BATCH_BYTES,
  LAST_WORD_MS,
  FAULTS_PER_MESSAGE_MAX,
  WINDOW_BYTES_MAX,
  WINDOW_BYTES_MIN,
  WINDOW_BYTES_START,
} from "./limits.ts";
import { decodeMessage, encodeMessage, type ChunksMessage, type PartMessage } from "./messages.ts";
import type { SealedStream } from "./sealed-stream.ts";

/** Stores under way per data stream: one is verified and written while the next is received. */
const STORES_PER_STREAM = 2;
/** Until then the path is hardly known. */
const START_MS = 3_000;
const PING_INTERVAL_MS = 1_000;
/** While a network is left: nothing for so long means that nothing is under way. */
const DRAIN_IDLE_MS = 400;
/** While somebody may wait: the queue on the path fills within a few round trips. */
const PING_INTERVAL_WAITING_MS = 50;

export interface ChunkIntakeOptions {
  readonly receiver: ChunkReceiver;
  /** Smoothed round trip to the source. */
  readonly rttMs: () => number;
  /** Resolves when chunks may be taken: they may overtake the word on since when writes are told. */
  readonly ready: (signal: AbortSignal) => Promise<void>;
  /** Whether somebody here waits for chunks, or soon may: then what is under way must not stand in queues. */
  readonly mayFault: () => boolean;
  /** Whether a network that is to be left can be: the next one carries a channel. */
  readonly mayLeave: () => boolean;
  /** Chunks were stored; `again` are those to be asked for once more, for their bytes were not what was promised. */
  readonly onStored: (again: readonly number[]) => void;
  /** A chunk could not be stored. */
  readonly onStoreError: (error: unknown) => void;
}

export class ChunkIntake {
  readonly #channel: Channel;
  readonly #options: ChunkIntakeOptions;
  readonly #stored = new Latch();
  readonly #parts: ChunkParts;
  readonly #delayWindow = new DelayWindow();
  readonly #startedAtMs = performance.now();
  #delayed = false;

  constructor(channel: Channel, options: ChunkIntakeOptions) {
    this.#channel = channel;
    this.#options = options;
    this.#parts = new ChunkParts({
      chunkLength: (index) => options.receiver.chunkLength(index),
      onDropped: (index) => {
        if (!options.receiver.isReady(index)) this.fault(Uint32Array.of(index));
      },
    });
  }

  get pingIntervalMs(): number {
    return this.#options.mayFault() ? PING_INTERVAL_WAITING_MS : PING_INTERVAL_MS;
  }

  /** A round trip was measured. */
  roundTrip(ms: number | undefined): void {
    if (ms !== undefined) this.#delayWindow.sample(ms, this.#options.receiver.payloadBytes);
    this.#stored.notify();
  }

  /** Receives until the signal aborts or a stream fails. Never resolves otherwise. */
  async run(signal: AbortSignal): Promise<never> {
    const { urgent, data } = this.#channel;
    return await Promise.race([
      ...[urgent, ...data].map((stream) => this.#receive(stream, signal)),
      this.#keepCredit(signal),
    ]);
  }

  /** Asks for chunks ahead of all others. Best effort: who still waits is reported again on the next channel. */
  fault(indexes: Uint32Array): void {
    for (let start = 0; start < indexes.length; start += FAULTS_PER_MESSAGE_MAX) {
      const part = indexes.subarray(start, start + FAULTS_PER_MESSAGE_MAX);
      this.#channel.urgent.send(encodeMessage({ kind: "fault", indexes: part })).catch(() => {
        // The stream's reader sees the loss.
      });
    }
  }

  async #receive(stream: SealedStream, signal: AbortSignal): Promise<never> {
    const { receiver, ready, onStored, onStoreError } = this.#options;
    const underWay = new Set<Promise<void>>();
    await ready(signal);
    for (;;) {
      const bytes = await stream.receive();
      signal.throwIfAborted();
      // The end of a data stream says nothing: the control stream has the last word.
      if (bytes === null) break;
      const message = decodeMessage(bytes);
      if (message === undefined) continue;
      const whole = message.kind === "part" ? this.#takePart(message) : message;
      if (whole === undefined) continue;
      if (whole.kind !== "chunks") {
        throw new MigrationError("MESSAGE_UNEXPECTED", `${whole.kind} on a data stream`);
      }
      const stored = receiver.receive(whole, { counted: message.kind === "part" }).then(
        (again) => {
          this.#stored.notify();
          onStored(again);
        },
        (error: unknown) => {
          onStoreError(error);
          // Wakes the receive above.
          stream.abort("LINK_CLOSED", "a chunk could not be stored");
        },
      );
      underWay.add(stored);
      void stored.then(() => underWay.delete(stored));
      if (underWay.size >= STORES_PER_STREAM) await Promise.race(underWay);
    }
    await sleep(LAST_WORD_MS, signal);
    throw new MigrationError("PEER_LOST", "the other peer ended a stream and says no more");
  }

  /**
   * Counted when it comes, not when its chunk is whole: one whose other parts were dropped never becomes that, and would
   * take credit for ever. What is held for parts has a bound of its own.
   */
  #takePart(message: PartMessage): ChunksMessage | undefined {
    const whole = this.#parts.add(message);
    this.#options.receiver.passOver(message.payload.length);
    this.#stored.notify();
    return whole;
  }

  /** What is stored may be sent anew: the window moves on, sized by what the path holds. */
  async #keepCredit(signal: AbortSignal): Promise<never> {
    const { receiver } = this.#options;
    const base = receiver.payloadBytes;
    let granted = 0;
    const { retire } = this.#channel;
    const retired = retire === undefined ? signal : AbortSignal.any([signal, retire.signal]);
    for (;;) {
      await this.#drain(base + granted, signal);
      const windowBytes = this.#windowBytes();
      const wanted = receiver.payloadBytes - base + windowBytes;
      if (wanted - granted >= windowBytes / 8) {
        granted = wanted;
        await this.#channel.control.send({ kind: "credit", bytes: granted });
      }
      // Word that the network is to be left comes once.
      await this.#stored.wait(retired.aborted ? signal : retired);
      signal.throwIfAborted();
    }
  }

  /**
   * While there is a better network: takes what was asked for and asks for no more, until the channel ends because this
   * one is left. Returns if the better one is gone before that.
   */
  async #drain(untilBytes: number, signal: AbortSignal): Promise<void> {
    const { receiver, mayLeave } = this.#options;
    const { retire } = this.#channel;
    let bytes = receiver.payloadBytes;
    let cameAtMs = performance.now();
    while (retire?.signal.aborted === true && retire.next() !== undefined) {
      // The source may have had less to send than it was allowed to.
      const idle = performance.now() - cameAtMs > DRAIN_IDLE_MS;
      // Not ahead of the next channel: until it answers, the source may not have heard of the network, and would take
      // this for a loss.
      if ((bytes >= untilBytes || idle) && mayLeave()) retire.done();
      signal.throwIfAborted();
      await Promise.race([this.#stored.wait(signal), sleep(DRAIN_IDLE_MS, signal)]);
      signal.throwIfAborted();
      if (receiver.payloadBytes === bytes) continue;
      bytes = receiver.payloadBytes;
      cameAtMs = performance.now();
    }
  }

  #windowBytes(): number {
    if (this.#options.mayFault()) {
      if (!this.#delayed) this.#delayWindow.begin(this.#options.receiver.bytesPerS);
      this.#delayed = true;
      return this.#delayWindow.bytes;
    }
    const isKnown = performance.now() - this.#startedAtMs > START_MS;
    const least = isKnown ? WINDOW_BYTES_MIN : WINDOW_BYTES_START;
    const bandwidthDelay = this.#options.receiver.peakBytesPerS * (this.#options.rttMs() / 1000);
    // As much again as is on the way stands in buffers. And of each stream a batch leaves, one is not whole yet, and
    // others are being stored.
    const batches = this.#channel.data.length * (2 + STORES_PER_STREAM) * BATCH_BYTES;
    return Math.min(WINDOW_BYTES_MAX, Math.max(least, Math.ceil(2 * bandwidthDelay + batches)));
  }
}
