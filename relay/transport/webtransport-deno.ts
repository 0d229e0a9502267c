/**
 * WebTransport for the relay on Deno, by its own QUIC. Imported on Deno only.
 *
 * Deno 2.9 answers the CONNECT request, but its WebTransport streams are not used: closing one sends no
 * FIN and frees nothing until it is collected. The streams of the QUIC connection below do both. They
 * start with two integers that the WebTransport ones would have taken off: the kind of stream and the
 * session (RFC 9000, 16; draft-ietf-webtrans-http3, 4.3).
 *
 * @module
 */
import { PREFACE_DEADLINE_MS } from "../protocol/limits.ts";
import {
  messageOf,
  type ReadableLike,
  type ReaderLike,
  type WebStreamPair,
  type WebTransportCloseLike,
  type WebTransportSessionLike,
} from "../protocol/web-stream.ts";
import type { RelayCertificate } from "./certificate.ts";
import type { WebTransportListen, WebTransportListenOptions } from "./webtransport.ts";

/** Both sides drop a connection that is silent for so long; Deno pings well before. */
const IDLE_MS = 30_000;
const KEEPALIVE_MS = 8_000;
const STREAMS_MAX = 256;
/** Handshakes at once, before any of them is a session. */
const HANDSHAKES_MAX = 256;
const BIDIRECTIONAL_STREAM = 0x41;

/** The part of the unstable API that is used. */
interface DenoQuic {
  readonly QuicEndpoint: new (options: { hostname: string; port: number }) => QuicEndpoint;
  readonly upgradeWebTransport: (connection: QuicConnection) => Promise<DenoSession>;
}

interface QuicEndpoint {
  readonly addr: { readonly hostname: string; readonly port: number };
  listen(options: {
    cert: string;
    key: string;
    alpnProtocols: string[];
    maxIdleTimeout: number;
    keepAliveInterval: number;
    maxConcurrentBidirectionalStreams: number;
    maxConcurrentUnidirectionalStreams: number;
  }): QuicListener;
  close(info: { closeCode: number; reason: string }): void;
}

interface QuicListener {
  incoming(): Promise<QuicIncoming>;
  stop(): void;
}

interface QuicIncoming {
  /** Its own `remoteAddr` is not asked for: in 2.9 that takes the connection away. */
  accept(): Promise<QuicConnection>;
  refuse(): void;
}

interface QuicConnection {
  readonly remoteAddr: { readonly hostname: string };
  readonly closed: Promise<WebTransportCloseLike>;
  readonly incomingBidirectionalStreams: ReadableLike<WebStreamPair>;
  close(info: { closeCode: number; reason: string }): void;
}

interface DenoSession {
  readonly url: string;
  readonly ready: Promise<unknown>;
  readonly closed: Promise<WebTransportCloseLike>;
  close(info: { closeCode: number; reason: string }): void;
}

function quicOf(): DenoQuic | null {
  // By reflection and a cast: the compiler knows no Deno, and Deno's own checker knows more of it than this.
  const deno = Reflect.get(globalThis, "Deno") as unknown as Partial<DenoQuic> | undefined;
  const { QuicEndpoint, upgradeWebTransport } = deno ?? {};
  if (QuicEndpoint === undefined || upgradeWebTransport === undefined) return null;
  return { QuicEndpoint, upgradeWebTransport };
}

export function denoUnavailable(): string | null {
  return quicOf() === null ? "Deno has no WebTransport unless it runs with --unstable-net" : null;
}

export const listenDeno: WebTransportListen = async (options) => {
  const quic = quicOf();
  if (quic === null) throw new Error("this Deno has no QUIC");
  let endpoint: QuicEndpoint;
  try {
    endpoint = new quic.QuicEndpoint({ hostname: options.host, port: options.port });
  } catch (error) {
    const inUse = /in use|os error 98/i.test(messageOf(error));
    throw Object.assign(new Error(messageOf(error), { cause: error }), {
      code: inUse ? "EADDRINUSE" : "WEBTRANSPORT_FAILED",
    });
  }
  const listenWith = (certificate: RelayCertificate): QuicListener =>
    endpoint.listen({
      cert: certificate.certificatePem,
      key: certificate.privateKeyPem,
      alpnProtocols: ["h3"],
      maxIdleTimeout: IDLE_MS,
      keepAliveInterval: KEEPALIVE_MS,
      maxConcurrentBidirectionalStreams: STREAMS_MAX,
      maxConcurrentUnidirectionalStreams: 16,
    });
  const listener = listenWith(options.certificate);
  let closing = false;
  const accepting = acceptAll(quic, listener, options).catch((error: unknown) => {
    if (!closing) options.onLost(new Error(messageOf(error), { cause: error }));
  });
  return {
    port: endpoint.addr.port,
    // Listening again gives the endpoint its new certificate; what arrives still comes to the first listener.
    renew: async (certificate) => {
      listenWith(certificate);
      await Promise.resolve();
    },
    close: async () => {
      closing = true;
      listener.stop();
      endpoint.close({ closeCode: 0, reason: "" });
      await Promise.race([accepting, Promise.resolve()]);
    },
  };
};

