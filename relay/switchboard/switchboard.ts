/**
 * Who is connected, and which stream goes to whom.
 *
 * Every stream that a transport accepts comes here. Its first frame says what it is: the control stream of a
 * peer that joins, or one that is to be joined with its twin from the other peer. The switchboard copies
 * bytes between twins and never looks at them.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import type { Command, Frame, HelloFrame, SessionTerms } from "../protocol/frame.ts";
import { messageOf, ProtocolError } from "../protocol/errors.ts";
import { isEnded, STREAM_SECRET_BYTES, type Role, type SessionState } from "../protocol/ids.ts";
import {
  CONTROL_FRAME_BYTES_MAX,
  PREFACE_BYTES_MAX,
  PREFACE_DEADLINE_MS,
  SILENCE_LOOK_MS,
  SILENCE_MAX_MS,
  PROGRESS_PER_SECOND_MAX,
  SIGNALS_AT_ONCE_MAX,
  SIGNALS_PER_SECOND_MAX,
} from "../protocol/limits.ts";
import { toHex } from "../protocol/bytes.ts";
import { MessageReader, readFrame, writeFrame } from "../protocol/message-stream.ts";
import { FEATURES, PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../protocol/version.ts";
import type { IncomingStream } from "../transport/transport.ts";
import {
  DECISION_PATIENCE_MS,
  DECISIONS_WAITING_MAX,
  DRAIN_DEADLINE_MS,
  GOODBYE_PATIENCE_MS,
  INDEX_BYTES_WAITING_MAX,
  RECORDS_WAITING_MAX,
} from "./limits.ts";
import { openRoom, type SwitchboardBounds } from "./bounds.ts";
import { sayFarewell } from "./farewell.ts";
import { join } from "./joining.ts";
import type { VerifyProof } from "./proof.ts";
import { LimitRefusal, refuse } from "./refusal.ts";
import { UNKNOWN_STREAM_BOUND } from "./buffers.ts";
import type { LiveSession, PeerDiscovery } from "./live.ts";
import { COMMANDED, PHASES_OF } from "./roles.ts";
import { SessionRecords } from "./record-lane.ts";
import {
  PROGRESS_SAVE_INTERVAL_MS,
  learned,
  progressed,
  saveProgress,
  tellNewHold,
  tellWishes,
  type Note,
} from "./reports.ts";
import { other, type Member, type OnBytes, type Room, type RoomPath } from "./room.ts";
import { TokenBucket } from "../token-bucket.ts";
import type { JoinedSession, SessionStore } from "./session-store.ts";

export type { LiveSession, PeerDiscovery } from "./live.ts";

export interface SwitchboardOptions {
  readonly store: SessionStore;
  readonly log: (
    level: "debug" | "info" | "warn" | "error",
    message: string,
    fields: Record<string, unknown>,
  ) => void;
  readonly onHandshakeFailure?: (code: string) => void;
  readonly onBytes?: OnBytes;
  /**
   * Both peers of a session are here.
   *
   * @param waitedMs How long the first waited for the other; undefined if they were together before.
   */
  readonly onPaired?: (sessionId: string, path: RoomPath, waitedMs: number | undefined) => void;
  /** Where peers learn their own UDP address; undefined if that is off. */
  readonly discovery?: PeerDiscovery | undefined;
  /** How long peers may take to leave when it closes. */
  readonly drainDeadlineMs?: number;
  /** In `[0, 1)`, for when each is to leave. */
  readonly random?: () => number;
  /** Whether the holder of an ed25519 key signed a message. Default: by WebCrypto. */
  readonly verifyProof?: VerifyProof;
  /** Without it, sessions take what they can and no one is kept out. */
  readonly bounds?: SwitchboardBounds;
}

/** One peer's control stream while it is served. */
interface Attendance {
  readonly room: Room;
  readonly records: SessionRecords;
  readonly member: Member;
  /** Ends it, with the reason told to the peer. */
  readonly fail: (error: ProtocolError) => void;
  over: boolean;
  decisionsWaiting: number;
  /** Of what the peers tell each other about paths. */
  readonly signals: TokenBucket;
  /** Of what it reports beside its progress. */
  readonly more: TokenBucket;
  deciding: Promise<void>;
}

export class Switchboard {
  readonly #options: SwitchboardOptions;
  readonly #rooms = new Map<string, Room>();
  /** Of sessions with somebody connected, or with something still to be written. */
  readonly #records = new Map<string, SessionRecords>();
  readonly #listeners = new Set<(sessionId: Uint8Array) => void>();
  readonly #sweep: ReturnType<typeof setInterval>;
  #arrivals = 0;
  #closing: Promise<void> | undefined;

