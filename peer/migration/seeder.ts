/**
 * The source of a migration.
 *
 * ```
 * joined → tracking → precopy ⇄ (rounds) → suspended → committed → done
 *             │           │           │
 *             └───────────┴───────────┴→ cancelled: the workload goes on here
 * ```
 *
 * Until the relay has recorded the leecher as the owner, every failure ends with the workload running here.
 * Between the answer to `finalize` and that record nobody may guess: the seeder rolls back only after the relay
 * has agreed to end the session (`revoke`), and if the relay says instead that the leecher owns the region, it
 * is so. A lost channel changes nothing; the next one goes on from what both sides know.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import { gaveUp, isTransient, MigrationError, publicReason } from "../errors.ts";
import { ChunkSet } from "./bitmap.ts";
import { openSeederChannel, sayFarewell, tellChannel, type Channel } from "./channel.ts";
import type { ChunkSender } from "./chunk-sender.ts";
import type { LinkKind } from "../../relay/protocol/stream.ts";
import type { MigrationOutcome, MigrationProgress, MigrationTotals, Phase } from "./events.ts";
import { OWN_FEATURES, warmUpHandshake } from "./handshake.ts";
import { rollBackHook, runHook } from "./hooks.ts";
import { DirtyHistory } from "./dirty-history.ts";
import { IndexReporter } from "./index-reporter.ts";
import { sleep } from "../sleep.ts";
import { backOff, Latch, withDeadline } from "./latch.ts";
import type { KnownChunks } from "./known-chunks.ts";
import {
  CHANNEL_FAILURES_MAX,
  FINALIZE_DEADLINE_MS,
  HASH_SUSPENDED_BYTES_MAX,
  HOOK_DEADLINE_MS,
} from "./limits.ts";
import { hashInto, Manifest, requireEqualRoots, wholeRoot } from "./manifest.ts";
import type { Message } from "./messages.ts";
import { NextChannel } from "./next-channel.ts";
import { RateMeter } from "./rate-meter.ts";
import { Schedule } from "./schedule.ts";
import { SeederJournal, type Finalized } from "./seeder-journal.ts";
import type { SeederOptions } from "./seeder-options.ts";
import { RELEASE_UNCONFIRMED, type Confirmed } from "./seeder-ending.ts";
import { progressOfSource, totalsOfSource } from "./seeder-numbers.ts";
import { sayDirty } from "./seeder-talk.ts";
import { SeederStart, type Begun } from "./seeder-start.ts";
import { giveBack, hasMoved, type Ownership } from "./session-port.ts";

/** Between two looks for dirty chunks: shorter rounds would be all overhead. */
const ROUND_INTERVAL_MS = 200;
const CHECKPOINT_INTERVAL_MS = 5_000;

export class Seeder {
  readonly #options: SeederOptions;
  readonly #journal: SeederJournal;
  readonly #manifest: Manifest;
  readonly #index: IndexReporter;
  /** What is to be sent. */
  readonly #schedule: Schedule;
  /** Chunks that are being read to be sent. */
  readonly #reading: ChunkSet;
  readonly #history: DirtyHistory;
  readonly #start: SeederStart;
  readonly #over = new AbortController();
  readonly #changed = new Latch();
  readonly #sentRate = new RateMeter();
  readonly #next = new NextChannel();
  #phase: Phase = "joined";
  #round = 0;
  #roundWasClean = false;
  #suspending: Promise<void> | undefined;
  #finalized: Finalized | undefined;
  #suspended = false;
  #finalizeTimer: ReturnType<typeof setTimeout> | undefined;
  #committed = false;
  /** What ended it; set once. */
  #outcome: MigrationOutcome | undefined;
  #channel: Channel | undefined;
  /** The destination's word that it has everything. */
  #confirmed: Confirmed | undefined;
  #releasing: Promise<void> | undefined;
  #wireBytes = 0;
  #startedAtMs = 0;
  #suspendedAtMs = 0;
  #suspendedForMs = 0;

