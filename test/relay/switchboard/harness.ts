/**
 * A switchboard with a store that can stand still, and peers that say what a test wants.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import type { Link } from "../../../peer/net/link.ts";
import { PeerIdentity } from "../../../peer/net/peer-identity.ts";
import { encodeFrame, type Frame, type WelcomeFrame } from "../../../relay/protocol/frame.ts";
import type { Role } from "../../../relay/protocol/ids.ts";
import { MessageReader, readFrame } from "../../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../../relay/protocol/version.ts";
import type { IndexStore, SessionStore } from "../../../relay/switchboard/session-store.ts";
import { MemorySessionStore } from "../../support/memory-session-store.ts";

type Question = Exclude<keyof SessionStore, "index"> | keyof IndexStore;

/** Every question passes a gate of its name, which a test may close, break, or make forget the answer. */
export class GatedStore implements SessionStore {
  readonly inner = new MemorySessionStore();
  readonly asked: Question[] = [];
  readonly #closed = new Map<
    Question,
    { readonly opened: Promise<void>; readonly open: () => void }
  >();
  readonly #next = new Map<Question, Promise<void>>();
  readonly #refused = new Set<Question>();
  readonly #mute = new Set<Question>();

  freeze(...questions: Question[]): void {
    for (const question of questions) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#closed.set(question, { opened: promise, open: resolve });
    }
  }

  /** Holds the next question alone. @returns Lets it go on. */
  freezeNext(question: Question): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#next.set(question, promise);
    return resolve;
  }

  thaw(): void {
    for (const { open } of this.#closed.values()) open();
    this.#closed.clear();
  }

  /** Not carried out, and an error. */
  refuse(...questions: Question[]): void {
    for (const question of questions) this.#refused.add(question);
  }

  /** Carried out, and the answer is lost. */
  mute(...questions: Question[]): void {
    for (const question of questions) this.#mute.add(question);
  }

  heal(): void {
    this.#refused.clear();
    this.#mute.clear();
  }

  async #gate<T>(question: Question, ask: () => Promise<T>): Promise<T> {
    this.asked.push(question);
    const held = this.#next.get(question);
    this.#next.delete(question);
    await held;
    await this.#closed.get(question)?.opened;
    if (this.#refused.has(question)) throw new Error("the database does not answer");
    const answer = await ask();
    if (this.#mute.has(question)) throw new Error("the connection to the database was lost");
    return answer;
  }

  useTicket: SessionStore["useTicket"] = (join) =>
    this.#gate("useTicket", () => this.inner.useTicket(join));
  rejoin: SessionStore["rejoin"] = (peer) => this.#gate("rejoin", () => this.inner.rejoin(peer));
  commit: SessionStore["commit"] = (id, epoch) =>
    this.#gate("commit", () => this.inner.commit(id, epoch));
  owner: SessionStore["owner"] = (id) => this.#gate("owner", () => this.inner.owner(id));
  describe: SessionStore["describe"] = () => this.#gate("describe", () => this.inner.describe());
  setState: SessionStore["setState"] = (id, change) =>
    this.#gate("setState", () => this.inner.setState(id, change));
  saveProgress: SessionStore["saveProgress"] = () =>
    this.#gate("saveProgress", () => this.inner.saveProgress());
  addEvent: SessionStore["addEvent"] = () => this.#gate("addEvent", () => this.inner.addEvent());

  readonly index: IndexStore = {
    putSegment: (id, epoch, segment, hashes) =>
      this.#gate("putSegment", () => this.inner.index.putSegment(id, epoch, segment, hashes)),
    appendDelta: (id, entries) =>
      this.#gate("appendDelta", () => this.inner.index.appendDelta(id, entries)),
    setRoot: (id, epoch, root) =>
      this.#gate("setRoot", () => this.inner.index.setRoot(id, epoch, root)),
    read: (id, first, count) => this.inner.index.read(id, first, count),
  };
}

export interface TestSession {
  readonly sessionId: Uint8Array;
  readonly tokens: Record<Role, Uint8Array>;
}

export function makeSession(store: GatedStore): TestSession {
  const session = {
    sessionId: randomBytes(16),
    tokens: { seeder: randomBytes(32), leecher: randomBytes(32) },
  };
  store.inner.create(session.sessionId, session.tokens);
  return session;
}

/** A peer by hand: one control stream. */
export class RawPeer {
  readonly link: Link;
  readonly stream: ByteStream;
  readonly session: TestSession;
  readonly role: Role;
  readonly identity: PeerIdentity;
  welcome: WelcomeFrame | undefined;
  pairing = 0;
  readonly #reader: MessageReader;

  private constructor(
    link: Link,
    stream: ByteStream,
    own: { readonly session: TestSession; readonly role: Role; readonly identity: PeerIdentity },
  ) {
    this.link = link;
    this.stream = stream;
    this.session = own.session;
    this.role = own.role;
    this.identity = own.identity;
    this.#reader = new MessageReader(stream);
  }

  static async open(
    link: Link,
    session: TestSession,
    role: Role,
    identity = PeerIdentity.generate(),
  ): Promise<RawPeer> {
    return new RawPeer(link, await link.openStream(), { session, role, identity });
  }

  /** @param token Without it, by proof. */
  async hello(token?: Uint8Array, peerKey = this.identity.publicKey): Promise<void> {
    await this.send({
      kind: "hello",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
      features: 0,
      role: this.role,
      sessionId: this.session.sessionId,
      peerKey,
      token,
    });
  }

  async prove(): Promise<void> {
    const { challenge } = await this.until("challenge");
    const { sessionId } = this.session;
    await this.send({
      kind: "proof",
      signature: this.identity.prove(challenge, sessionId, this.role),
    });
  }

  async join(): Promise<this> {
    await this.hello(this.session.tokens[this.role]);
    this.welcome = await this.until("welcome");
    return this;
  }

  async rejoin(): Promise<this> {
    await this.hello();
    await this.prove();
    this.welcome = await this.until("welcome");
    return this;
  }

  /** All of them as one piece. */
  async send(...frames: Frame[]): Promise<void> {
    await this.stream.write(Uint8Array.from(Buffer.concat(frames.map((one) => encodeFrame(one)))));
  }

  async next(): Promise<Frame | null> {
    const frame = await readFrame(this.#reader, 1 << 20);
    if (frame?.kind === "peer" && frame.present) this.pairing = frame.pairing;
    return frame;
  }

  /** The next frame of a kind; others are passed over, except an error where none is due. */
  async until<K extends Frame["kind"]>(kind: K): Promise<Extract<Frame, { kind: K }>> {
    for (;;) {
      const frame = await this.next();
      if (frame === null) throw new Error(`the relay closed in place of ${kind}`);
      // The kind is what tells the frames of the union apart.
      if (frame.kind === kind) return frame as Extract<Frame, { kind: K }>;
      if (frame.kind === "error") throw new Error(`${frame.code} in place of ${kind}`);
    }
  }

  async paired(): Promise<void> {
    while (this.pairing === 0) await this.until("peer");
  }

  async openStream(streamIndex: number): Promise<ByteStream> {
    const stream = await this.link.openStream();
    await stream.write(
      encodeFrame({
        kind: "stream",
        sessionId: this.session.sessionId,
        role: this.role,
        streamSecret: this.welcome?.streamSecret ?? new Uint8Array(16),
        pairing: this.pairing,
        streamIndex,
      }),
    );
    return stream;
  }
}
