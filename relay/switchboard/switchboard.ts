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
import type { Command, Frame, HelloFrame, Progress } from "../protocol/frame.ts";
import { proofMessage } from "../protocol/frame.ts";
import { messageOf, ProtocolError } from "../protocol/errors.ts";
import { CHALLENGE_BYTES, isEnded, STREAM_SECRET_BYTES, type Role } from "../protocol/ids.ts";
import type { SessionState } from "../protocol/ids.ts";
import {
  CONTROL_FRAME_BYTES_MAX,
  HEARTBEAT_MS,
  PREFACE_BYTES_MAX,
  PREFACE_DEADLINE_MS,
  PROGRESS_PER_SECOND_MAX,
} from "../protocol/limits.ts";
import { toHex } from "../protocol/bytes.ts";
import { MessageReader, readFrame, writeFrame } from "../protocol/message-stream.ts";
import type { ByteStream, LinkKind } from "../protocol/stream.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../protocol/version.ts";
import type { IncomingStream } from "../transport/transport.ts";
import { Room, send, type Member, type OnBytes } from "./room.ts";
import type { JoinedSession, SessionStore } from "./session-store.ts";

/** Progress reaches the database at most this often; the API shows what is in memory. */
const PROGRESS_SAVE_INTERVAL_MS = 5_000;

/** Phases that each role may report; the relay itself records `joined` and `committed`. */
const PHASES_OF: Record<Role, ReadonlySet<SessionState>> = {
  seeder: new Set(["tracking", "precopy", "suspended", "failed"]),
  leecher: new Set(["finalizing", "postcopy", "paused", "done", "failed"]),
};

export interface SwitchboardOptions {
  readonly store: SessionStore;
  readonly log: (
    level: "debug" | "info" | "warn" | "error",
    message: string,
    fields: Record<string, unknown>,
  ) => void;
  readonly onHandshakeFailure?: (code: string) => void;
  readonly onBytes?: OnBytes;
}

/** What is known of a session only while somebody is connected. */
export interface LiveSession {
  readonly seeder: LivePeer | undefined;
  readonly leecher: LivePeer | undefined;
  readonly progress: Progress | undefined;
  readonly bytesFrom: Readonly<Record<Role, number>>;
}

export interface LivePeer {
  readonly link: LinkKind;
  readonly remoteAddress: string;
  readonly joinedAtMs: number;
}

export class Switchboard {
  readonly #options: SwitchboardOptions;
  readonly #rooms = new Map<string, Room>();
  readonly #listeners = new Set<(sessionId: Uint8Array) => void>();
  readonly #sweep: ReturnType<typeof setInterval>;
  #closed = false;

  constructor(options: SwitchboardOptions) {
    this.#options = options;
    this.#sweep = setInterval(() => this.#dropSilent(), HEARTBEAT_MS);
  }

  /** Takes a stream over. Never throws. */
  accept(incoming: IncomingStream): void {
    this.#admit(incoming).catch((error: unknown) => {
      const code = error instanceof ProtocolError ? error.code : "INTERNAL";
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
    if (room === undefined) return false;
    if (command === "finalize") {
      const leecher = room.member("leecher");
      if (leecher === undefined) return false;
      send(leecher, { kind: "command", command, reason });
      return true;
    }
    room.broadcast({ kind: "command", command, reason });
    return true;
  }

  /** Tells connected peers who owns the region now, e.g. after the API cancelled the session. */
  async announce(sessionId: Uint8Array, reason = ""): Promise<void> {
    const room = this.#rooms.get(toHex(sessionId));
    if (room === undefined) return;
    const outcome = await this.#options.store.owner(sessionId);
    const { owner, ownerEpoch, state } = outcome;
    room.broadcast({ kind: "owner", owner, ownerEpoch, state, reason });
  }

  live(sessionId: Uint8Array): LiveSession | undefined {
    const room = this.#rooms.get(toHex(sessionId));
    if (room === undefined) return undefined;
    return {
      seeder: livePeer(room.member("seeder")),
      leecher: livePeer(room.member("leecher")),
      progress: room.progress,
      bytesFrom: room.bytesFrom,
    };
  }

  get liveSessionCount(): number {
    return this.#rooms.size;
  }