  constructor(options: SeederOptions) {
    this.#options = options;
    this.#journal = new SeederJournal(options.journal, options.onEvent);
    const { region, keyedHash, session } = options;
    this.#manifest = new Manifest(region.chunkCount, keyedHash, (index) => this.#index.mark(index));
    this.#index = new IndexReporter(this.#manifest, session);
    this.#reading = new ChunkSet(region.chunkCount);
    this.#history = new DirtyHistory({
      region,
      dirty: options.dirty,
      manifest: this.#manifest,
      reading: this.#reading,
    });
    this.#schedule = new Schedule(region.regions, region.chunkCount, region.chunkBytes);
    this.#start = new SeederStart({
      seeder: options,
      manifest: this.#manifest,
      schedule: this.#schedule,
      reading: this.#reading,
      history: this.#history,
      journal: this.#journal,
      onSent: (chunkBytes) => this.#sentRate.add(chunkBytes),
      held: () => this.#held,
    });
    this.#restore();
  }

  /** Whether the relay has recorded the leecher as the owner. */
  get committed(): boolean {
    return this.#committed;
  }

  progress(): MigrationProgress {
    return progressOfSource(this.#options.region, this.#schedule, {
      phase: this.#phase,
      round: this.#round,
      sent: this.#sentRate,
      bytesWire: this.#wireBytes + (this.#channel?.wireBytes() ?? 0),
      dirtyBytesPerS: this.#history.dirtyBytesPerS,
    });
  }

  /**
   * Runs the migration to its end.
   *
   * @throws MigrationError: `committed` tells whether the workload runs here or there.
   */
  async run(): Promise<MigrationTotals> {
    const checkpoints = setInterval(() => {
      if (this.#history.epoch > 0) void this.#index.checkpoint(this.#history.epoch);
    }, CHECKPOINT_INTERVAL_MS);
    try {
      await this.#takeUp();
      await this.#serveChannels();
    } catch (error) {
      this.#end({ error });
    } finally {
      this.#next.end();
      clearInterval(checkpoints);
      clearTimeout(this.#finalizeTimer);
    }
    const outcome = this.#outcome;
    if (outcome === undefined) throw new Error("the seeder stopped without an outcome");
    if ("totals" in outcome) return outcome.totals;
    if (!this.#committed) await this.#rollBack(publicReason(outcome.error));
    throw outcome.error;
  }

  /**
   * Ends the migration with the workload here, if the relay agrees.
   *
   * @returns Whether it did; `false`: the leecher owns the region and still needs this side.
   */
  async cancel(reason: string): Promise<boolean> {
    if (this.#committed) return false;
    // Before the answer to finalize the leecher cannot commit: nobody needs to be asked.
    if (this.#finalized === undefined) {
      this.#end({ error: new MigrationError("CANCELLED", reason) });
      return true;
    }
    const ownership = await this.#options.session.revoke(reason);
    this.ownershipChanged(ownership);
    return !this.#committed;
  }

  /** The relay said who owns the region. */
  ownershipChanged(ownership: Ownership): void {
    if (ownership.owner === "leecher") {
      this.#becomeCommitted();
      if (ownership.state === "done") this.#endWithoutChannel();
    } else if (ownership.state === "cancelled" || ownership.state === "failed") {
      const why = ownership.reason === "" ? "the session was cancelled" : ownership.reason;
      this.#end({ error: new MigrationError("CANCELLED", why) });
    }
  }

  /** What an earlier process of this session wrote down. */
  #restore(): void {
    const { restored, folded } = this.#journal;
    if (restored === undefined) return;
    this.#history.fold(folded);
    if (restored.finalized === undefined) return;
    this.#finalized = restored.finalized;
    this.#suspending = Promise.resolve();
    this.#suspended = true;
    this.#history.begin(restored.finalized.epoch + 1);
    this.#committed = restored.phase === "committed" || restored.phase === "released";
  }

  /** Puts the workload where the record says that it is, and asks no other than the relay who owns it. */
  async #takeUp(): Promise<void> {
    const { session, dirty } = this.#options;
    this.#startedAtMs = performance.now();
    if (this.#options.handshake === undefined) void warmUpHandshake();
    const phase = this.#journal.restored?.phase;
    if (phase === undefined) await this.#journal.record("offered");
    else if (phase === "suspending") await this.#startAgain();
    else if (phase === "finalized") this.#expectCommit(FINALIZE_DEADLINE_MS);
    if (this.#committed) {
      dirty.fence();
      this.#setPhase("committed");
    } else if (this.#finalized !== undefined) this.#setPhase("suspended");
    // The relay may have said it before there was anybody here to hear it.
    this.ownershipChanged(session.ownership);
  }

  /** The workload was being stopped and nobody was told that it stands: it goes on here. */
  async #startAgain(): Promise<void> {
    this.#options.dirty.thaw();
    await rollBackHook(this.#options);
    await this.#journal.record("tracking");
  }

  async #serveChannels(): Promise<void> {
    let failures = 0;
    while (!this.#over.signal.aborted) {
      // What the relay said while there was a channel may be all that will ever be said.
      this.ownershipChanged(this.#options.session.ownership);
      if (this.#releasing !== undefined) return await this.#releasing;
      const network = await this.#options.session
        .pairing(this.#over.signal)
        .catch((error: unknown) => {
          if (this.#over.signal.aborted) return undefined;
          throw error;
        });
      if (network === undefined) return;
      try {
        const { sessionId, secret, handshake } = this.#options;
        const context = { sessionId, secret, features: OWN_FEATURES };
        const channel = await this.#next.open(network, (on) =>
          openSeederChannel(on, context, handshake, (streams) => void this.#start.begin(streams)),
        );
        failures = 0;
        this.#channel = channel;
        await this.#serve(channel, this.#start.begin(channel));
      } catch (error) {
        if (this.#over.signal.aborted) return;
        if (isTransient(error) && hasMoved(network)) continue;
        this.#options.onEvent?.({ event: "phase", phase: "paused", detail: messageOf(error) });
        if (!isTransient(error) && !this.#committed) throw error;
        if (++failures >= CHANNEL_FAILURES_MAX && !this.#suspended) throw error;
        await backOff(failures, this.#over.signal);
      } finally {
        if (this.#channel !== undefined) this.#wireBytes += this.#channel.wireBytes();
        this.#channel = undefined;
      }
    }
  }

  /** Serves one channel; returns when the migration is over, throws when the channel is. */
  async #serve(channel: Channel, { known, sender }: Begun): Promise<void> {
    const { onEvent } = this.#options;
    const scope = new AbortController();
    const signal = AbortSignal.any([scope.signal, channel.lost, this.#over.signal]);
    tellChannel(channel, this.#start.offer(), onEvent);
    const stopWaking = this.#options.session.hold?.onChange(() => sender.wake());
    const tasks = [
      this.#receive(channel, sender, known, signal),
      sender.run(signal),
      this.#closeRounds(channel, sender, signal),
    ];
    try {
      await Promise.race(tasks);
    } finally {
      stopWaking?.();
      const over = this.#over.signal.aborted;
      // What the other side is to know goes out before the streams close.
      if (over) await sayFarewell(channel, this.#outcome);
      scope.abort(new MigrationError("PEER_LOST", "the channel is closed"));
      channel.abort("closed");
      await Promise.allSettled(tasks);
    }
  }

  get #held(): boolean {
    // While the workload stands still for the last chunks, nobody holds them back.
    const isWaitedFor = this.#suspending !== undefined && !this.#committed;
    return this.#options.session.hold?.held === true && !isWaitedFor;
  }

  async #receive(
    channel: Channel,
    sender: ChunkSender,
    known: KnownChunks,
    signal: AbortSignal,
  ): Promise<void> {
    const have = new ChunkSet(this.#options.region.chunkCount);
    for (;;) {
      const message = await channel.control.receive();
      signal.throwIfAborted();
      if (message === null) throw new MigrationError("PEER_LOST", "the other peer left");
      if (message.kind === "have") have.addPage(message);
      else if (message.kind === "knows") known.add(message);
      else if (message.kind === "want") await this.#want(channel, sender, have, message.epoch);
      else await this.#handle(channel, sender, message);
      if (this.#over.signal.aborted) return;
    }
  }

  async #handle(channel: Channel, sender: ChunkSender, message: Message): Promise<void> {
    switch (message.kind) {
      case "accept":
        return;
      case "track":
        if (this.#phase === "joined") this.#setPhase("tracking");
        await this.#start.track();
        await channel.control.send({ kind: "tracking", epoch: this.#history.epoch });
        return;
      case "credit":
        sender.grant(message.bytes);
        return;
      case "dirtyAck":
        this.#history.acknowledged(message.epoch);
        return;
      case "finalize":
        // Not awaited: credit and acknowledgements must keep flowing while the workload is suspended.
        void this.#finalize(channel, sender, message.deadlineMs);
        return;
      case "committed":
        this.#becomeCommitted();
        return;
      case "done":
        await this.#done(channel, message.root);
        return;
      case "abort":
        if (this.#committed) throw gaveUp("destination", message.reason);
        this.#end({ error: gaveUp("destination", message.reason) });
        return;
      case "ping":
        await channel.control.send({ kind: "pong", nonce: message.nonce });
        return;
      default:
        throw new MigrationError("MESSAGE_UNEXPECTED", `${message.kind} was sent to a seeder`);
    }
  }

  /** The leecher said what it has: all else is to be sent, and dirty sets that it may have missed are repeated. */
  async #want(
    channel: Channel,
    sender: ChunkSender,
    have: ChunkSet,
    acknowledgedEpoch: number,
  ): Promise<void> {
    if (this.#history.epoch === 0)
      throw new MigrationError("MESSAGE_UNEXPECTED", "want before track");
    // What it has it has of a source that knew more: it is to ask by `knows`.
    if (acknowledgedEpoch < this.#journal.folded) have.clear();
    this.#schedule.clear();
    for (let index = 0; index < have.chunkCount; index++) {
      if (!have.has(index) && !sender.isAhead(index)) this.#schedule.add(index);
    }
    for (const [epoch, dirty] of this.#history.missedSince(acknowledgedEpoch)) {
      this.#schedule.addDirty(dirty);
      if (epoch !== this.#finalized?.epoch) await this.#sendDirty(channel, epoch, dirty);
    }
    if (!this.#committed && this.#finalized === undefined) this.#setPhase("precopy");
    // Whoever asks may be another process than the one that was told.
    this.#roundWasClean = false;
    sender.start();
    // Nor need it know that it has asked for the hand-over, while the workload stands still.
    if (this.#suspending !== undefined && !this.#committed) {
      void this.#finalize(channel, sender, FINALIZE_DEADLINE_MS);
    }
  }

  /** Without the end of a round for the last one, which `finalized` ends. */
  #sendDirty(channel: Channel, epoch: number, dirty: ChunkSet): Promise<void> {
    const { dirtyBytesPerS } = this.#history;
    const isLast = epoch === this.#finalized?.epoch;
    return sayDirty(
      channel,
      { epoch, dirty },
      isLast ? undefined : { round: this.#round, dirtyBytesPerS },
    );
  }

  /** Closes an epoch each time everything is sent, until the last one is closed by `finalize`. */
  async #closeRounds(channel: Channel, sender: ChunkSender, signal: AbortSignal): Promise<never> {
    const isEmpty = (): boolean => this.#schedule.size === 0;
    for (;;) {
      await sender.drained(isEmpty, signal);
      await this.#changed.until(() => this.#suspending === undefined, signal);
      await this.#rested(signal);
      await this.#history.inTurn(async () => {
        // Finalize may have begun while this waited its turn: the last epoch is its to close.
        if (this.#suspending !== undefined) return;
        await this.#journal.reserveEpochs(this.#history.epoch);
        const dirty = await this.#history.collect();
        // Said once: that nothing was written any more may be what the leecher waits for.
        if (dirty.size === 0 && this.#roundWasClean) return;
        this.#roundWasClean = dirty.size === 0;
        this.#round++;
        const closed = this.#closeEpoch(dirty);
        this.#options.onEvent?.({
          event: "round",
          round: this.#round,
          dirtyBytes: dirty.size * this.#options.region.chunkBytes,
          dirtyBytesPerS: this.#history.dirtyBytesPerS,
        });
        // So that the last one finds little to do; only that one must succeed.
        this.#options.region.sync().catch(() => undefined);
        await this.#sendDirty(channel, closed, dirty);
      });
      sender.wake();
      await sleep(ROUND_INTERVAL_MS, signal);
    }
  }

  /** Rounds rest while the migration is held: their end is what a hand-over is decided by. */
  async #rested(signal: AbortSignal): Promise<void> {
    if (!this.#held) return;
    await this.#options.session.hold?.released(signal);
    // Whoever was not to hand over at the end of the last one may want to at the end of the next.
    this.#roundWasClean = false;
  }

  /** @returns The epoch that is closed. */
  #closeEpoch(dirty: ChunkSet): number {
    this.#schedule.addDirty(dirty);
    return this.#history.close(dirty);
  }

  /** Answers `finalize`: the first time by suspending, then always with the same answer. */
  async #finalize(channel: Channel, sender: ChunkSender, deadlineMs: number): Promise<void> {
    try {
      this.#suspending ??= this.#suspend(deadlineMs);
      await this.#suspending;
      const finalized = this.#finalized;
      if (finalized === undefined) return;
      const dirty = this.#history.dirtyOf(finalized.epoch);
      if (dirty !== undefined) await this.#sendDirty(channel, finalized.epoch, dirty);
      await channel.control.send({ kind: "finalized", ...finalized });
      sender.wake();
      await this.#index.checkpoint(finalized.epoch, finalized.root);
    } catch (error) {
      // A lost channel is seen by its reader; the next one is asked again and gets the same answer.
      if (this.#finalized === undefined) this.#end({ error });
    }
  }

  async #suspend(deadlineMs: number): Promise<void> {
    const { hooks, dirty, region, onEvent } = this.#options;
    this.#suspendedAtMs = performance.now();
    this.#suspended = true;
    this.#setPhase("finalizing");
    // Ahead of the hook: whoever goes on from here knows that the workload may have been stopped.
    await this.#journal.record("suspending");
    await withDeadline(HOOK_DEADLINE_MS, hooks?.onSuspend, this.#over.signal);
    this.#over.signal.throwIfAborted();
    await dirty.freeze();
    let last = new ChunkSet(region.chunkCount);
    let epoch = 0;
    await this.#history.inTurn(async () => {
      last = await this.#history.collect();
      epoch = this.#closeEpoch(last);
    });
    const small = last.size * region.chunkBytes <= HASH_SUSPENDED_BYTES_MAX;
    await Promise.all([
      small ? hashInto(this.#manifest, region, last, this.#history.epoch) : undefined,
      // What the destination will still ask for must be here after a crash of this host.
      region.sync(),
    ]);
    this.#over.signal.throwIfAborted();
    const finalized: Finalized = {
      epoch,
      suspendedForMs: performance.now() - this.#suspendedAtMs,
      dirtyChunks: last.size,
      root: this.#manifest.root(),
    };
    await this.#journal.record("finalized", finalized);
    // From here on the answer may be given; until then nobody needed to be asked for a rollback.
    this.#over.signal.throwIfAborted();
    this.#finalized = finalized;
    this.#setPhase("suspended");
    onEvent?.({ event: "suspended", epoch, dirtyBytes: last.size * region.chunkBytes });
    this.#expectCommit(deadlineMs);
    this.#changed.notify();
  }

  /** Past the deadline the relay is asked to leave the region here. */
  #expectCommit(deadlineMs: number): void {
    const warn = (error: unknown): void =>
      this.#options.onEvent?.({ event: "warning", code: "RELAY_LOST", message: messageOf(error) });
    const reason = "the destination did not take over in time";
    this.#finalizeTimer = setTimeout(() => void this.cancel(reason).catch(warn), deadlineMs);
  }

  #becomeCommitted(): void {
    if (this.#committed || this.#over.signal.aborted) return;
    this.#committed = true;
    clearTimeout(this.#finalizeTimer);
    this.#suspendedForMs = performance.now() - this.#suspendedAtMs;
    this.#options.dirty.fence();
    void this.#journal.recordLater("committed");
    this.#setPhase("committed");
    this.#options.onEvent?.({
      event: "committed",
      epoch: this.#finalized?.epoch ?? this.#history.epoch,
    });
    this.#changed.notify();
  }

  async #done(channel: Channel, theirs: Uint8Array): Promise<void> {
    if (!this.#committed) throw new MigrationError("MESSAGE_UNEXPECTED", "done before the commit");
    const { region } = this.#options;
    const ours = await wholeRoot(this.#manifest, region, this.#history.epoch);
    requireEqualRoots(ours, theirs);
    requireEqualRoots(ours, this.#finalized?.root);
    const recorded = await this.#journal.recordLater("released");
    this.#confirmed ??= { root: ours, recorded, path: channel.linkKind };
    await channel.control.send({ kind: "released" });
    await this.#index.checkpoint(this.#history.epoch, ours);
    await this.#release(this.#confirmed, this.#wireBytes + channel.wireBytes());
  }

  /** The destination has everything, and has heard so. */
  #release({ root, recorded, path }: Confirmed, wireBytes: number): Promise<void> {
    const { hooks, onEvent } = this.#options;
    return (this.#releasing ??= (async () => {
      // A process after this one would serve an image that the hook may have deleted.
      if (recorded) await runHook("--on-release", hooks?.onRelease, onEvent);
      this.#conclude(root, wireBytes, path);
    })());
  }

  /**
   * The relay says that the destination has everything, and nothing more will be asked of this side. If the destination
   * did not say so itself, the image is not given up on the relay's word alone.
   */
  #endWithoutChannel(): void {
    if (this.#outcome !== undefined || this.#channel !== undefined) return;
    if (this.#confirmed !== undefined) {
      this.#release(this.#confirmed, this.#wireBytes).catch((error: unknown) =>
        this.#end({ error }),
      );
      return;
    }
    this.#options.onEvent?.(RELEASE_UNCONFIRMED);
    this.#conclude(this.#finalized?.root, this.#wireBytes, "memory");
  }

  #conclude(root: Uint8Array | undefined, bytesWire: number, path: LinkKind): void {
    const totals = totalsOfSource({
      progress: { ...this.progress(), bytesWire },
      downtimeMs: this.#suspendedForMs,
      startedAtMs: this.#startedAtMs,
      lastDirtyChunks: this.#finalized?.dirtyChunks ?? 0,
      path,
      root,
    });
    this.#setPhase("done");
    this.#options.onEvent?.({ event: "done", ...totals });
    this.#end({ totals });
  }

  /** The workload goes on here. */
  async #rollBack(reason: string): Promise<void> {
    const { dirty, session } = this.#options;
    // After the answer to finalize the leecher may have committed: only the relay knows, so it is asked until
    // it answers. Before, the leecher cannot commit, and the relay is told as a courtesy.
    if (session.ownership.state !== "cancelled") {
      if (await giveBack(session, reason, this.#finalized !== undefined)) {
        this.#committed = true;
        dirty.fence();
        await this.#journal.recordLater("committed");
        return;
      }
    }
    // A suspend that is still under way must not freeze what is thawed here.
    await this.#suspending?.catch(() => undefined);
    dirty.thaw();
    if (this.#suspended) await rollBackHook(this.#options);
    await this.#journal.recordLater("rolledBack");
    this.#setPhase("cancelled", reason);
  }

  #end(outcome: MigrationOutcome): void {
    if (this.#outcome !== undefined) return;
    this.#outcome = outcome;
    this.#over.abort(new MigrationError("CANCELLED", "the migration is over"));
  }

  #setPhase(phase: Phase, detail?: string): void {
    if (this.#phase === phase) return;
    this.#phase = phase;
    const { session, onEvent } = this.#options;
    onEvent?.({ event: "phase", phase, ...(detail === undefined ? {} : { detail }) });
    if (phase === "tracking" || phase === "precopy" || phase === "suspended") {
      session.reportPhase(phase);
    }
  }
}
