/**
 * An NBD client that says exactly what it is told to, also what no client should.
 */
import { connect, type Socket } from "node:net";

import type { NbdAddress } from "../../../native/index.ts";

export const MAGIC = {
  option: 0x49484156454f5054n,
  optionReply: 0x0003e889045565a9n,
  request: 0x25609513,
  extendedRequest: 0x21e41c71,
  simple: 0x67446698,
  structured: 0x668e33ef,
  extended: 0x6e8a278c,
} as const;

export const OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structured: 8,
  listMeta: 9,
  setMeta: 10,
  extendedHeaders: 11,
} as const;

export const COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const FLAG = {
  fua: 1,
  noHole: 2,
  df: 4,
  reqOne: 8,
  fastZero: 16,
  payloadLength: 32,
} as const;

export const REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  tooBig: 0x80000009,
} as const;

export const ERROR = {
  none: 0,
  perm: 1,
  io: 5,
  inval: 22,
  nospc: 28,
  overflow: 75,
  notsup: 95,
  shutdown: 108,
};

export interface OptionAnswer {
  readonly type: number;
  readonly body: Buffer;
}

/** One reply, its chunks put together. */
export interface Answer {
  readonly error: number;
  /** Of a READ, at their place in it; `undefined` where nothing was sent. */
  readonly data: Buffer;
  readonly holes: number;
  readonly chunks: number;
  /** By context: length and flags, alternating. */
  readonly status: ReadonlyMap<number, bigint[]>;
}

interface Waiting {
  readonly bytes: number;
  readonly resolve: (bytes: Buffer) => void;
  readonly reject: (error: Error) => void;
}

