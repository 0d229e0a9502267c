/**
 * One session's peers while they are connected, and the streams that join them.
 *
 * @module
 */
import { timingSafeEqual } from "node:crypto";
import type {
  CommandFrame,
  Progress,
  ProgressMore,
  RelayToPeerFrame,
  SessionTerms,
  StreamFrame,
} from "../protocol/frame.ts";
import { ProtocolError, type ProtocolErrorCode } from "../protocol/errors.ts";
import { ROLES, type Role } from "../protocol/ids.ts";
import { STREAM_PAIRING_DEADLINE_MS, STREAMS_PER_PAIRING_MAX } from "../protocol/limits.ts";
import { writeFrame } from "../protocol/message-stream.ts";
import type { ByteStream, LinkKind } from "../protocol/stream.ts";
import { FEATURES } from "../protocol/version.ts";
import type { SessionBuffers } from "./buffers.ts";
import type { Flow } from "./fair-share.ts";
import { splice, type SpliceEnd } from "./splice.ts";

/** One peer's control stream. */
export interface Member {
  readonly role: Role;
  readonly stream: ByteStream;
  readonly kind: LinkKind;
  readonly remoteAddress: string;
  readonly peerKey: Uint8Array;
  /** What its `hello` said. */
  readonly features: number;
  readonly streamSecret: Uint8Array;
  readonly joinedAtMs: number;
  /** Counts the streams that this relay took: of two connections of a peer, the later one is the peer's own idea. */
  readonly arrival: number;
  heardAtMs: number;
}

/** What of a peer is shown in the API. */
export interface LivePeer {
  readonly link: LinkKind;
  readonly remoteAddress: string;
  readonly joinedAtMs: number;
  /** Whether it understands every command. */
  readonly takesCommands?: boolean;
}

export type RoomPath = LinkKind | "mixed";

/** Bytes were passed on from this side, over this kind of link. */
export type OnBytes = (from: Role, link: LinkKind, count: number) => void;

export interface RoomOptions {
  readonly onBytes?: OnBytes | undefined;
  /** Holds bytes back; undefined where nobody shares. */
  readonly flow?: Flow | undefined;
  readonly buffers?: SessionBuffers | undefined;
}

/** Control of the two peers, and what a workload waits for. */
const URGENT_STREAMS = 2;

interface Waiting {
  readonly role: Role;
  readonly end: SpliceEnd;
  readonly timer: ReturnType<typeof setTimeout>;
}

export class Room {
  readonly sessionId: Uint8Array;
  readonly #members: Partial<Record<Role, Member>> = {};
  #pairing = 0;
  /** Streams whose twin has not come yet, by index. */
  readonly #waiting = new Map<number, Waiting>();
  readonly #spliced = new Map<number, readonly [ByteStream, ByteStream]>();
  readonly bytesFrom: Record<Role, number> = { seeder: 0, leecher: 0 };
  progress: Progress | undefined;
  more: ProgressMore | undefined;
  /** When something last moved, by the leecher's word or through this relay. */
  movedAtMs = Date.now();

  readonly #options: RoomOptions;

  constructor(sessionId: Uint8Array, options: RoomOptions = {}) {
    this.sessionId = sessionId;
    this.#options = options;
  }