async function acceptAll(
  quic: DenoQuic,
  listener: QuicListener,
  options: WebTransportListenOptions,
): Promise<never> {
  let handshakes = 0;
  for (;;) {
    const incoming = await listener.incoming();
    if (handshakes >= HANDSHAKES_MAX) {
      incoming.refuse();
      continue;
    }
    handshakes += 1;
    void accept(quic, incoming, options)
      // A handshake that fails is the end of that connection and nothing more.
      .catch(() => {})
      .finally(() => {
        handshakes -= 1;
      });
  }
}

async function accept(
  quic: DenoQuic,
  incoming: QuicIncoming,
  options: WebTransportListenOptions,
): Promise<void> {
  const connection = await incoming.accept();
  const remoteAddress = connection.remoteAddr.hostname;
  connection.closed.catch(() => {});
  const deadline = setTimeout(
    () => connection.close({ closeCode: 0, reason: "" }),
    PREFACE_DEADLINE_MS,
  );
  try {
    const upgraded = await quic.upgradeWebTransport(connection);
    upgraded.closed.catch(() => {});
    await upgraded.ready;
    options.onSession({
      session: new RawSession(connection, upgraded),
      path: pathOf(upgraded.url),
      remoteAddress,
      streamOptions: {},
    });
  } catch (error) {
    connection.close({ closeCode: 0, reason: "" });
    throw error;
  } finally {
    clearTimeout(deadline);
  }
}

function pathOf(url: string): string {
  try {
    return new URL(url).pathname;
  } catch {
    return "";
  }
}

/** A session whose streams are those of its connection. */
class RawSession implements WebTransportSessionLike {
  readonly ready = Promise.resolve();
  readonly closed: Promise<WebTransportCloseLike>;
  readonly incomingBidirectionalStreams: ReadableLike<WebStreamPair>;
  readonly #session: DenoSession;

  constructor(connection: QuicConnection, session: DenoSession) {
    this.#session = session;
    this.closed = Promise.race([session.closed, connection.closed]);
    this.closed.catch(() => {});
    this.incomingBidirectionalStreams = {
      getReader: () => new StreamsReader(connection.incomingBidirectionalStreams.getReader()),
    };
  }

  createBidirectionalStream(): Promise<WebStreamPair> {
    return Promise.reject(new Error("the relay opens no streams"));
  }

  close(info: { closeCode: number; reason: string }): void {
    this.#session.close(info);
  }
}

class StreamsReader implements ReaderLike<WebStreamPair> {
  readonly #reader: ReaderLike<WebStreamPair>;

  constructor(reader: ReaderLike<WebStreamPair>) {
    this.#reader = reader;
  }

  get closed(): Promise<unknown> {
    return this.#reader.closed;
  }

  async read(): Promise<{ done: boolean; value?: WebStreamPair | undefined }> {
    const { done, value } = await this.#reader.read();
    if (value === undefined) return { done };
    const readable = { getReader: () => new HeaderlessReader(value.readable.getReader()) };
    return { done, value: { readable, writable: value.writable } };
  }

  cancel(reason?: unknown): Promise<unknown> {
    return this.#reader.cancel(reason);
  }
}

/** Takes the two integers off the front of a stream. */
class HeaderlessReader implements ReaderLike<Uint8Array> {
  readonly #reader: ReaderLike<Uint8Array>;
  #head: Uint8Array | null = new Uint8Array(0);

  constructor(reader: ReaderLike<Uint8Array>) {
    this.#reader = reader;
  }

  get closed(): Promise<unknown> {
    return this.#reader.closed;
  }

  async read(): Promise<{ done: boolean; value?: Uint8Array | undefined }> {
    while (this.#head !== null) {
      const { done, value } = await this.#reader.read();
      if (done || value === undefined) return { done };
      const head = concatenate(this.#head, value);
      const size = headerBytes(head);
      this.#head = size === null ? head : null;
      if (size !== null && head.length > size) return { done: false, value: head.subarray(size) };
    }
    return this.#reader.read();
  }

  cancel(reason?: unknown): Promise<unknown> {
    return this.#reader.cancel(reason);
  }
}

/**
 * @returns The length of the header, or `null` if it is not whole yet.
 * @throws Error if the stream is not one of a WebTransport session.
 */
function headerBytes(bytes: Uint8Array): number | null {
  const kind = variableInteger(bytes, 0);
  if (kind === null) return null;
  if (kind.value !== BIDIRECTIONAL_STREAM) throw new Error("not a stream of a session");
  const session = variableInteger(bytes, kind.end);
  return session === null ? null : session.end;
}

/** Values past 2^53 cannot be those sought, so rounding does no harm. */
function variableInteger(bytes: Uint8Array, at: number): { value: number; end: number } | null {
  const first = bytes[at];
  if (first === undefined) return null;
  const end = at + (1 << (first >> 6));
  if (bytes.length < end) return null;
  let value = first & 0x3f;
  for (let index = at + 1; index < end; index += 1) value = value * 256 + (bytes[index] ?? 0);
  return { value, end };
}

function concatenate(left: Uint8Array, right: Uint8Array): Uint8Array {
  if (left.length === 0) return right;
  const whole = new Uint8Array(left.length + right.length);
  whole.set(left);
  whole.set(right, left.length);
  return whole;
}
