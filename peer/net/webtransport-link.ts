/**
 * A link over WebTransport: one session per stream (see `connection-link.ts` for why).
 *
 * @module
 */
import { ProtocolErrorNumber } from "../../relay/protocol/errors.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import {
  messageOf,
  sessionEnd,
  webStreamToByteStream,
  type WebTransportSessionLike,
} from "../../relay/protocol/web-stream.ts";
import {
  LINK_PATH,
  cancelled,
  certificateMismatch,
  certificateUntrusted,
  connectionError,
  deadlineExceeded,
  parseRelayUrl,
  type RelayAddress,
} from "./address.ts";
import {
  DIAL_DEADLINE_MS,
  openConnectionLink,
  type Connection,
  type OpenLimits,
} from "./connection-link.ts";
import { LinkError } from "./errors.ts";
import type { Dial, DialOptions, Link } from "./link.ts";
import { withCurrentPins, type PinnedRelay } from "./relay-pins.ts";
import { raiseUdpBuffers, udpSockets } from "./socket-tuning.ts";
import { loadWebTransportClient, type WebTransportClient } from "./webtransport.ts";

/** Closing a session drops what is on its way: after an orderly end it stays so long for the last bytes. */
const LINGER_MS = 2_000;
/** QUIC drops a connection that is silent for 30 s, and not every library pings by itself. */
const KEEPALIVE_MS = 8_000;

export interface WebTransportDialOptions extends DialOptions {
  /** Default: what `loadWebTransportClient` finds. */
  readonly client?: WebTransportClient;
}

export const dialWebTransport = async (options: WebTransportDialOptions): Promise<Link> => {
  const address = parseRelayUrl(options.url);
  const client = options.client ?? (await loadWebTransportClient());
  if ("unavailable" in client) {
    throw new LinkError(
      "LINK_KIND_UNAVAILABLE",
      `no WebTransport here (${client.unavailable}): use WebSocket`,
    );
  }
  const { certificateHashes, relayIdentity } = options;
  const relay: PinnedRelay = { address, certificateHashes, relayIdentity };
  const connect = async (limits: OpenLimits): Promise<Connection> => {
    const stream = await withCurrentPins(relay, (hashes) =>
      openSession({ address, client, certificateHashes: hashes }, limits),
    );
    return {
      open: () => Promise.resolve(stream),
      openFirst: () => Promise.resolve(stream),
      gone: stream.closed,
      drop: () => stream.abort("OK", "not used"),
    };
  };
  return openConnectionLink(
    { kind: "webtransport", greets: false, connect },
    {
      deadlineMs: options.deadlineMs ?? DIAL_DEADLINE_MS,
      signal: options.signal,
      greeting: options.greeting,
    },
  );
};
dialWebTransport satisfies Dial;

interface Target {
  readonly address: RelayAddress;
  readonly client: WebTransportClient;
  readonly certificateHashes: readonly Uint8Array[];
}

/** A session with its one stream. */
async function openSession(
  { address, client, certificateHashes }: Target,
  { deadlineMs, signal }: OpenLimits,
): Promise<ByteStream> {
  if (signal?.aborted === true) throw cancelled(address, signal.reason);
  const url = `https://${address.text}${LINK_PATH}`;
  const before = udpSockets();
  const session = client.connect(url, certificateHashes);
  const ended = sessionEnd(session);
  let stop: (error: LinkError) => void = () => {};
  const stopped = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  const timer = setTimeout(() => stop(deadlineExceeded(address, deadlineMs)), deadlineMs);
  const onAbort = (): void => stop(cancelled(address, signal?.reason));
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.race([session.ready, stopped]);
    raiseUdpBuffers(before);
    const opening = session.createBidirectionalStream();
    const pair = await Promise.race([opening, stopped]);
    const stream = webStreamToByteStream(pair, { ...client.streamOptions, sessionEnd: ended });
    const stopPings = keepAlive(session);
    void ended.then(stopPings);
    void stream.closed.then(({ code, reason }) => {
      stopPings();
      const close = (): void => closeSession(session, ProtocolErrorNumber[code], reason);
      if (code !== "OK") return close();
      const linger = setTimeout(close, LINGER_MS);
      void ended.then(() => clearTimeout(linger));
    });
    return stream;
  } catch (error) {
    session.ready.catch(() => {});
    closeSession(session, ProtocolErrorNumber.LINK_CLOSED, "not wanted any more");
    if (error instanceof LinkError) throw error;
    if (isCertificateError(error)) {
      const pinned = certificateHashes.length > 0;
      throw pinned ? certificateMismatch(address) : certificateUntrusted(address, error);
    }
    throw connectionError(address, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/** A datagram makes the other side answer; nobody reads it. */
function keepAlive(session: WebTransportSessionLike): () => void {
  const { datagrams } = session;
  const writable = datagrams?.writable ?? datagrams?.createWritable?.();
  if (writable === undefined) return () => {};
  const writer = writable.getWriter();
  writer.closed.catch(() => {});
  const timer = setInterval(() => {
    // A session that is over says so elsewhere.
    writer.write(Uint8Array.of(0)).catch(() => {});
  }, KEEPALIVE_MS);
  return () => clearInterval(timer);
}

function closeSession(session: WebTransportSessionLike, closeCode: number, reason: string): void {
  try {
    session.close({ closeCode, reason });
  } catch {
    // Over already, or never begun: there is nothing to close then.
  }
}

/** The libraries say it in words only. */
function isCertificateError(error: unknown): boolean {
  return /certificate|tls|crypto|unknown issuer|alert/i.test(messageOf(error));
}