interface Asked {
  readonly offset: bigint;
  readonly data: Buffer;
  holes: number;
  chunks: number;
  error: number;
  readonly status: Map<number, bigint[]>;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export interface RequestOptions {
  readonly command: number;
  readonly offset?: number | bigint;
  readonly length?: number | bigint;
  readonly flags?: number;
  readonly payload?: Uint8Array;
}

export class NbdClient {
  readonly socket: Socket;
  /** Settles when the server has closed. */
  readonly closed: Promise<void>;
  structured = false;
  extended = false;
  size = 0n;
  transmissionFlags = 0;
  readonly #asked = new Map<bigint, Asked>();
  #received = Buffer.alloc(0);
  readonly #pending: Buffer[] = [];
  #pendingBytes = 0;
  #needed = 0;
  #waiting: Waiting | undefined;
  #cookie = 0n;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => undefined); // "close" follows
    socket.on("data", (bytes: Buffer) => {
      this.#pending.push(bytes);
      this.#pendingBytes += bytes.length;
      // Put together when it is enough: a large reply comes in thousands of pieces.
      if (this.#received.length + this.#pendingBytes < this.#needed) return;
      this.#received = Buffer.concat([this.#received, ...this.#pending.splice(0)]);
      this.#pendingBytes = 0;
      this.#serve();
    });
    void this.closed.then(() => this.#fail(new Error("the server closed the connection")));
  }

  static async connect(address: NbdAddress): Promise<NbdClient> {
    const socket = "path" in address ? connect(address.path) : connect(address.port, address.host);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new NbdClient(socket);
  }

  /** Greets, and goes to `name` with what is asked for. */
  static async open(
    address: NbdAddress,
    name = "",
    { structured = true, extended = false, contexts = [] as readonly string[] } = {},
  ): Promise<NbdClient> {
    const client = await NbdClient.connect(address);
    await client.greet();
    if (extended) {
      await client.option(OPTION.extendedHeaders);
      client.extended = true;
    } else if (structured) {
      await client.option(OPTION.structured);
    }
    client.structured = structured || extended;
    if (contexts.length > 0) await client.option(OPTION.setMeta, metaBody(name, contexts));
    await client.go(name);
    return client;
  }

  async greet(flags = 3): Promise<void> {
    const greeting = await this.receive(18);
    if (greeting.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") throw new Error("not newstyle");
    const out = Buffer.alloc(4);
    out.writeUInt32BE(flags);
    this.socket.write(out);
  }

  /** Sends an option; answers every reply up to and with the one that ends it. */
  async option(option: number, body: Uint8Array = Buffer.alloc(0)): Promise<OptionAnswer[]> {
    const head = Buffer.alloc(16);
    head.writeBigUInt64BE(MAGIC.option);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(body.length, 12);
    this.socket.write(Buffer.concat([head, body]));
    const answers: OptionAnswer[] = [];
    for (;;) {
      const reply = await this.receive(20);
      if (reply.readBigUInt64BE() !== MAGIC.optionReply) throw new Error("no option reply");
      if (reply.readUInt32BE(8) !== option) throw new Error("a reply to another option");
      const type = reply.readUInt32BE(12);
      answers.push({ type, body: await this.receive(reply.readUInt32BE(16)) });
      if (type === REPLY.ack || type >= 0x8000_0000) return answers;
    }
  }

  async go(name: string): Promise<OptionAnswer[]> {
    const answers = await this.option(OPTION.go, goBody(name));
    const last = answers.at(-1);
    if (last?.type !== REPLY.ack) throw new Error(`GO was refused: ${last?.body.toString() ?? ""}`);
    for (const { type, body } of answers) {
      if (type !== REPLY.info || body.readUInt16BE() !== 0) continue;
      this.size = body.readBigUInt64BE(2);
      this.transmissionFlags = body.readUInt16BE(10);
    }
    this.#serve();
    return answers;
  }

  /** Sends a request. The answer comes when it comes, also before earlier ones. */
  request({
    command,
    offset = 0,
    length = 0,
    flags = 0,
    payload,
  }: RequestOptions): Promise<Answer> {
    const cookie = ++this.#cookie;
    const bytes = payload === undefined ? BigInt(length) : BigInt(payload.length);
    const head = Buffer.alloc(this.extended ? 32 : 28);
    head.writeUInt32BE(this.extended ? MAGIC.extendedRequest : MAGIC.request);
    const counted = this.extended && payload !== undefined ? FLAG.payloadLength : 0;
    head.writeUInt16BE(flags | counted, 4);
    head.writeUInt16BE(command, 6);
    head.writeBigUInt64BE(cookie, 8);
    head.writeBigUInt64BE(BigInt(offset), 16);
    if (this.extended) head.writeBigUInt64BE(bytes, 24);
    else head.writeUInt32BE(Number(bytes), 24);
    const answer = new Promise<Answer>((resolve, reject) => {
      this.#asked.set(cookie, {
        offset: BigInt(offset),
        data: Buffer.alloc(command === COMMAND.read ? Math.min(Number(bytes), 64 << 20) : 0),
        holes: 0,
        chunks: 0,
        error: 0,
        status: new Map(),
        resolve,
        reject,
      });
    });
    answer.catch(() => undefined); // whoever waits for it hears of it
    this.socket.write(payload === undefined ? head : Buffer.concat([head, payload]));
    return answer;
  }

  async read(offset: number, length: number, flags = 0): Promise<Buffer> {
    const answer = await this.request({ command: COMMAND.read, offset, length, flags });
    if (answer.error !== 0) throw new Error(`READ failed with ${answer.error}`);
    return answer.data;
  }

  async write(offset: number, payload: Uint8Array, flags = 0): Promise<number> {
    return (await this.request({ command: COMMAND.write, offset, payload, flags })).error;
  }

  async code(options: RequestOptions): Promise<number> {
    return (await this.request(options)).error;
  }

