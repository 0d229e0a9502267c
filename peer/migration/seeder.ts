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
import { toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { gaveUp, isTransient, MigrationError, publicReason } from "../errors.ts";
import type { ChunkStore, DirtySource } from "../region/region.ts";
import { ChunkSet } from "./bitmap.ts";
import { openSeederChannel, type Channel } from "./channel.ts";
import { ChunkSender } from "./chunk-sender.ts";
import type {
  MigrationOutcome,
  MigrationProgress,
  MigrationTotals,
  OnMigrationEvent,
  Phase,
} from "./events.ts";
import { IndexReporter } from "./index-reporter.ts";
import { sleep } from "../sleep.ts";
import { aborted, backOff, Latch, withDeadline } from "./latch.ts";
import { CHANNEL_FAILURES_MAX, HOOK_DEADLINE_MS, REVOKE_COURTESY_MS } from "./limits.ts";
import { hashInto, Manifest, type KeyedHash } from "./manifest.ts";
import type { Message } from "./messages.ts";
import { RateMeter } from "./rate-meter.ts";
import { PullSchedule } from "./schedule.ts";
import type { Ownership, SessionPort } from "./session-port.ts";

/** Between two looks for dirty chunks: shorter rounds would be all overhead. */
const ROUND_INTERVAL_MS = 200;
const CHECKPOINT_INTERVAL_MS = 5_000;
/** Dirty bytes that are hashed while the workload stands still; beyond, the root is compared at the end only. */
const HASH_SUSPENDED_BYTES_MAX = 256 * 1024 * 1024;
/** How long the other side has to read the last word. */
const FAREWELL_MS = 2_000;

export interface SeederHooks {
  /** Stops the workload. When it returns, the workload writes no more. */
  readonly onSuspend?: (signal: AbortSignal) => Promise<void>;
  /** The migration ended after the suspend: the workload is to go on here. */
  readonly onRollback?: (signal: AbortSignal) => Promise<void>;
  /** The destination has everything: the image here is no longer needed. */
  readonly onRelease?: (signal: AbortSignal) => Promise<void>;
}

export interface SeederOptions {
  readonly session: SessionPort;
  readonly sessionId: Uint8Array;
  /** The ticket's secret. */
  readonly secret: Uint8Array;
  readonly region: ChunkStore;
  readonly regionName: string;
  readonly dirty: DirtySource;
  /** The key of the region's chunk hashes: the leecher gets it sealed, the relay never. */
  readonly hashKey: Uint8Array;
  readonly keyedHash: KeyedHash;
  readonly hooks?: SeederHooks;
  readonly onEvent?: OnMigrationEvent;
}

interface Finalized {
  readonly epoch: number;
  readonly suspendedForMs: number;
  readonly dirtyChunks: number;
  readonly root: Uint8Array | undefined;
}

export class Seeder {
  readonly #options: SeederOptions;
  readonly #manifest: Manifest;
  readonly #index: IndexReporter;
  readonly #wanted: ChunkSet;
  readonly #schedule: PullSchedule;
  /** Chunks that are being read to be sent. */
  readonly #reading: ChunkSet;
  /** Dirty sets by epoch until the leecher has acknowledged them. */
  readonly #unacknowledged = new Map<number, ChunkSet>();
  readonly #over = new AbortController();
  readonly #changed = new Latch();
  readonly #sentRate = new RateMeter();
  #phase: Phase = "joined";
  /** 0 until tracking begins. */
  #epoch = 0;
  #round = 0;
  #roundWasClean = false;
  #collectedAtMs = 0;
  #dirtyBytesPerS = 0;
  #epochTurn: Promise<void> = Promise.resolve();
  #suspending: Promise<void> | undefined;
  #finalized: Finalized | undefined;
  #suspended = false;
  #finalizeTimer: ReturnType<typeof setTimeout> | undefined;
  #committed = false;
  /** What ended it; set once. */
  #outcome: MigrationOutcome | undefined;
  #channel: Channel | undefined;
  #wireBytes = 0;
  #startedAtMs = 0;
  #suspendedAtMs = 0;
  #suspendedForMs = 0;

  constructor(options: SeederOptions) {
    this.#options = options;
    const { region, keyedHash, session } = options;
    this.#manifest = new Manifest(region.chunkCount, keyedHash, (index) => this.#index.mark(index));
    this.#index = new IndexReporter(this.#manifest, session);
    this.#wanted = new ChunkSet(region.chunkCount);
    this.#reading = new ChunkSet(region.chunkCount);
    this.#schedule = new PullSchedule(this.#wanted, region.chunkBytes);
  }

  /** Whether the relay has recorded the leecher as the owner. */
  get committed(): boolean {
    return this.#committed;
  }

  progress(): MigrationProgress {
    const { region } = this.#options;
    const missing = this.#wanted.size * region.chunkBytes;
    return {
      phase: this.#phase,
      round: this.#round,
      bytesTotal: region.bytes,
      bytesSent: this.#sentRate.total,
      bytesReady: this.#epoch === 0 ? 0 : Math.max(0, region.bytes - missing),
      bytesWire: this.#wireBytes + (this.#channel?.wireBytes() ?? 0),
      bytesPerS: this.#sentRate.bytesPerS,
      dirtyBytesPerS: this.#dirtyBytesPerS,
      rttMs: 0,
    };
  }

  /**
   * Runs the migration to its end.
   *
   * @throws MigrationError: `committed` tells whether the workload runs here or there.
   */
  async run(): Promise<MigrationTotals> {
    const checkpoints = setInterval(() => {
      if (this.#epoch > 0) void this.#index.checkpoint(this.#epoch);
    }, CHECKPOINT_INTERVAL_MS);
    try {
      await this.#serveChannels();
    } catch (error) {
      this.#end({ error });
    } finally {
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
    } else if (ownership.state === "cancelled" || ownership.state === "failed") {
      const why = ownership.reason === "" ? "the session was cancelled" : ownership.reason;
      this.#end({ error: new MigrationError("CANCELLED", why) });
    }
  }

  async #serveChannels(): Promise<void> {
    let failures = 0;
    while (!this.#over.signal.aborted) {
      const network = await this.#options.session
        .pairing(this.#over.signal)
        .catch((error: unknown) => {
          if (this.#over.signal.aborted) return undefined;
          throw error;
        });
      if (network === undefined) return;
      try {
        const { sessionId, secret } = this.#options;
        const channel = await openSeederChannel(network, { sessionId, secret, features: 0 });
        failures = 0;
        this.#channel = channel;
        await this.#serve(channel);
      } catch (error) {
        if (this.#over.signal.aborted) return;
        this.#lostChannel(error);
        if (!isTransient(error) && !this.#committed) throw error;
        if (++failures >= CHANNEL_FAILURES_MAX && !this.#suspended) throw error;
        await backOff(failures, this.#over.signal);
      } finally {
        if (this.#channel !== undefined) this.#wireBytes += this.#channel.wireBytes();
        this.#channel = undefined;
      }
    }
  }

  #lostChannel(error: unknown): void {
    const detail = messageOf(error);
    this.#options.onEvent?.({ event: "phase", phase: "paused", detail });
  }

  /** Serves one channel; returns when the migration is over, throws when the channel is. */
  async #serve(channel: Channel): Promise<void> {
    const { region, regionName, onEvent } = this.#options;
    const scope = new AbortController();
    const signal = AbortSignal.any([scope.signal, channel.lost, this.#over.signal]);
    onEvent?.({
      event: "channel",
      path: channel.linkKind,
      fingerprint: channel.fingerprint,
      regionName,
      regionBytes: region.bytes,
      chunkBytes: region.chunkBytes,
    });
    const sender = new ChunkSender(channel, {
      region,
      manifest: this.#manifest,
      schedule: this.#schedule,
      reading: this.#reading,
      epoch: () => this.#epoch,
      unschedule: (index) => this.#wanted.delete(index),
      onSent: (chunkBytes) => this.#sentRate.add(chunkBytes),
    });
    const tasks = [
      this.#receive(channel, sender, signal),
      sender.run(signal),
      this.#closeRounds(channel, sender, signal),
    ];
    try {
      await channel.control.send({
        kind: "offer",
        regionName,
        regionBytes: region.bytes,
        chunkBytes: region.chunkBytes,
        hashKey: this.#options.hashKey,
      });
      await Promise.race(tasks);
    } finally {
      const over = this.#over.signal.aborted;
      // What the other side is to know goes out before the streams close.
      if (over) await this.#farewell(channel);
      scope.abort(new MigrationError("PEER_LOST", "the channel is closed"));
      channel.abort("closed");
      await Promise.allSettled(tasks);
    }
  }

  async #farewell(channel: Channel): Promise<void> {
    const outcome = this.#outcome;
    try {
      if (outcome !== undefined && "error" in outcome) {
        await channel.control.send({ kind: "abort", reason: publicReason(outcome.error) });
      }
      await channel.endControl();
      // The other side closes when it has read the last word.
      await Promise.race([aborted(channel.lost), sleep(FAREWELL_MS, channel.lost)]);
    } catch {
      // The channel is lost: the other side learns the outcome from the relay.
    }
  }

  async #receive(channel: Channel, sender: ChunkSender, signal: AbortSignal): Promise<void> {
    const have = new ChunkSet(this.#options.region.chunkCount);
    for (;;) {
      const message = await channel.control.receive();
      signal.throwIfAborted();
      if (message === null) throw new MigrationError("PEER_LOST", "the other peer left");
      if (message.kind === "have") have.addPage(message);
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
        await this.#track();
        await channel.control.send({ kind: "tracking", epoch: this.#epoch });
        return;
      case "credit":
        sender.grant(message.bytes);
        return;
      case "dirtyAck":
        for (const epoch of this.#unacknowledged.keys()) {
          if (epoch <= message.epoch) this.#unacknowledged.delete(epoch);
        }
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

  /** Begins dirty tracking, once. */
  async #track(): Promise<void> {
    if (this.#epoch > 0) return;
    this.#setPhase("tracking");
    await this.#options.dirty.begin();
    this.#epoch = 1;
    this.#startedAtMs = performance.now();
    this.#collectedAtMs = this.#startedAtMs;
  }

  /** The leecher said what it has: all else is to be sent, and dirty sets that it may have missed are repeated. */
  async #want(
    channel: Channel,
    sender: ChunkSender,
    have: ChunkSet,
    acknowledgedEpoch: number,
  ): Promise<void> {
    if (this.#epoch === 0) throw new MigrationError("MESSAGE_UNEXPECTED", "want before track");
    this.#wanted.clear();
    for (let index = 0; index < have.chunkCount; index++) {
      if (!have.has(index)) this.#wanted.add(index);
    }
    for (const [epoch, dirty] of this.#unacknowledged) {
      if (epoch <= acknowledgedEpoch) continue;
      this.#wanted.addAll(dirty);
      if (epoch !== this.#finalized?.epoch) await this.#sendDirty(channel, epoch, dirty);
    }
    if (!this.#committed && this.#finalized === undefined) this.#setPhase("precopy");
    sender.start();
  }

  async #sendDirty(channel: Channel, epoch: number, dirty: ChunkSet): Promise<void> {
    for (const page of dirty.pages()) await channel.control.send({ kind: "dirty", epoch, ...page });
    if (epoch === this.#finalized?.epoch) return;
    await channel.control.send({
      kind: "round",
      round: this.#round,
      epoch,
      dirtyChunks: dirty.size,
      dirtyBytesPerS: this.#dirtyBytesPerS,
    });
  }

  /** Closes an epoch each time everything is sent, until the last one is closed by `finalize`. */
  async #closeRounds(channel: Channel, sender: ChunkSender, signal: AbortSignal): Promise<never> {
    const isEmpty = (): boolean => this.#wanted.size === 0;
    for (;;) {
      await sender.drained(isEmpty, signal);
      await this.#changed.until(() => this.#suspending === undefined, signal);
      await this.#inTurn(async () => {
        // Finalize may have begun while this waited its turn: the last epoch is its to close.
        if (this.#suspending !== undefined) return;
        const dirty = await this.#collect();
        // Said once: that nothing was written any more may be what the leecher waits for.
        if (dirty.size === 0 && this.#roundWasClean) return;
        this.#roundWasClean = dirty.size === 0;
        this.#round++;
        const closed = this.#closeEpoch(dirty);
        this.#options.onEvent?.({
          event: "round",
          round: this.#round,
          dirtyBytes: dirty.size * this.#options.region.chunkBytes,
          dirtyBytesPerS: this.#dirtyBytesPerS,
        });
        await this.#sendDirty(channel, closed, dirty);
      });
      sender.wake();
      await sleep(ROUND_INTERVAL_MS, signal);
    }
  }

  /**
   * Runs what closes an epoch, one at a time: a dirty set that was collected is recorded, whatever becomes of
   * the channel that it was meant for, and no other epoch is closed before it is on its way.
   */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#epochTurn.then(work);
    this.#epochTurn = turn.catch(() => undefined);
    return turn;
  }

  readonly #sentHash = (index: number): Uint8Array | undefined =>
    this.#reading.has(index) || !this.#manifest.isKnown(index)
      ? undefined
      : this.#manifest.hash(index);

  async #collect(): Promise<ChunkSet> {
    const { dirty, region } = this.#options;
    const set = ChunkSet.from(await dirty.collect(this.#sentHash), region.chunkCount);
    const now = performance.now();
    const seconds = Math.max(1, now - this.#collectedAtMs) / 1000;
    this.#collectedAtMs = now;
    this.#dirtyBytesPerS = (set.size * region.chunkBytes) / seconds;
    return set;
  }

  /** What was sent of `dirty` so far is stale. @returns The epoch that is closed. */
  #closeEpoch(dirty: ChunkSet): number {
    const closed = this.#epoch++;
    this.#unacknowledged.set(closed, dirty);
    this.#wanted.addAll(dirty);
    for (const index of dirty) this.#manifest.invalidate(index, closed);
    return closed;
  }

  /** Answers `finalize`: the first time by suspending, then always with the same answer. */
  async #finalize(channel: Channel, sender: ChunkSender, deadlineMs: number): Promise<void> {
    try {
      this.#suspending ??= this.#suspend(deadlineMs);
      await this.#suspending;
      const finalized = this.#finalized;
      if (finalized === undefined) return;
      const dirty = this.#unacknowledged.get(finalized.epoch);
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
    await withDeadline(HOOK_DEADLINE_MS, hooks?.onSuspend, this.#over.signal);
    this.#over.signal.throwIfAborted();
    await dirty.freeze();
    let last = new ChunkSet(region.chunkCount);
    let epoch = 0;
    await this.#inTurn(async () => {
      last = await this.#collect();
      epoch = this.#closeEpoch(last);
    });
    if (last.size * region.chunkBytes <= HASH_SUSPENDED_BYTES_MAX) {
      await hashInto(this.#manifest, region, last, this.#epoch);
    }
    if (this.#over.signal.aborted) return;
    this.#finalized = {
      epoch,
      suspendedForMs: performance.now() - this.#suspendedAtMs,
      dirtyChunks: last.size,
      root: this.#manifest.root(),
    };
    this.#setPhase("suspended");
    onEvent?.({ event: "suspended", epoch, dirtyBytes: last.size * region.chunkBytes });
    this.#finalizeTimer = setTimeout(() => {
      void this.cancel("the destination did not take over in time").catch((error: unknown) => {
        onEvent?.({ event: "warning", code: "RELAY_LOST", message: messageOf(error) });
      });
    }, deadlineMs);
    this.#changed.notify();
  }

  #becomeCommitted(): void {
    if (this.#committed || this.#over.signal.aborted) return;
    this.#committed = true;
    clearTimeout(this.#finalizeTimer);
    this.#suspendedForMs = performance.now() - this.#suspendedAtMs;
    this.#options.dirty.fence();
    this.#setPhase("committed");
    this.#options.onEvent?.({ event: "committed", epoch: this.#finalized?.epoch ?? this.#epoch });
    this.#changed.notify();
  }

  async #done(channel: Channel, theirs: Uint8Array): Promise<void> {
    if (!this.#committed) throw new MigrationError("MESSAGE_UNEXPECTED", "done before the commit");
    const ours = this.#manifest.root();
    if (ours === undefined || toHex(ours) !== toHex(theirs)) {
      throw new MigrationError(
        "ROOT_MISMATCH",
        `source and destination differ: ${ours === undefined ? "incomplete" : toHex(ours)} here, ${toHex(theirs)} there`,
      );
    }
    await channel.control.send({ kind: "released" });
    await this.#index.checkpoint(this.#epoch, ours);
    const { region, hooks, onEvent } = this.#options;
    const totals: MigrationTotals = {
      downtimeMs: this.#suspendedForMs,
      totalMs: performance.now() - this.#startedAtMs,
      bytesTotal: region.bytes,
      bytesWire: this.#wireBytes + channel.wireBytes(),
      rounds: this.#round + ((this.#finalized?.dirtyChunks ?? 0) > 0 ? 1 : 0),
      path: channel.linkKind,
      rootHash: toHex(ours),
    };
    try {
      await withDeadline(HOOK_DEADLINE_MS, hooks?.onRelease);
    } catch (error) {
      onEvent?.({
        event: "warning",
        code: "HOOK_FAILED",
        message: `--on-release: ${messageOf(error)}`,
      });
    }
    this.#setPhase("done");
    onEvent?.({ event: "done", ...totals });
    this.#end({ totals });
  }

  /** The workload goes on here. */
  async #rollBack(reason: string): Promise<void> {
    const { dirty, hooks, session, onEvent } = this.#options;
    // After the answer to finalize the leecher may have committed: only the relay knows, so it is asked until
    // it answers. Before, the leecher cannot commit, and the relay is told as a courtesy.
    if (session.ownership.state !== "cancelled") {
      const revoked = session.revoke(
        reason,
        this.#finalized === undefined ? AbortSignal.timeout(REVOKE_COURTESY_MS) : undefined,
      );
      if (this.#finalized === undefined) {
        await revoked.catch(() => undefined);
      } else if ((await revoked).owner === "leecher") {
        this.#committed = true;
        dirty.fence();
        return;
      }
    }
    // A suspend that is still under way must not freeze what is thawed here.
    await this.#suspending?.catch(() => undefined);
    dirty.thaw();
    if (this.#suspended) {
      try {
        await withDeadline(HOOK_DEADLINE_MS, hooks?.onRollback);
      } catch (error) {
        onEvent?.({
          event: "warning",
          code: "HOOK_FAILED",
          message: `--on-rollback: ${messageOf(error)}: start the workload by hand`,
        });
      }
    }
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
