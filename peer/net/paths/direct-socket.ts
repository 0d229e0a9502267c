/**
 * The addon's UDP socket, with its direct connection as byte streams.
 *
 * @module
 */
import { loadNative, type DirectConnectOptions, type DirectStats } from "../../../native/index.ts";
import {
  protocolErrorCode,
  ProtocolError,
  ProtocolErrorNumber,
  type ProtocolErrorCode,
} from "../../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../../relay/protocol/stream.ts";
import type { DatagramSocket, SocketAddress } from "./datagram.ts";

const READ_BYTES = 256 * 1024;
const STREAMS = 66;

export class DirectSocket implements DatagramSocket {
  readonly #native;
  readonly #streams = new Map<number, DirectStream>();
  readonly #lost = new AbortController();
  onDatagram: ((bytes: Uint8Array, from: SocketAddress) => void) | undefined;

  /** @param port Default: a free one. @throws NativeError */
  constructor(port = 0) {
    this.#native = loadNative().openDirectSocket({ port, onWake: () => this.#wake() });
  }

  get port(): number {
    return this.#native.port;
  }

  /** Aborted when the connection is over. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  send(bytes: Uint8Array, to: SocketAddress): void {
    this.#native.send(bytes, to.address, to.port);
  }

  connect(options: DirectConnectOptions): boolean {
    return this.#native.connect(options);
  }

  /** Both sides know it by its number; asked twice it is the same. @throws ProtocolError `LINK_CLOSED` */
  stream(index: number): ByteStream {
    this.#lost.signal.throwIfAborted();
    if (index >= STREAMS) throw new ProtocolError("LIMIT_EXCEEDED", `no stream ${index}`);
    const known = this.#streams.get(index);
    if (known !== undefined) return known;
    const stream = new DirectStream(
      index,
      this.#native,
      (code, reason) => void this.close(code, reason),
    );
    this.#streams.set(index, stream);
    return stream;
  }

  stats(): DirectStats {
    return this.#native.stats();
  }

  /** Ends the connection, if there is one, and the socket. */
  async close(code: ProtocolErrorCode, reason: string): Promise<void> {
    this.#end(code, reason);
    await this.#native.close(reason, ProtocolErrorNumber[code]);
  }

  #wake(): void {
    const events = this.#native.poll();
    for (const { bytes, address, port } of events.datagrams) {
      this.onDatagram?.(bytes, { address, port });
    }
    for (const index of events.readable) this.#streams.get(index)?.readable();
    for (const index of events.writable) this.#streams.get(index)?.writable();
    if (events.closed) {
      const { closeCode, closeReason = "the direct path is gone" } = this.#native;
      const code = protocolErrorCode(closeCode);
      this.#end(code === "OK" ? "LINK_CLOSED" : code, closeReason);
      void this.#native.close("over");
    }
  }

  #end(code: ProtocolErrorCode, reason: string): void {
    if (this.#lost.signal.aborted) return;
    this.#lost.abort(new ProtocolError(code === "OK" ? "LINK_CLOSED" : code, reason));
    for (const stream of this.#streams.values()) stream.lost(code, reason);
  }
}

interface NativeStreams {
  write(stream: number, bytes: Uint8Array): boolean;
  read(stream: number, most: number): Uint8Array | null | undefined;
  end(stream: number): void;
}

/** To abort one is to end the connection: the peers begin afresh on a new one. */
class DirectStream implements ByteStream {
  readonly #index: number;
  readonly #native: NativeStreams;
  readonly #abort: (code: ProtocolErrorCode, reason: string) => void;
  readonly closed: Promise<CloseInfo>;
  #resolveClosed: (info: CloseInfo) => void = () => undefined;
  #failure: ProtocolError | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeWriters: (() => void)[] = [];
  #full = false;
  #ended = false;
  #finished = false;

  constructor(
    index: number,
    native: NativeStreams,
    abort: (code: ProtocolErrorCode, reason: string) => void,
  ) {
    this.#index = index;
    this.#native = native;
    this.#abort = abort;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#finished) return null;
      const bytes = this.#native.read(this.#index, READ_BYTES);
      if (bytes === null) {
        this.#finished = true;
        this.#settle();
        return null;
      }
      // Not as the Buffer that the addon makes: its `slice` would not copy.
      if (bytes !== undefined) return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#ended) throw new ProtocolError("LINK_CLOSED", "the stream was ended");
    // Taken at once, so that the order is that of the calls.
    if (!this.#native.write(this.#index, bytes)) this.#full = true;
    while (this.#full) {
      await new Promise<void>((resolve) => this.#wakeWriters.push(resolve));
      if (this.#failure !== undefined) throw this.#failure;
    }
  }

  end(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (!this.#ended) {
      this.#ended = true;
      this.#native.end(this.#index);
      this.#settle();
    }
    return Promise.resolve();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    if (this.#failure === undefined) this.#abort(code, reason);
  }

  readable(): void {
    const wake = this.#wakeReader;
    this.#wakeReader = undefined;
    wake?.();
  }

  writable(): void {
    this.#full = false;
    for (const wake of this.#wakeWriters.splice(0)) wake();
  }

  lost(code: ProtocolErrorCode, reason: string): void {
    this.#failure ??= new ProtocolError(code === "OK" ? "LINK_CLOSED" : code, reason);
    this.#resolveClosed({ code, reason });
    this.readable();
    this.writable();
  }

  #settle(): void {
    if (this.#ended && this.#finished) this.#resolveClosed({ code: "OK", reason: "" });
  }
}
