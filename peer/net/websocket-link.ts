/**
 * A link over WebSocket: one TLS connection per stream.
 *
 * @module
 */
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
import { DIAL_DEADLINE_MS, openConnectionLink, type OpenLimits } from "./connection-link.ts";
import { LinkError } from "./errors.ts";
import type { Dial, DialOptions, Link } from "./link.ts";
import { withCurrentPins, type PinnedRelay } from "./relay-pins.ts";
import { connectPinned, destroyLater, directTcp, type ConnectTcp } from "./tls.ts";

export interface WebSocketDialOptions extends DialOptions {
  readonly connectTcp?: ConnectTcp;
}

/** Makes the first stream's connection at once, so that an unreachable relay is an error here. */
export const dialWebSocket = async (options: WebSocketDialOptions): Promise<Link> => {
  const address = parseRelayUrl(options.url);
  const relay: PinnedRelay = {
    address,
    certificateHashes: options.certificateHashes,
    relayIdentity: options.relayIdentity,
    connectTcp: options.connectTcp ?? directTcp,
  };
  return openConnectionLink("websocket", (limits) => openWebSocket(relay, limits), {
    deadlineMs: options.deadlineMs ?? DIAL_DEADLINE_MS,
    signal: options.signal,
  });
};
dialWebSocket satisfies Dial;

async function openWebSocket(
  relay: PinnedRelay,
  { deadlineMs, signal }: OpenLimits,
): Promise<ByteStream> {
  const { address } = relay;
  if (signal?.aborted === true) throw cancelled(address, signal.reason);
  const open: { destroy(): void }[] = [];
  let stop: (error: LinkError) => void = () => {};
  const stopped = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  stopped.catch(() => {});
  const timer = setTimeout(() => stop(deadlineExceeded(address, deadlineMs)), deadlineMs);
  const onAbort = (): void => stop(cancelled(address, signal?.reason));
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const connecting = withCurrentPins(relay, (certificateHashes) =>
      connectPinned({ ...relay, certificateHashes }, open),
    );
    const socket = await Promise.race([connecting, stopped]);
    passReadStopBelowTls(socket);
    return await Promise.race([upgrade(address, socket), stopped]);
  } catch (error) {
    destroyLater(open);
    throw connectionError(address, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

function upgrade(address: RelayAddress, socket: TLSSocket): Promise<ByteStream> {
  return new Promise((resolve, reject) => {
    const websocket = new WebSocket(`wss://${address.text}${LINK_PATH}`, {
      createConnection: () => socket,
      perMessageDeflate: false,
      skipUTF8Validation: true,
      maxPayload: WEBSOCKET_MESSAGE_BYTES_MAX,
      maxFragments: WEBSOCKET_FRAGMENTS_MAX,
      followRedirects: false,
    });
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
}