  /** Calls back with the session whose live state or record changed. @returns Stops it. */
  onChange(listener: (sessionId: Uint8Array) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Lets everybody go. Peers come back elsewhere or later. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#sweep);
    for (const room of this.#rooms.values())
      room.close("RELAY_DRAINING", "the relay is going down");
    this.#rooms.clear();
  }

  async #admit(incoming: IncomingStream): Promise<void> {
    if (this.#closed) throw new ProtocolError("RELAY_DRAINING", "the relay is going down");
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
        return;
      }
      if (frame?.kind !== "hello") {
        throw new ProtocolError("FRAME_UNEXPECTED", "a stream begins with hello or stream");
      }
      const session = await this.#join(frame, incoming, reader);
      clearTimeout(deadline);
      await this.#attend(frame, session, incoming, reader);
    } finally {
      clearTimeout(deadline);
    }
  }

  async #join(
    hello: HelloFrame,
    incoming: IncomingStream,
    reader: MessageReader,
  ): Promise<JoinedSession> {
    if (hello.major !== PROTOCOL_MAJOR) {
      throw new ProtocolError(
        "VERSION_UNSUPPORTED",
        `this relay speaks version ${PROTOCOL_MAJOR} of the relay protocol and the peer ${hello.major}: install the same major version on both`,
      );
    }
    const { sessionId, role, peerKey, token } = hello;
    if (token !== undefined) {
      return await this.#options.store.useTicket({ sessionId, role, token, peerKey });
    }
    const challenge = randomBytes(CHALLENGE_BYTES);
    await writeFrame(incoming.stream, { kind: "challenge", challenge });
    const proof = await readFrame(reader, PREFACE_BYTES_MAX);
    if (proof?.kind !== "proof") throw new ProtocolError("FRAME_UNEXPECTED", "a proof was due");
    const message = proofMessage(challenge, sessionId, role);
    if (!(await verifies(peerKey, proof.signature, message))) {
      throw new ProtocolError("PROOF_INVALID", "the signature is not this peer key's");
    }
    return await this.#options.store.rejoin({ sessionId, role, peerKey });
  }

  /** Serves one peer's control stream until it ends. */
  async #attend(
    hello: HelloFrame,
    session: JoinedSession,
    incoming: IncomingStream,
    reader: MessageReader,
  ): Promise<void> {
    const { sessionId, role, peerKey } = hello;
    const now = Date.now();
    const member: Member = {
      role,
      peerKey,
      stream: incoming.stream,
      kind: incoming.kind,
      remoteAddress: incoming.remoteAddress,
      streamSecret: randomBytes(STREAM_SECRET_BYTES),
      joinedAtMs: now,
      heardAtMs: now,
    };
    await writeFrame(member.stream, {
      kind: "welcome",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
      features: 0,
      streamSecret: member.streamSecret,
      owner: session.owner,
      ownerEpoch: session.ownerEpoch,
      state: session.state,
    });
    const key = toHex(sessionId);
    let room = this.#rooms.get(key);
    if (room === undefined) {
      room = new Room(sessionId.slice(), this.#options.onBytes);
      this.#rooms.set(key, room);
    }
    room.enter(member);
    const fields = { sessionId: key, role, link: incoming.kind };
    this.#options.log("info", "peer joined", fields);
    await this.#record(room, "joined", role, "");
    this.#changed(room);
    let reason = "left";
    try {
      await this.#serve(room, member, reader);
    } catch (error) {
      reason = messageOf(error);
      const code = error instanceof ProtocolError ? error.code : "INTERNAL";
      if (code === "INTERNAL")
        this.#options.log("error", "control stream failed", { ...fields, reason });
      else await refuse(member.stream, error);
    } finally {
      room.leave(member, "LINK_CLOSED", reason);
      if (room.empty) {
        await this.#saveProgress(room);
        if (room.empty && this.#rooms.get(key) === room) this.#rooms.delete(key);
      }
      this.#options.log("info", "peer left", { ...fields, reason });
      this.#changed(room);
    }
  }

  async #serve(room: Room, member: Member, reader: MessageReader): Promise<void> {
    let progressSavedAtMs = 0;
    let progressWindow = { startedAtMs: 0, count: 0 };
    for (;;) {
      const frame = await readFrame(reader, CONTROL_FRAME_BYTES_MAX);
      if (frame === null || frame.kind === "bye") return;
      const now = Date.now();
      member.heardAtMs = now;
      if (frame.kind === "progress") {
        if (now - progressWindow.startedAtMs >= 1000)
          progressWindow = { startedAtMs: now, count: 0 };
        if (++progressWindow.count > PROGRESS_PER_SECOND_MAX) continue;
        room.progress = frame.progress;
        this.#changed(room);
        if (now - progressSavedAtMs >= PROGRESS_SAVE_INTERVAL_MS) {
          progressSavedAtMs = now;
          await this.#saveProgress(room);
        }
        continue;
      }
      await this.#handle(room, member, frame);
    }
  }

  async #handle(room: Room, member: Member, frame: Frame): Promise<void> {
    const { store } = this.#options;
    const { sessionId } = room;
    switch (frame.kind) {
      case "ping":
        send(member, { kind: "pong", nonce: frame.nonce });
        return;
      case "commit": {
        if (member.role !== "leecher") {
          throw new ProtocolError("FRAME_UNEXPECTED", "only a leecher commits");
        }
        await this.#decide(room, "", () => store.commit(sessionId, frame.epoch));
        return;
      }
      case "revoke":
        await this.#decide(room, frame.reason, async () => {
          await store.setState(sessionId, {
            by: member.role,
            state: "cancelled",
            reason: frame.reason,
          });
          return await store.owner(sessionId);
        });
        return;
      case "describe":
        await this.#optional("describe", () => store.describe(sessionId, member.role, frame));
        this.#changed(room);
        return;
      case "phase":
        if (!PHASES_OF[member.role].has(frame.state)) {
          throw new ProtocolError(
            "FRAME_UNEXPECTED",
            `a ${member.role} does not report this phase`,
          );
        }
        await this.#record(room, frame.state, member.role, frame.reason);
        this.#changed(room);
        return;
      case "indexSegment":
      case "indexDelta":
      case "indexRoot":
        await this.#optional("index", () => this.#index(room, member, frame));
        return;
      default:
        throw new ProtocolError("FRAME_UNEXPECTED", `${frame.kind} has no place here`);
    }
  }

  /** A question whose answer decides about ownership: an error is answered as one, to be asked again. */
  async #decide(
    room: Room,
    reason: string,
    ask: () => Promise<{ owner: Role; ownerEpoch: number; state: SessionState }>,
  ): Promise<void> {
    try {
      const { owner, ownerEpoch, state } = await ask();
      room.broadcast({ kind: "owner", owner, ownerEpoch, state, reason });
      this.#changed(room);
    } catch (error) {
      this.#options.log("error", "ownership could not be decided", { reason: messageOf(error) });
      throw new ProtocolError("RELAY_UNAVAILABLE", "the relay's database does not answer", {
        cause: error,
      });
    }
  }

  async #index(
    room: Room,
    member: Member,
    frame: Extract<Frame, { kind: "indexSegment" | "indexDelta" | "indexRoot" }>,
  ): Promise<void> {
    if (member.role !== "seeder") {
      throw new ProtocolError("FRAME_UNEXPECTED", "only a seeder reports the index");
    }
    const { index } = this.#options.store;
    if (frame.kind === "indexSegment") {
      await index.putSegment(room.sessionId, frame.epoch, frame.segment, frame.hashes);
    } else if (frame.kind === "indexDelta") {
      await index.appendDelta(room.sessionId, frame.entries);
    } else {
      await index.setRoot(room.sessionId, frame.epoch, frame.root);
    }
  }

  async #record(room: Room, state: SessionState, by: Role, reason: string): Promise<void> {
    if (isEnded(state)) await this.#saveProgress(room);
    await this.#optional("phase", async () => {
      await this.#options.store.setState(room.sessionId, { by, state, reason });
    });
  }

  async #saveProgress(room: Room): Promise<void> {
    const { progress } = room;
    if (progress === undefined) return;
    await this.#optional("progress", () =>
      this.#options.store.saveProgress(room.sessionId, progress),
    );
  }

  /** Something that migrations do without: a database that is down must not stop bytes from moving. */
  async #optional(what: string, write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      this.#options.log("warn", `${what} was not recorded`, { reason: messageOf(error) });
    }
  }

  #dropSilent(): void {
    const oldest = Date.now() - 3 * HEARTBEAT_MS;
    for (const room of this.#rooms.values()) {
      for (const role of ["seeder", "leecher"] as const) {
        const member = room.member(role);
        if (member !== undefined && member.heardAtMs < oldest) {
          room.leave(member, "DEADLINE_EXCEEDED", "this peer is silent");
          this.#changed(room);
        }
      }
    }
  }

  #changed(room: Room): void {
    for (const listener of this.#listeners) listener(room.sessionId);
  }
}

