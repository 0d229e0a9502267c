/**
 * The destination of a migration: it drives.
 *
 * ```
 * joined → precopy ⇄ (rounds) → finalizing → committed → postcopy → done
 *             │                     │
 *             └─────────────────────┴→ cancelled: the workload goes on at the source
 * ```
 *
 * Before the commit nothing here is used by anybody and any failure is the end of the attempt. From the commit
 * on the workload runs here, and a lost path only makes those wait who touch what is still missing.
 *
 * @module
 */
import type { LinkKind } from "../../relay/protocol/stream.ts";
import { toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { RttMeter } from "../net/rtt-meter.ts";
import { gaveUp, isTransient, MigrationError, publicReason } from "../errors.ts";
import {
  keepPinging,
  NOT_MEASURED,
  openLeecherChannel,
  receiveOffer,
  sayAbort,
  tellChannel,
  type Channel,
} from "./channel.ts";
import { ChunkIntake } from "./chunk-intake.ts";
import { ChunkReceiver } from "./chunk-receiver.ts";
import type { Destination } from "./destination.ts";
import { DowntimeMeter } from "./downtime-meter.ts";
import type { MigrationOutcome, MigrationProgress, MigrationTotals, Phase } from "./events.ts";
import { LeecherJournal } from "./leecher-journal.ts";
import { policyFor, type LeecherOptions } from "./leecher-options.ts";
import { OWN_FEATURES } from "./handshake.ts";
import { runHook } from "./hooks.ts";
import { progressOf, totalsOf, type LeecherNumbers } from "./leecher-numbers.ts";
import { LeecherReports } from "./leecher-reports.ts";
import { receiveEach, sayWhatIsHere } from "./leecher-talk.ts";
import { backOff, Latch } from "./latch.ts";
import {
  CHANNEL_FAILURES_MAX,
  CHECKPOINT_INTERVAL_MS,
  FAREWELL_PATIENCE_MS,
  FINALIZE_DEADLINE_MS,
  NO_ROOM_FAILURES,
  REPORT_INTERVAL_MS,
} from "./limits.ts";
import { MergedEpochs } from "./merged-epochs.ts";
import { NextChannel } from "./next-channel.ts";
import { Manifest, verifiedRoot, withRoots } from "./manifest.ts";
import type { FinalizedMessage, Message, Mode, OfferMessage, RoundMessage } from "./messages.ts";
import { isSameOffer } from "./messages.ts";
import { Rounds } from "./rounds.ts";
import { giveBack, hasMoved, type Ownership } from "./session-port.ts";
import { StoreWatch } from "./store-watch.ts";

export class Leecher {
  readonly #options: LeecherOptions;
  readonly #journal: LeecherJournal;
  readonly #watch: StoreWatch;
  readonly #over = new AbortController();
  readonly #rounds: Rounds;
  readonly #next = new NextChannel();
  readonly #rtt = new RttMeter();
  #phase: Phase = "joined";
  #offer: OfferMessage | undefined;
  #destination: Destination | undefined;
  #receiver: ChunkReceiver | undefined;
  #manifest: Manifest | undefined;
  #channel: Channel | undefined;
  /** The channel on which this side has said what it has and wants. */
  #caughtUp: Channel | undefined;
  #intake: ChunkIntake | undefined;
  #path: LinkKind = "memory";
  #wireBytes = 0;
  readonly #merged = new MergedEpochs();
  readonly #changed = new Latch();
  #finalizeAsked = false;
  #finalized: (FinalizedMessage & { readonly receivedAtMs: number }) | undefined;
  #taking: Promise<void> | undefined;
  #finishing: Promise<void> | undefined;
  #committed = false;
  #hookFailed = false;
  #downtime: DowntimeMeter | undefined;
  #startedAtMs = 0;
  /** Somebody asked for post-copy, whatever the mode. */
  #postcopyAsked = false;
  readonly #reports = new LeecherReports();
  #outcome: MigrationOutcome | undefined;

  constructor(options: LeecherOptions) {
    this.#options = options;
    this.#journal = new LeecherJournal(options.journal, options.onEvent);
    this.#watch = new StoreWatch(options.onEvent);
    this.#rounds = new Rounds({
      ...options,
      policy: () => policyFor(options),
      onEvent: options.onEvent,
    });
  }

  /** Whether the workload's place is here. */
  get committed(): boolean {
    return this.#committed;
  }

  /** Of the one that starts the workload. */
  get hookFailed(): boolean {
    return this.#hookFailed;
  }

  get missingChunks(): number {
    return this.#receiver?.missingCount ?? 0;
  }

  progress(): MigrationProgress {
    return progressOf(this.#numbers());
  }

  #numbers(): LeecherNumbers {
    return {
      phase: this.#phase,
      rounds: this.#rounds,
      destination: this.#destination,
      receiver: this.#receiver,
      bytesWire: this.#wireBytes + (this.#channel?.wireBytes() ?? 0),
      rttMs: this.#rtt.rttMs,
      downtimeMs: this.#downtime?.downtimeMs ?? 0,
      faults: this.#reports.faults,
    };
  }

  /**
   * Runs the migration to its end.
   *
   * @throws MigrationError: `committed` tells whether the workload's place is here or at the source.
   */
  async run(): Promise<MigrationTotals> {
    const reports = setInterval(() => this.#report(), REPORT_INTERVAL_MS);
    const checkpoints = setInterval(() => {
      // Best effort: the one at the end must succeed.
      if (this.#committed) this.#destination?.region.checkpoint().catch(() => undefined);
    }, CHECKPOINT_INTERVAL_MS);
    try {
      await this.#takeUp();
      await this.#serveChannels();
    } catch (error) {
      this.#end({ error });
    } finally {
      this.#next.end();
      clearInterval(reports);
      clearInterval(checkpoints);
    }
    this.#report();
    const outcome = this.#outcome;
    if (outcome === undefined) throw new Error("the leecher stopped without an outcome");
    if ("totals" in outcome) return outcome.totals;
    await this.#giveUp(outcome.error);
    if (this.#committed) throw outcome.error;
    await this.#journal.recordLater("cancelled");
    this.#setPhase("cancelled", messageOf(outcome.error));
    throw outcome.error;
  }

  /** Switch over now; with `postcopy` without what is missing, whatever the mode, also when it is under way. */
  finalize(options: { readonly postcopy?: boolean } = {}): void {
    if (options.postcopy === true) {
      this.#postcopyAsked = true;
      this.#receiver?.settled.notify();
    }
    if (this.#finalizeAsked || this.#committed) return;
    this.#finalizeAsked = true;
    this.#setPhase("finalizing");
    this.#sendFinalize();
  }

  /**
   * Gives up, if the relay agrees.
   *
   * @returns `false` if this side owns the region: then only `abandon` stops it.
   */
  async cancel(reason: string): Promise<boolean> {
    if (this.#committed) return false;
    // Before the source's last word nothing was asked that could make this side the owner.
    if (this.#finalized === undefined) {
      this.#end({ error: new MigrationError("CANCELLED", reason) });
      return true;
    }
    this.ownershipChanged(await this.#options.session.revoke(reason));
    return !this.#committed;
  }

  /** Switch over, of this side's own accord: not while somebody holds the migration. */
  #handOver(): void {
    const { hold } = this.#options.session;
    if (hold === undefined) this.finalize();
    else hold.whenReleased(() => this.finalize(), this.#over.signal);
  }

  /** It is known when the first channel opens, and does not change. */
  get #mode(): Mode {
    return policyFor(this.#options).mode;
  }

  /** Before it commits. Without an export nobody could be made to wait for what is missing. */
  get #awaitsAll(): boolean {
    const mayLack = this.#postcopyAsked && this.#destination?.exported !== false;
    return this.#mode === "precopy" && !mayLack;
  }

  /** Stops although chunks are missing; what is stored stays. */
  readonly abandon = (error: unknown): void => this.#end({ error });

  /** The relay said who owns the region. */
  ownershipChanged(ownership: Ownership): void {
    if (ownership.owner === "seeder" && ownership.state === "cancelled") {
      const why = ownership.reason === "" ? "the session was cancelled" : ownership.reason;
      this.#end({ error: new MigrationError("CANCELLED", why) });
    }
  }

  async #serveChannels(): Promise<void> {
    let failures = 0;
    while (!this.#over.signal.aborted) {
      const { session, sessionId, secret, dataStreams } = this.#options;
      // Everything is here and only the source's farewell is missing: it is not waited for long.
      const alone = this.#committed && this.#receiver?.complete === true;
      const patience = alone ? [AbortSignal.timeout(FAREWELL_PATIENCE_MS)] : [];
      const network = await session
        .pairing(AbortSignal.any([this.#over.signal, ...patience]))
        .catch((error: unknown) => {
          if (this.#over.signal.aborted || alone) return undefined;
          throw error;
        });
      if (network === undefined) {
        if (alone && !this.#over.signal.aborted) await this.#conclude(this.#path, this.#wireBytes);
        return;
      }
      try {
        const context = { sessionId, secret, features: OWN_FEATURES, dataStreams };
        const channel = await this.#next.open(network, (on) =>
          openLeecherChannel(on, context, this.#options.handshake),
        );
        failures = 0;
        this.#channel = channel;
        this.#path = channel.linkKind;
        this.#reports.fingerprint = channel.fingerprint;
        await this.#serve(channel);
      } catch (error) {
        await this.#finishing;
        if (!isTransient(error)) this.#end({ error });
        if (this.#over.signal.aborted) return;
        if (hasMoved(network)) continue;
        if (++failures >= CHANNEL_FAILURES_MAX && this.#destination === undefined) throw error;
        if (this.#committed) session.reportPhase("paused");
        this.#options.onEvent?.({ event: "phase", phase: "paused", detail: messageOf(error) });
        await backOff(this.#watch.lacksRoom ? NO_ROOM_FAILURES : failures, this.#over.signal);
      } finally {
        if (this.#channel !== undefined) this.#wireBytes += this.#channel.wireBytes();
        this.#channel = undefined;
      }
    }
  }

  async #giveUp(error: unknown): Promise<void> {
    const { session } = this.#options;
    if (this.#committed || session.ownership.state === "cancelled") return;
    this.#committed = await giveBack(session, publicReason(error), this.#finalized !== undefined);
  }

  async #serve(channel: Channel): Promise<void> {
    const scope = new AbortController();
    const signal = AbortSignal.any([scope.signal, channel.lost, this.#over.signal]);
    const tasks: Promise<void>[] = [];
    try {
      const offer = await receiveOffer(channel);
      tellChannel(channel, offer, this.#options.onEvent);
      const receiver = await this.#prepare(offer);
      const intake = new ChunkIntake(channel, {
        receiver,
        rttMs: () => this.#rtt.rttMs,
        ready: (until) => this.#changed.until(() => this.#merged.hasBegun, until),
        // While the source's last word is due another path has nothing to give.
        mayLeave: () => this.#next.settled && !(this.#committed && receiver.complete),
        mayFault: () => this.#finalizeAsked && !this.#awaitsAll,
        onStored: (again) => this.#stored(receiver, again),
        onStoreError: (error) => this.#storeFailed(error, channel),
      });
      this.#intake = intake;
      tasks.push(
        receiveEach(channel, { signal, over: this.#over.signal }, (message) =>
          this.#handle(channel, receiver, message),
        ),
        intake.run(signal),
        keepPinging(channel, this.#rtt, () => intake.pingIntervalMs, signal),
        this.#finish(channel, receiver, signal),
      );
      await Promise.race([this.#catchUp(channel, receiver, signal), ...tasks]);
      await Promise.race(tasks);
    } catch (error) {
      // What happened here is the outcome, whatever the other side says.
      if (!isTransient(error)) this.#end({ error });
      // The source hears it from here rather than by a timeout.
      if (!this.#committed && !channel.lost.aborted) await sayAbort(channel, this.#outcome);
      throw error;
    } finally {
      scope.abort(new MigrationError("PEER_LOST", "the channel is closed"));
      channel.abort("closed");
      await Promise.allSettled(tasks);
    }
  }

  async #prepare(offer: OfferMessage): Promise<ChunkReceiver> {
    const [known, receiver] = [this.#offer, this.#receiver];
    if (known === undefined || receiver === undefined) {
      const made = await this.#makeRoom(offer);
      await this.#journal.record("precopy", { offer });
      return made;
    }
    if (!isSameOffer(known, offer)) {
      throw new MigrationError("REGION_MISMATCH", "the source came back with another region");
    }
    this.#offer = offer;
    // The source was started again: what it knew of dirty chunks is lost, so none here counts until it says so.
    if (offer.folded > this.#merged.last) receiver.fold(offer.folded);
    return receiver;
  }

  async #makeRoom(offer: OfferMessage): Promise<ChunkReceiver> {
    const destination = await this.#options.prepare(offer);
    const keyedHash = this.#options.keyedHash(offer.hashKey);
    const manifest = new Manifest(destination.region.chunkCount, keyedHash);
    destination.onFault = (indexes) => {
      this.#reports.asked(indexes);
      this.#intake?.fault(indexes);
    };
    this.#offer = offer;
    this.#destination = destination;
    this.#manifest = manifest;
    this.#receiver = new ChunkReceiver(destination.region, manifest);
    if (destination.kept !== undefined) this.#receiver.hold(destination.kept.heldHashes);
    this.#startedAtMs = performance.now();
    return this.#receiver;
  }

  /** Goes on from what an earlier process of this session wrote down, and from who the relay says is the owner. */
  async #takeUp(): Promise<void> {
    const { session } = this.#options;
    const { restored } = this.#journal;
    if (restored === undefined) this.#journal.recordMeanwhile("joined");
    this.ownershipChanged(session.ownership);
    if (this.#over.signal.aborted) return;
    if (restored?.phase === "committing") await this.#commitAgain();
    if (session.ownership.owner !== "leecher") return;
    // Whatever goes wrong from here on: this side owns the region, and the attempt is not over.
    this.#committed = true;
    const { offer, finalized } = this.#journal.owned();
    const receiver = await this.#makeRoom(offer);
    const kept = this.#destination?.kept;
    if (kept !== undefined) receiver.restore(kept, finalized.epoch);
    this.#merged.begin(finalized.epoch + 1);
    this.#finalizeAsked = true;
    this.#finalized = { ...finalized, receivedAtMs: performance.now() };
    this.#setPhase("postcopy");
    this.#destination?.region.setGate("open");
    const started = restored?.phase === "resumed" || restored?.phase === "complete";
    if (!started || this.#options.workloadStayed !== true) await this.#startWorkload();
  }

  /** A process before this one asked to become the owner. That may come true at any time: nothing else may begin. */
  async #commitAgain(): Promise<void> {
    const { finalized } = this.#journal.owned();
    this.#finalized = { ...finalized, receivedAtMs: performance.now() };
    const { owner } = await this.#options.session.commit(finalized.epoch, this.#over.signal);
    if (owner !== "leecher") {
      throw new MigrationError("CANCELLED", "the relay kept the source as the owner");
    }
  }

  async #startWorkload(): Promise<void> {
    const { onResume, onEvent } = this.#options;
    // Programs that use the file itself make their writes durable without us: so must be what they stand on.
    if (this.#destination?.exported === false) await this.#destination.region.checkpoint();
    const cure = ": the region is here, start the workload by hand";
    this.#hookFailed = !(await runHook("--on-resume", onResume, onEvent, cure));
    await this.#journal.recordLater("resumed");
  }

  async #catchUp(channel: Channel, receiver: ChunkReceiver, signal: AbortSignal): Promise<void> {
    await sayWhatIsHere(channel, receiver, { mode: this.#mode, mergedEpoch: this.#merged.last });
    await this.#changed.until(() => this.#merged.hasBegun, signal);
    this.#caughtUp = channel;
    if (this.#committed && this.#finalized !== undefined) {
      await channel.control.send({ kind: "committed", epoch: this.#finalized.epoch });
      this.#options.session.reportPhase("postcopy");
      this.#setPhase("postcopy");
      this.#destination?.region.retryFaults();
    } else if (this.#finalizeAsked) {
      this.#sendFinalize();
    } else {
      this.#setPhase("precopy");
    }
  }

  #sendFinalize(): void {
    // Not ahead of `want`: the source repeats on it the dirty sets that this side has missed.
    if (this.#caughtUp !== this.#channel) return;
    this.#channel?.control
      .send({ kind: "finalize", deadlineMs: FINALIZE_DEADLINE_MS })
      .catch(() => {
        // Lost: asked again on the next channel.
      });
  }

  async #handle(channel: Channel, receiver: ChunkReceiver, message: Message): Promise<void> {
    switch (message.kind) {
      case "tracking":
        this.#merged.begin(message.epoch);
        this.#changed.notify();
        if (this.#mode === "postcopy" && this.#options.finalize.kind === "auto") {
          this.#handOver();
        }
        return;
      case "dirty":
        if (message.epoch <= this.#merged.last) return;
        receiver.markDirty(message, message.epoch);
        return;
      case "round":
        this.#roundEnded(message, receiver);
        await channel.control.send({ kind: "dirtyAck", epoch: message.epoch });
        return;
      case "finalized":
        this.#merged.merge(message.epoch, this.#offer?.folded);
        this.#finalized ??= { ...message, receivedAtMs: performance.now() };
        await channel.control.send({ kind: "dirtyAck", epoch: message.epoch });
        this.#taking ??= this.#takeOver(receiver).catch((error: unknown) => this.#end({ error }));
        return;
      case "released":
        this.#finishing = this.#conclude(channel.linkKind, this.progress().bytesWire);
        // The source needs to hear no more; from here on a lost channel changes nothing.
        channel.abort("done");
        await this.#finishing;
        return;
      case "abort":
        if (this.#committed) throw gaveUp("source", message.reason);
        this.#end({ error: gaveUp("source", message.reason) });
        return;
      case "pong":
        if (message.nonce !== NOT_MEASURED) this.#intake?.roundTrip(this.#rtt.answered());
        return;
      default:
        throw new MigrationError("MESSAGE_UNEXPECTED", `${message.kind} was sent to a leecher`);
    }
  }

  #roundEnded(message: RoundMessage, receiver: ChunkReceiver): void {
    // One that ended before this side began.
    if (message.epoch <= this.#merged.last) return;
    this.#merged.merge(message.epoch, this.#offer?.folded);
    const handOver = this.#rounds.ended(message, {
      chunkBytes: this.#offer?.chunkBytes ?? 0,
      sendBytesPerS: receiver.bytesPerS,
      rttMs: this.#rtt.rttMs,
    });
    if (handOver && this.#options.session.hold?.held !== true) this.finalize();
    // So that the workload's first flush here finds little to do. Only the one at the end must succeed.
    else this.#destination?.region.sync().catch(() => undefined);
  }

  /** From the source's last word to the workload's first step here. */
  async #takeOver(receiver: ChunkReceiver): Promise<void> {
    const { session, onEvent } = this.#options;
    const destination = this.#destination;
    const finalized = this.#finalized;
    if (destination === undefined || finalized === undefined) return;
    onEvent?.({
      event: "suspended",
      epoch: finalized.epoch,
      dirtyBytes: finalized.dirtyChunks * destination.region.chunkBytes,
    });
    await receiver.settled.until(() => receiver.complete || !this.#awaitsAll, this.#over.signal);
    // Ahead of the question: from here on only the relay knows who the owner is.
    await this.#journal.record("committing", { finalized });
    const ownership = await session.commit(finalized.epoch, this.#over.signal);
    if (ownership.owner !== "leecher") {
      throw new MigrationError("CANCELLED", "the relay kept the source as the owner");
    }
    this.#committed = true;
    this.#setPhase("committed");
    onEvent?.({ event: "committed", epoch: finalized.epoch });
    await Promise.all([receiver.switchOver(), this.#journal.recordLater("committed")]);
    destination.region.setGate("open");
    const openedAtMs = performance.now();
    const committed = { kind: "committed", epoch: finalized.epoch } as const;
    // Lost: said again on the next channel, and the relay has told the source already.
    this.#channel?.control.send(committed).catch(() => undefined);
    session.reportPhase("postcopy");
    this.#setPhase("postcopy");
    await this.#startWorkload();
    const downtime = (this.#downtime = new DowntimeMeter(finalized, this.#rtt.rttMs));
    void downtime
      .measure(destination, openedAtMs, this.#over.signal)
      .then(() => downtime.tell(onEvent));
    receiver.settled.notify();
  }

  #storeFailed(error: unknown, channel: Channel): void {
    if (this.#over.signal.aborted) return;
    if (channel !== this.#channel) {
      // The copies that came on this one meanwhile seemed to be here already.
      this.#channel?.abort("what an earlier channel brought could not be stored");
      return;
    }
    if (channel.lost.aborted) return;
    if (this.#watch.mayPass(error, this.#committed)) return;
    this.#end({ error: withRoots(error, this.#manifest, this.#finalized?.root) });
  }

  #stored(receiver: ChunkReceiver, again: readonly number[]): void {
    // On the channel of now: the one that brought them may be lost, and another copy have seemed to be here already.
    if (again.length > 0) this.#intake?.fault(Uint32Array.from(again));
    this.#watch.stored(receiver.mismatches);
    this.#reports.stored((index) => receiver.isReady(index));
    const { finalize } = this.#options;
    const chunkCount = this.#destination?.region.chunkCount ?? 0;
    if (finalize.kind === "ready" && receiver.readyCount >= chunkCount * finalize.ratio) {
      this.#handOver();
    }
  }

  /** Once everything is here and durable, asks the source to compare roots and let go. */
  async #finish(channel: Channel, receiver: ChunkReceiver, signal: AbortSignal): Promise<never> {
    await receiver.settled.until(() => this.#committed && receiver.complete, signal);
    await this.#taking;
    const root = await this.#verify();
    await this.#journal.recordLater("complete");
    await channel.control.send({ kind: "done", root });
    // `released` ends the migration, or the channel is lost and this is asked again on the next one.
    await new Latch().wait(signal);
    throw signal.reason;
  }

  /** Makes what is here durable. @returns Its root, which is the source's as far as that was said. */
  async #verify(): Promise<Uint8Array> {
    await this.#destination?.region.checkpoint();
    return verifiedRoot(this.#manifest, this.#finalized?.root);
  }

  /** The end: the source has let go, or it left for good when nothing but its farewell was missing. */
  async #conclude(path: LinkKind, bytesWire: number): Promise<void> {
    const region = this.#destination?.region;
    if (!this.#committed || region === undefined || this.#receiver?.complete !== true) {
      throw new MigrationError("MESSAGE_UNEXPECTED", "released before done");
    }
    const totalMs = performance.now() - this.#startedAtMs;
    const root = await this.#verify();
    await this.#downtime?.settle(this.#over.signal);
    this.#downtime?.tell(this.#options.onEvent);
    const totals = totalsOf(this.#numbers(), {
      totalMs,
      bytesWire,
      path,
      rootHash: toHex(root),
      lastDirtyChunks: this.#finalized?.dirtyChunks ?? 0,
    });
    await this.#journal.recordLater("done");
    this.#report();
    this.#options.session.reportPhase("done");
    this.#setPhase("done");
    this.#options.onEvent?.({ event: "done", ...totals });
    this.#end({ totals });
  }

  #report(): void {
    this.#reports.send(this.#options.session, this.#numbers());
  }

  #end(outcome: MigrationOutcome): void {
    if (this.#outcome !== undefined) return;
    this.#outcome = outcome;
    this.#over.abort(new MigrationError("CANCELLED", "the migration is over"));
  }

  #setPhase(phase: Phase, detail?: string): void {
    if (this.#phase === phase) return;
    this.#phase = phase;
    if (phase === "finalizing") this.#options.session.reportPhase("finalizing");
    this.#options.onEvent?.({ event: "phase", phase, ...(detail === undefined ? {} : { detail }) });
  }
}
