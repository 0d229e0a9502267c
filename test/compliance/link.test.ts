import { describe } from "vitest";
import { memoryRelay } from "../../peer/net/memory-link.ts";
import { dialWebSocket } from "../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../peer/net/webtransport.ts";
import { loadWebTransport } from "../../relay/transport/webtransport.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";
import { linkCompliance } from "./link.ts";
import { Arrivals, openReal } from "./link-support.ts";

linkCompliance(
  "memory",
  async () => {
    const arrivals = new Arrivals<IncomingStream>();
    const relay = memoryRelay(arrivals.add);
    return {
      dial: relay.dial,
      url: "https://memory:1",
      certificateHashes: [],
      incoming: arrivals.next,
      close: async () => relay.close("RELAY_DRAINING", "the relay is stopping"),
    };
  },
  { abortReason: true },
);

linkCompliance("WebSocket", () => openReal(dialWebSocket, { webTransport: "off" }), {
  abortReason: true,
});

const client = await loadWebTransportClient();
const server = await loadWebTransport();
// Without an implementation the whole suite is skipped, and the name says why.
const missing = [client, server].find((one) => "unavailable" in one);
const webTransport = "name" in client ? client.name : "none";

describe.skipIf(missing !== undefined)(`with ${JSON.stringify(missing ?? webTransport)}`, () => {
  // Deno's client sends no FIN.
  const abilities = { end: webTransport !== "deno" };
  linkCompliance(`WebTransport (${webTransport})`, () => openReal(dialWebTransport), abilities);
});