  /** The next bytes of the negotiation. */
  receive(bytes: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { bytes, resolve, reject };
      if (this.socket.closed) this.#fail(new Error("the server closed the connection"));
      this.#serve();
    });
  }

  end(): void {
    this.socket.destroy();
  }

  #serve(): void {
    const waiting = this.#waiting;
    this.#needed = 0;
    if (waiting !== undefined) {
      if (!this.#has(waiting.bytes)) return;
      this.#waiting = undefined;
      waiting.resolve(this.#take(waiting.bytes));
      return;
    }
    if (this.#asked.size > 0) while (this.#reply());
  }

  #has(bytes: number): boolean {
    const has = this.#received.length >= bytes;
    this.#needed = has ? 0 : bytes;
    return has;
  }

  #take(bytes: number): Buffer {
    const taken = Buffer.from(this.#received.subarray(0, bytes));
    this.#received = this.#received.subarray(bytes);
    return taken;
  }

  #reply(): boolean {
    const at = this.#received;
    if (!this.#has(16)) return false;
    const magic = at.readUInt32BE();
    if (magic === MAGIC.simple) return this.#simpleReply(at);
    const extended = magic === MAGIC.extended;
    if (magic !== MAGIC.structured && !extended) throw new Error(`magic ${magic.toString(16)}`);
    const headBytes = extended ? 32 : 20;
    if (!this.#has(headBytes)) return false;
    const length = extended ? Number(at.readBigUInt64BE(24)) : at.readUInt32BE(16);
    if (!this.#has(headBytes + length)) return false;
    const asked = this.#askedFor(at.readBigUInt64BE(8));
    const done = (at.readUInt16BE(4) & 1) === 1;
    const type = at.readUInt16BE(6);
    const body = this.#take(headBytes + length).subarray(headBytes);
    asked.chunks++;
    this.#chunk(asked, type, body);
    if (done) this.#finish(at.readBigUInt64BE(8), asked);
    return true;
  }

  #simpleReply(at: Buffer): boolean {
    const cookie = at.readBigUInt64BE(8);
    const asked = this.#askedFor(cookie);
    const error = at.readUInt32BE(4);
    const bytes = error === 0 ? asked.data.length : 0;
    if (!this.#has(16 + bytes)) return false;
    asked.error = error;
    asked.chunks = 1;
    this.#take(16 + bytes).copy(asked.data, 0, 16);
    this.#finish(cookie, asked);
    return true;
  }

  #chunk(asked: Asked, type: number, body: Buffer): void {
    switch (type) {
      case 0:
        return;
      case 1:
        body.copy(asked.data, Number(body.readBigUInt64BE() - asked.offset), 8);
        return;
      case 2:
        asked.holes += body.readUInt32BE(8);
        return;
      case 5: {
        const pairs: bigint[] = [];
        for (let at = 4; at < body.length; at += 4) pairs.push(BigInt(body.readUInt32BE(at)));
        asked.status.set(body.readUInt32BE(), pairs);
        return;
      }
      case 6: {
        const pairs: bigint[] = [];
        for (let at = 8; at < body.length; at += 8) pairs.push(body.readBigUInt64BE(at));
        if (pairs.length !== body.readUInt32BE(4) * 2) throw new Error("the count is wrong");
        asked.status.set(body.readUInt32BE(), pairs);
        return;
      }
      case 0x8001:
      case 0x8002:
        asked.error = body.readUInt32BE();
        return;
      default:
        throw new Error(`chunk type ${type}`);
    }
  }

  #askedFor(cookie: bigint): Asked {
    const asked = this.#asked.get(cookie);
    if (asked === undefined) throw new Error(`nobody asked ${cookie}`);
    return asked;
  }

  #finish(cookie: bigint, asked: Asked): void {
    this.#asked.delete(cookie);
    asked.resolve(asked);
  }

  #fail(error: Error): void {
    this.#waiting?.reject(error);
    this.#waiting = undefined;
    for (const asked of this.#asked.values()) asked.reject(error);
    this.#asked.clear();
  }
}

export function goBody(name: string, infos: readonly number[] = []): Buffer {
  const text = Buffer.from(name);
  const out = Buffer.alloc(6 + text.length + infos.length * 2);
  out.writeUInt32BE(text.length);
  text.copy(out, 4);
  out.writeUInt16BE(infos.length, 4 + text.length);
  for (const [i, info] of infos.entries()) out.writeUInt16BE(info, 6 + text.length + i * 2);
  return out;
}

export function metaBody(name: string, queries: readonly string[]): Buffer {
  const word = (value: number): Buffer => {
    const out = Buffer.alloc(4);
    out.writeUInt32BE(value);
    return out;
  };
  const text = (value: string): Buffer =>
    Buffer.concat([word(Buffer.byteLength(value)), Buffer.from(value)]);
  return Buffer.concat([text(name), word(queries.length), ...queries.map((query) => text(query))]);
}