function livePeer(member: Member | undefined): LivePeer | undefined {
  if (member === undefined) return undefined;
  const { kind, remoteAddress, joinedAtMs } = member;
  return { link: kind, remoteAddress, joinedAtMs };
}

/** How long a refused peer has to read why. */
const REFUSAL_LINGER_MS = 2_000;

/** Says why, then drops the stream. */
async function refuse(stream: ByteStream, error: unknown): Promise<void> {
  const code = error instanceof ProtocolError ? error.code : "INTERNAL";
  const message = error instanceof ProtocolError ? error.message : "an internal error";
  const retryable = code === "RELAY_UNAVAILABLE" || code === "RELAY_DRAINING";
  try {
    await writeFrame(stream, { kind: "error", code, retryable, message });
    await stream.end();
    const linger = setTimeout(() => stream.abort(code, message), REFUSAL_LINGER_MS);
    await stream.closed;
    clearTimeout(linger);
  } catch {
    // The peer is gone: nobody is left to be told.
    stream.abort(code, message);
  }
}

async function verifies(
  publicKey: Uint8Array,
  signature: Uint8Array,
  message: Uint8Array,
): Promise<boolean> {
  try {
    const raw = Uint8Array.from(publicKey);
    const key = await crypto.subtle.importKey("raw", raw, "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify(
      "Ed25519",
      key,
      Uint8Array.from(signature),
      Uint8Array.from(message),
    );
  } catch {
    // Not a key, or not a signature: which it is does not matter to who is refused.
    return false;
  }
}