  constructor(options: SwitchboardOptions) {
    this.#options = options;
    this.#sweep = setInterval(() => this.#dropSilent(), SILENCE_LOOK_MS);
  }

  /** Takes a stream over. Never throws. */
  accept(incoming: IncomingStream): void {
    incoming.stream.setBufferBound?.(UNKNOWN_STREAM_BOUND);
    this.#admit(incoming).catch((error: unknown) => {
      const code = error instanceof ProtocolError ? error.code : "INTERNAL";
      if (error instanceof LimitRefusal) this.#options.bounds?.onThrottled(error.limitName);
      this.#options.onHandshakeFailure?.(code);
      this.#options.log(code === "INTERNAL" ? "error" : "info", "stream refused", {
        code,
        reason: messageOf(error),
        remoteAddress: incoming.remoteAddress,
        link: incoming.kind,
      });
      void refuse(incoming.stream, error);
    });
  }

  /** Passes on what a person asked for. @returns Whether a peer that can act on it is connected. */
  command(sessionId: Uint8Array, command: Command, reason: string): boolean {
    const room = this.#rooms.get(toHex(sessionId));
    return room?.command({ kind: "command", command, reason }, COMMANDED[command]) ?? false;
  }

  /** Lets connected peers begin afresh with each other. @returns Whether both are there. */
  renewPairing(sessionId: Uint8Array): boolean {
    return this.#rooms.get(toHex(sessionId))?.renewPairing() ?? false;
  }

  /** Tells connected peers who owns the region now, e.g. after the API cancelled the session. */
  async announce(sessionId: Uint8Array, reason = ""): Promise<void> {
    const room = this.#rooms.get(toHex(sessionId));
    if (room === undefined) return;
    const { owner, ownerEpoch, state } = await this.#options.store.owner(sessionId);
    room.broadcast({ kind: "owner", owner, ownerEpoch, state, reason });
  }

  /** Tells the peers of what the operator wants from now on. @param sessionId In hexadecimal. */
  setTerms(sessionId: string, terms: SessionTerms): void {
    this.#rooms.get(sessionId)?.setTerms(terms);
  }

  /** Changes the rate that a session is held to; 0 for none. @param sessionId In hexadecimal. */
  setBytesPerS(sessionId: string, bytesPerS: number): void {
    this.#rooms.get(sessionId)?.setBytesPerS(bytesPerS);
  }

  live(sessionId: Uint8Array): LiveSession | undefined {
    const room = this.#rooms.get(toHex(sessionId));
    if (room === undefined) return undefined;
    return {
      seeder: room.livePeer("seeder"),
      leecher: room.livePeer("leecher"),
      progress: room.progress,
      more: room.more,
      stillMs: Math.max(0, Date.now() - room.movedAtMs),
      bytesFrom: room.bytesFrom,
    };
  }

  get liveSessionIds(): readonly string[] {
    return [...this.#rooms.keys()];
  }

  get liveSessionCount(): number {
    return this.#rooms.size;
  }

  /** Of all sessions together, what waits for a side that is slow. */
  get queuedBytes(): number {
    return [...this.#rooms.values()].reduce((sum, room) => sum + room.queuedBytes, 0);
  }

  /** How sessions with both peers here are joined, by their id in hexadecimal. */
  livePaths(): ReadonlyMap<string, RoomPath> {
    const paths = new Map<string, RoomPath>();
    for (const [key, { path }] of this.#rooms) if (path !== undefined) paths.set(key, path);
    return paths;
  }

  /** Calls back with the session whose live state or record changed. @returns Stops it. */
  onChange(listener: (sessionId: Uint8Array) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tells everybody when to come back, lets them go, and writes down what they reported. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    clearInterval(this.#sweep);
    const { random = Math.random, drainDeadlineMs: deadlineMs = DRAIN_DEADLINE_MS } = this.#options;
    await sayFarewell([...this.#rooms.values()], { deadlineMs, random });
    for (const room of this.#rooms.values()) {
      room.close("RELAY_DRAINING", "the relay is going down");
    }
    for (const room of this.#rooms.values()) room.dispose();
    this.#rooms.clear();
    const records = [...this.#records.values()];
    await Promise.all(records.map((one) => one.settled(GOODBYE_PATIENCE_MS)));
    for (const one of records) one.close();
  }

  async #admit(incoming: IncomingStream): Promise<void> {
    const arrival = ++this.#arrivals;
    const reader = new MessageReader(incoming.stream);
    const deadline = setTimeout(
      () => incoming.stream.abort("DEADLINE_EXCEEDED", "no first frame in time"),
      PREFACE_DEADLINE_MS,
    );
    try {
      const frame = await readFrame(reader, PREFACE_BYTES_MAX);
      if (frame?.kind === "stream") {
        const room = this.#rooms.get(toHex(frame.sessionId));
        if (room === undefined) {
          throw new ProtocolError("PEER_UNKNOWN", "no peer of this session is connected");
        }
        room.addStream(frame, { stream: incoming.stream, head: reader.takeRest() });
        incoming.established?.();
        return;
      }
      if (frame?.kind !== "hello") {
        throw new ProtocolError("FRAME_UNEXPECTED", "a stream begins with hello or stream");
      }
      // Streams of peers that have not left yet are let in: what they are at is to be finished.
      if (this.#closing !== undefined) {
        throw new ProtocolError("RELAY_DRAINING", "the relay is going down");
      }
      const session = await join(frame, {
        ...this.#options,
        stream: incoming.stream,
        reader,
        isHere: (sessionId) => this.#rooms.has(toHex(sessionId)),
      });
      clearTimeout(deadline);
      incoming.established?.();
      const { discovery } = this.#options;
      const held = (frame.features & FEATURES.direct) === 0 ? undefined : discovery?.hold();
      try {
        await this.#attend(frame, session, { ...incoming, arrival, token: held?.token }, reader);
      } finally {
        held?.release();
      }
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Serves one peer's control stream until it ends. */
  async #attend(
    hello: HelloFrame,
    session: JoinedSession,
    incoming: IncomingStream & { readonly arrival: number; readonly token: Uint8Array | undefined },
    reader: MessageReader,
  ): Promise<void> {
    const { sessionId, role, peerKey } = hello;
    const { token } = incoming;
    const now = Date.now();
    const member: Member = {
      role,
      peerKey,
      features: hello.features,
      stream: incoming.stream,
      kind: incoming.kind,
      remoteAddress: incoming.remoteAddress,
      streamSecret: randomBytes(STREAM_SECRET_BYTES),
      joinedAtMs: now,
      arrival: incoming.arrival,
      heardAtMs: now,
    };
    await writeFrame(member.stream, {
      kind: "welcome",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
      features:
        FEATURES.signals |
        FEATURES.commands |
        (this.#options.discovery === undefined ? 0 : FEATURES.direct),
      streamSecret: member.streamSecret,
      owner: session.owner,
      ownerEpoch: session.ownerEpoch,
      state: session.state,
    });
    const ports = this.#options.discovery?.ports;
    if (token !== undefined && ports !== undefined) {
      await writeFrame(member.stream, { kind: "discovery", token, ports });
    }
    // It may have begun to go down since the first frame.
    if (this.#closing !== undefined) {
      throw new ProtocolError("RELAY_DRAINING", "the relay is going down");
    }
    // Ahead of the pairing, so that not one chunk is sent otherwise.
    await tellWishes(member, session, { isBack: hello.token === undefined });
    const key = toHex(sessionId);
    const room = this.#rooms.get(key) ?? openRoom(session, this.#options);
    room.enter(member);
    this.#rooms.set(key, room);
    const twin = room.member(other(role));
    if (twin !== undefined) {
      const waitedMs = room.pairing === 1 ? now - twin.joinedAtMs : undefined;
      this.#options.onPaired?.(key, room.path ?? incoming.kind, waitedMs);
    }
    const fields = { sessionId: key, role, link: incoming.kind };
    this.#options.log("info", "peer joined", fields);
    const failed = Promise.withResolvers<never>();
    const attendance: Attendance = {
      room,
      records: this.#recordsOf(key),
      member,
      fail: failed.reject,
      over: false,
      decisionsWaiting: 0,
      signals: new TokenBucket(SIGNALS_PER_SECOND_MAX, SIGNALS_AT_ONCE_MAX),
      more: new TokenBucket(PROGRESS_PER_SECOND_MAX, PROGRESS_PER_SECOND_MAX),
      deciding: Promise.resolve(),
    };
    failed.promise.catch(() => {});
    let reason = "left";
    try {
      await this.#record(attendance, "joined", "");
      this.#changed(room);
      void tellNewHold(member, sessionId, session.held === true, this.#options);
      const serving = this.#serve(attendance, reader);
      serving.catch(() => {});
      await Promise.race([serving, failed.promise]);
    } catch (error) {
      attendance.over = true;
      reason = messageOf(error);
      const code = error instanceof ProtocolError ? error.code : "INTERNAL";
      if (code === "INTERNAL")
        this.#options.log("error", "control stream failed", { ...fields, reason });
      else await refuse(member.stream, error);
    } finally {
      attendance.over = true;
      room.leave(member, "LINK_CLOSED", reason);
      if (room.empty) {
        await saveProgress(attendance, this.#options.store);
        if (room.empty && this.#rooms.get(key) === room) {
          this.#rooms.delete(key);
          room.dispose();
        }
      }
      this.#options.log("info", "peer left", { ...fields, reason });
      this.#changed(room);
    }
  }

  async #serve(attendance: Attendance, reader: MessageReader): Promise<void> {
    const { room, records, member } = attendance;
    let progressSavedAtMs = 0;
    let progressWindow = { startedAtMs: 0, count: 0 };
    for (;;) {
      const frame = await readFrame(reader, CONTROL_FRAME_BYTES_MAX);
      // What a connection that was replaced had sent before it heard of it counts for nothing.
      if (attendance.over || room.member(member.role) !== member) return;
      if (frame === null) return;
      if (frame.kind === "bye") return await records.settled(GOODBYE_PATIENCE_MS);
      const now = Date.now();
      member.heardAtMs = now;
      if (frame.kind === "progress") {
        if (now - progressWindow.startedAtMs >= 1000)
          progressWindow = { startedAtMs: now, count: 0 };
        if (++progressWindow.count > PROGRESS_PER_SECOND_MAX) continue;
        progressed(room, frame.progress, this.#note(attendance));
        this.#changed(room);
        if (now - progressSavedAtMs >= PROGRESS_SAVE_INTERVAL_MS) {
          progressSavedAtMs = now;
          await saveProgress(attendance, this.#options.store);
        }
        continue;
      }
      if (frame.kind === "progressMore") {
        if (member.role === "leecher" && attendance.more.take())
          learned(room, frame.more, this.#note(attendance));
        continue;
      }
      await this.#handle(attendance, frame);
    }
  }

  #note({ room, records, fail }: Attendance): Note {
    return (type, data) => {
      const write = (): Promise<void> => this.#options.store.addEvent(room.sessionId, type, data);
      void records.phases.put({ what: `event ${type}`, weight: 1, write, onRefused: fail });
    };
  }

  async #handle(attendance: Attendance, frame: Frame): Promise<void> {
    const { store } = this.#options;
    const { room, records, member, fail } = attendance;
    const { sessionId } = room;
    switch (frame.kind) {
      case "ping":
        // Who does not read its answers is not heard either.
        await writeFrame(member.stream, { kind: "pong", nonce: frame.nonce });
        return;
      case "signal":
        // A copy: the frame is a view of a piece that may be many times larger.
        if (attendance.signals.take()) room.signal(member.role, frame.payload.slice());
        return;
      case "renewPairing":
        if (attendance.signals.take()) room.renewPairing(frame.pairing);
        return;
      case "commit": {
        if (member.role !== "leecher") {
          throw new ProtocolError("FRAME_UNEXPECTED", "only a leecher commits");
        }
        this.#decide(attendance, "", () => store.commit(sessionId, frame.epoch));
        return;
      }
      case "revoke":
        this.#decide(attendance, frame.reason, async () => {
          await store.setState(sessionId, {
            by: member.role,
            state: "cancelled",
            reason: frame.reason,
          });
          return await store.owner(sessionId);
        });
        return;
      case "describe": {
        const { promise, resolve } = Promise.withResolvers<void>();
        records.described = promise;
        const taken = await records.phases.put({
          what: "describe",
          weight: 1,
          write: async () => {
            try {
              await store.describe(sessionId, member.role, frame);
              this.#changed(room);
            } finally {
              resolve();
            }
          },
          onRefused: fail,
        });
        if (!taken) resolve();
        return;
      }
      case "phase":
        if (!PHASES_OF[member.role].has(frame.state)) {
          throw new ProtocolError(
            "FRAME_UNEXPECTED",
            `a ${member.role} does not report this phase`,
          );
        }
        await this.#record(attendance, frame.state, frame.reason);
        return;
      case "indexSegment":
      case "indexDelta":
      case "indexRoot":
        await this.#index(attendance, frame);
        return;
      default:
        throw new ProtocolError("FRAME_UNEXPECTED", `${frame.kind} has no place here`);
    }
  }

  /**
   * A question whose answer decides about ownership, asked beside the stream that it came on: that one goes on. An
   * error is answered as one, to be asked again.
   */
  #decide(
    attendance: Attendance,
    reason: string,
    ask: () => Promise<{ owner: Role; ownerEpoch: number; state: SessionState }>,
  ): void {
    const { room, records, fail } = attendance;
    if (attendance.decisionsWaiting >= DECISIONS_WAITING_MAX) {
      throw new ProtocolError("LIMIT_EXCEEDED", "too many questions about the owner at once");
    }
    attendance.decisionsWaiting++;
    attendance.deciding = attendance.deciding.then(async () => {
      try {
        await records.phases.settled(DECISION_PATIENCE_MS);
        const { owner, ownerEpoch, state } = await ask();
        // Peers may have come back meanwhile, to another room.
        const now = this.#rooms.get(toHex(room.sessionId)) ?? room;
        now.broadcast({ kind: "owner", owner, ownerEpoch, state, reason });
        this.#changed(now);
      } catch (error) {
        this.#options.log("error", "ownership could not be decided", { reason: messageOf(error) });
        fail(
          new ProtocolError("RELAY_UNAVAILABLE", "the relay's database does not answer", {
            cause: error,
          }),
        );
      } finally {
        attendance.decisionsWaiting--;
      }
    });
  }

  async #index(
    { room, records, member, fail }: Attendance,
    frame: Extract<Frame, { kind: "indexSegment" | "indexDelta" | "indexRoot" }>,
  ): Promise<void> {
    if (member.role !== "seeder") {
      throw new ProtocolError("FRAME_UNEXPECTED", "only a seeder reports the index");
    }
    const { index } = this.#options.store;
    const { sessionId } = room;
    const { described } = records;
    const put = (bytes: number, write: () => Promise<void>): Promise<boolean> =>
      records.index.put({
        what: "index",
        weight: bytes,
        together: frame.kind === "indexSegment",
        write: async () => {
          await described;
          await write();
        },
        onRefused: fail,
      });
    if (frame.kind === "indexRoot") {
      const { epoch, root } = frame;
      await put(root.length, () => index.setRoot(sessionId, epoch, root));
      return;
    }
    // A copy: the frame is a view of a piece that may be many times larger.
    const bytes = (frame.kind === "indexSegment" ? frame.hashes : frame.entries).slice();
    await put(
      bytes.length,
      frame.kind === "indexSegment"
        ? () => index.putSegment(sessionId, frame.epoch, frame.segment, bytes)
        : () => index.appendDelta(sessionId, bytes),
    );
  }

  async #record(attendance: Attendance, state: SessionState, reason: string): Promise<void> {
    const { room, records, member, fail } = attendance;
    if (isEnded(state)) await saveProgress(attendance, this.#options.store);
    await records.phases.put({
      what: `phase ${state}`,
      weight: 1,
      // Nobody else would ever say that it is over.
      lasting: true,
      write: async () => {
        await this.#options.store.setState(room.sessionId, { by: member.role, state, reason });
        // To a source that has lost the way to a destination which will not come again.
        if (state === "done") await this.announce(room.sessionId);
        this.#changed(room);
      },
      onRefused: fail,
    });
  }

  #recordsOf(key: string): SessionRecords {
    const known = this.#records.get(key);
    if (known !== undefined) return known;
    const records = new SessionRecords(
      { phases: RECORDS_WAITING_MAX, indexBytes: INDEX_BYTES_WAITING_MAX },
      (what, reason) =>
        this.#options.log("warn", `${what} was not recorded`, { sessionId: key, reason }),
    );
    this.#records.set(key, records);
    return records;
  }

  /** Nobody is connected, and everything is written. */
  #forgetRecords(): void {
    for (const [key, records] of this.#records) {
      if (records.idle && !this.#rooms.has(key)) this.#records.delete(key);
    }
  }

  #dropSilent(): void {
    this.#forgetRecords();
    for (const room of this.#rooms.values()) {
      for (const member of room.members) {
        if (member.heardAtMs >= Date.now() - SILENCE_MAX_MS) continue;
        room.leave(member, "DEADLINE_EXCEEDED", "this peer is silent");
        this.#changed(room);
      }
    }
  }

  #changed(room: Room): void {
    for (const listener of this.#listeners) listener(room.sessionId);
  }
}