  /** Changes the session's own rate; 0 for none. */
  setBytesPerS(bytesPerS: number): void {
    if (this.#options.flow !== undefined) this.#options.flow.bytesPerS = bytesPerS;
  }

  member(role: Role): Member | undefined {
    return this.#members[role];
  }

  livePeer(role: Role): LivePeer | undefined {
    const member = this.#members[role];
    if (member === undefined) return undefined;
    const { kind, remoteAddress, joinedAtMs } = member;
    const takesCommands = (member.features & FEATURES.commands) !== 0;
    return { link: kind, remoteAddress, joinedAtMs, takesCommands };
  }

  /** Which of the two ways the peers are here by; undefined while one is missing. */
  get path(): RoomPath | undefined {
    const { seeder, leecher } = this.#members;
    if (seeder === undefined || leecher === undefined) return undefined;
    return seeder.kind === leecher.kind ? seeder.kind : "mixed";
  }

  /** Counts how often both peers were here. */
  get pairing(): number {
    return this.#pairing;
  }

  /** What streams hold for a side that is slow. */
  get queuedBytes(): number {
    let bytes = 0;
    for (const ends of this.#spliced.values()) {
      for (const stream of ends) bytes += stream.queuedBytes ?? 0;
    }
    for (const { end } of this.#waiting.values()) bytes += end.stream.queuedBytes ?? 0;
    return bytes;
  }

  get empty(): boolean {
    return this.#members.seeder === undefined && this.#members.leecher === undefined;
  }

  /**
   * Takes a peer in. An earlier connection of the same peer gives way: only the key's holder gets here.
   *
   * @throws ProtocolError `ROLE_TAKEN` if this one is the earlier: it was held up, and the peer has left it.
   */
  enter(member: Member): void {
    const earlier = this.#members[member.role];
    if (earlier !== undefined && earlier.arrival > member.arrival) {
      throw new ProtocolError("ROLE_TAKEN", "a later connection of this peer is here");
    }
    if (earlier !== undefined) this.leave(earlier, "ROLE_TAKEN", "this peer connected again");
    this.#members[member.role] = member;
    if (this.#members.seeder !== undefined && this.#members.leecher !== undefined) {
      this.#pairing++;
      this.broadcast({ kind: "peer", present: true, pairing: this.#pairing });
    } else {
      send(member, { kind: "peer", present: false, pairing: this.#pairing });
    }
  }

  /** Lets a peer go, with all its streams. Does nothing for a connection that was replaced before. */
  leave(member: Member, code: ProtocolErrorCode, reason: string): void {
    member.stream.abort(code, reason);
    if (this.#members[member.role] !== member) return;
    delete this.#members[member.role];
    this.#dropStreams("PEER_GONE", `the ${member.role} is gone`);
    this.broadcast({ kind: "peer", present: false, pairing: this.#pairing });
  }

  broadcast(frame: RelayToPeerFrame): void {
    if (this.#members.seeder !== undefined) send(this.#members.seeder, frame);
    if (this.#members.leecher !== undefined) send(this.#members.leecher, frame);
  }

  /**
   * Joins a stream to its twin, or keeps it until the twin comes.
   *
   * @throws ProtocolError `PEER_UNKNOWN`, `STREAM_UNPAIRED`, `LIMIT_EXCEEDED`
   */
  addStream(frame: StreamFrame, end: SpliceEnd): void {
    const member = this.#members[frame.role];
    if (member === undefined || !timingSafeEqual(member.streamSecret, frame.streamSecret)) {
      throw new ProtocolError("PEER_UNKNOWN", "no peer with this stream secret is connected");
    }
    const twin = this.#members[other(frame.role)];
    if (frame.pairing !== this.#pairing || twin === undefined) {
      throw new ProtocolError("STREAM_UNPAIRED", "this pairing of the two peers is over");
    }
    if (frame.streamIndex >= STREAMS_PER_PAIRING_MAX || this.#spliced.has(frame.streamIndex)) {
      throw new ProtocolError("LIMIT_EXCEEDED", `stream ${frame.streamIndex} is not free`);
    }
    const waiting = this.#waiting.get(frame.streamIndex);
    if (waiting === undefined) {
      const timer = setTimeout(() => {
        this.#waiting.delete(frame.streamIndex);
        end.stream.abort("STREAM_UNPAIRED", "the other peer did not open this stream");
      }, STREAM_PAIRING_DEADLINE_MS);
      const entry = { role: frame.role, end, timer };
      this.#waiting.set(frame.streamIndex, entry);
      // Nobody reads it yet: left here, a dead stream would take its next twin with it, and that one the next.
      void end.stream.closed.then(() => {
        if (this.#waiting.get(frame.streamIndex) !== entry) return;
        clearTimeout(timer);
        this.#waiting.delete(frame.streamIndex);
      });
      return;
    }
    if (waiting.role === frame.role) {
      throw new ProtocolError("LIMIT_EXCEEDED", `stream ${frame.streamIndex} is open already`);
    }
    clearTimeout(waiting.timer);
    this.#waiting.delete(frame.streamIndex);
    const ends = [waiting.end.stream, end.stream] as const;
    this.#spliced.set(frame.streamIndex, ends);
    const { onBytes, flow, buffers } = this.#options;
    if (buffers !== undefined) {
      buffers.count(1);
      for (const stream of ends) stream.setBufferBound?.(buffers);
    }
    const urgent = frame.streamIndex < URGENT_STREAMS;
    const passedOn = (from: "a" | "b", count: number): void => {
      const role = from === "a" ? waiting.role : frame.role;
      this.bytesFrom[role] += count;
      onBytes?.(role, role === member.role ? member.kind : twin.kind, count);
    };
    const gate = flow === undefined ? undefined : (count: number) => flow.take(count, urgent);
    void splice(waiting.end, end, passedOn, gate).then(() => {
      buffers?.count(-1);
      if (this.#spliced.get(frame.streamIndex) === ends) this.#spliced.delete(frame.streamIndex);
    });
  }

  /** To whoever of `roles` is there and understands it. @returns Whether somebody is. */
  command(frame: CommandFrame, roles: readonly Role[]): boolean {
    let told = false;
    for (const role of roles) {
      const member = this.#members[role];
      const isOld = frame.command === "finalize" || frame.command === "cancel";
      if (member === undefined || !(isOld || (member.features & FEATURES.commands) !== 0)) continue;
      send(member, frame);
      told = true;
    }
    return told;
  }

  setTerms(terms: SessionTerms): void {
    for (const member of this.members) {
      if ((member.features & FEATURES.commands) !== 0) send(member, { kind: "terms", terms });
    }
  }

  /** Who is connected. */
  get members(): Member[] {
    return ROLES.flatMap((role) => this.#members[role] ?? []);
  }

  /** The peers have left the streams of this pairing and want to begin afresh; said late, or twice, it does nothing. */
  renewPairing(pairing = this.#pairing): boolean {
    const { seeder, leecher } = this.#members;
    if (pairing !== this.#pairing || seeder === undefined || leecher === undefined) return false;
    this.#dropStreams("PEER_GONE", "the peers begin afresh");
    this.#pairing++;
    this.broadcast({ kind: "peer", present: true, pairing: this.#pairing });
    return true;
  }

  /** Passes a signal on, if the other peer can make something of it. */
  signal(from: Role, payload: Uint8Array): void {
    const twin = this.#members[other(from)];
    if (twin === undefined || (twin.features & FEATURES.direct) === 0) return;
    send(twin, { kind: "peerSignal", payload });
  }

  /**
   * Tells each peer when to leave and come back, not all at the same time. Until then the data goes on.
   *
   * @param reconnectInMs Asked once for each peer.
   * @returns Resolves when they have left.
   */
  async goAway(reconnectInMs: () => number, tryForMs: number): Promise<void> {
    await Promise.all(
      Object.values(this.#members).map(async ({ stream }) => {
        try {
          await writeFrame(stream, { kind: "goAway", reconnectInMs: reconnectInMs(), tryForMs });
        } catch {
          // It has left without being told.
        }
        await stream.closed;
      }),
    );
  }

  close(code: ProtocolErrorCode, reason: string): void {
    this.#dropStreams(code, reason);
    for (const member of Object.values(this.#members)) member.stream.abort(code, reason);
  }

  /** Nobody will come back to it. */
  dispose(): void {
    this.#options.flow?.close();
  }

  #dropStreams(code: ProtocolErrorCode, reason: string): void {
    for (const { end, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      end.stream.abort(code, reason);
    }
    this.#waiting.clear();
    for (const ends of this.#spliced.values())
      for (const stream of ends) stream.abort(code, reason);
    this.#spliced.clear();
  }
}

export function send(member: Member, frame: RelayToPeerFrame): void {
  writeFrame(member.stream, frame).catch(() => {
    // Its own read loop sees the loss and lets the member go.
  });
}

export function other(role: Role): Role {
  return role === "seeder" ? "leecher" : "seeder";
}
