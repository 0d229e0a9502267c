/**
 * A link over WebSocket: one TLS connection per stream.
 *
 * @module
 */
import type { ClientRequest } from "node:http";
import type { TLSSocket } from "node:tls";
import WebSocket from "ws";
import { passReadStopBelowTls } from "../../relay/protocol/tls-pause.ts";
import {
  WEBSOCKET_FRAGMENTS_MAX,
  WEBSOCKET_MESSAGE_BYTES_MAX,
  websocketToByteStream,
} from "../../relay/protocol/websocket-stream.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import {
  LINK_PATH,
  cancelled,
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
import { canSendEarly, EarlySender, EarlyStream } from "./early-websocket.ts";
import { LinkError } from "./errors.ts";
import { sayNothing } from "./idle-connection.ts";
import type { Dial, DialOptions, Link } from "./link.ts";
import { routedTcp } from "./proxy.ts";
import { withCurrentPins, type PinnedRelay } from "./relay-pins.ts";
import { tuneTcp } from "./socket-tuning.ts";
import { connectPinned, destroyLater, type ConnectTcp } from "./tls.ts";

export interface WebSocketDialOptions extends DialOptions {
  readonly connectTcp?: ConnectTcp;
}

/** Relays behind something that loses what comes with a request; for the life of this process. */
const patient = new Set<string>();

/** Makes the first stream's connection at once, so that an unreachable relay is an error here. */
export const dialWebSocket = async (options: WebSocketDialOptions): Promise<Link> => {
  const address = parseRelayUrl(options.url);
  const relay: PinnedRelay = {
    address,
    certificateHashes: options.certificateHashes,
    relayIdentity: options.relayIdentity,
    connectTcp: options.connectTcp ?? routedTcp,
  };
  return openConnectionLink(
    {
      kind: "websocket",
      greets: canSendEarly && !patient.has(address.text),
      connect: (limits) => connect(relay, limits),
    },
    {
      deadlineMs: options.deadlineMs ?? DIAL_DEADLINE_MS,
      signal: options.signal,
      greeting: options.greeting,
    },
  );
};
dialWebSocket satisfies Dial;

/** TLS is up, and nothing was said. */
async function connect(relay: PinnedRelay, limits: OpenLimits): Promise<Connection> {
  const { address } = relay;
  const startedAtMs = performance.now();
  const open: { destroy(): void }[] = [];
  const { connectTcp = routedTcp } = relay;
  const connecting = withCurrentPins(relay, (certificateHashes) =>
    connectPinned({ address, certificateHashes, connectTcp, onTcp: tuneTcp }, open),
  );
  const socket = await within(address, limits, open, connecting);
  passReadStopBelowTls(socket);
  const gone = new Promise<void>((resolve) => {
    socket.once("close", () => resolve());
  });
  const left = (): OpenLimits => ({
    ...limits,
    deadlineMs: Math.max(1, limits.deadlineMs - (performance.now() - startedAtMs)),
  });
  return {
    gone,
    open: async () => {
      // It may have waited for long: it has all the time for what is left to do.
      const upgrading = upgrade(address, socket);
      const opening = within(address, limits, open, upgrading.stream);
      if (!canSendEarly || patient.has(address.text)) return await opening;
      opening.catch(() => {});
      return new EarlyStream(opening, new EarlySender(socket, upgrading.request));
    },
    openFirst: async (greeting) => {
      const upgrading = upgrade(address, socket);
      if (greeting !== undefined) new EarlySender(socket, upgrading.request).send(greeting);
      const stream = await within(address, left(), open, upgrading.stream);
      return greeting === undefined ? stream : watched(stream, address);
    },
    keep: () => sayNothing(socket, address),
    drop: () => destroyLater(open),
  };
}

/** A greeting that nobody answers was lost on the way. */
function watched(stream: ByteStream, address: RelayAddress): ByteStream {
  let isAnswered = false;
  void stream.closed.then(() => {
    if (!isAnswered) patient.add(address.text);
  });
  return {
    read: async () => {
      const piece = await stream.read();
      isAnswered = true;
      return piece;
    },
    write: (bytes) => stream.write(bytes),
    end: () => stream.end(),
    abort: (code, reason) => stream.abort(code, reason),
    closed: stream.closed,
  };
}

/** @throws LinkError; then everything in `open` is destroyed. */
async function within<T>(
  address: RelayAddress,
  { deadlineMs, signal }: OpenLimits,
  open: { destroy(): void }[],
  work: Promise<T>,
): Promise<T> {
  // It may lose against the deadline.
  work.catch(() => {});
  let stop: (error: LinkError) => void = () => {};
  const stopped = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  stopped.catch(() => {});
  const timer = setTimeout(() => stop(deadlineExceeded(address, deadlineMs)), deadlineMs);
  const onAbort = (): void => stop(cancelled(address, signal?.reason));
  if (signal?.aborted === true) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([stopped, work]);
  } catch (error) {
    destroyLater(open);
    throw connectionError(address, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

interface Upgrading {
  readonly request: ClientRequest;
  readonly stream: Promise<ByteStream>;
}

function upgrade(address: RelayAddress, socket: TLSSocket): Upgrading {
  let sent: ClientRequest | undefined;
  const websocket = new WebSocket(`wss://${address.text}${LINK_PATH}`, {
    createConnection: () => socket,
    perMessageDeflate: false,
    skipUTF8Validation: true,
    maxPayload: WEBSOCKET_MESSAGE_BYTES_MAX,
    maxFragments: WEBSOCKET_FRAGMENTS_MAX,
    followRedirects: false,
    finishRequest: (request) => {
      sent = request;
      request.end();
    },
  });
  if (sent === undefined) throw new Error("ws made no request");
  const stream = new Promise<ByteStream>((resolve, reject) => {
    websocket.on("error", reject);
    websocket.once("unexpected-response", (_request, response) => {
      reject(
        new LinkError(
          "RELAY_REFUSED",
          `${address.text} answers ${response.statusCode ?? 0} instead of opening a stream: ` +
            "is it a relay, and not something else, at that port?",
        ),
      );
    });
    websocket.once("open", () => resolve(websocketToByteStream(websocket)));
  });
  return { request: sent, stream };
}
