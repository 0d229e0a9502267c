import { memoryRelay } from "../../peer/net/memory-link.ts";
import { dialWebSocket } from "../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../peer/net/webtransport.ts";
import { loadWebTransport } from "../../relay/transport/webtransport.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";
import { linkCompliance } from "./link.ts";
import { Arrivals, openReal } from "./link-support.ts";
import { describe, test } from "vitest";

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
if ("unavailable" in client || "unavailable" in server) {
  describe("a WebTransport link", () => {
    const why = "unavailable" in client ? client.unavailable : "the server does not load";
    test.skip(`is not to be had here: ${why}`, () => {});
  });
} else {
  // Deno's client sends no FIN.
  const abilities = { end: client.name !== "deno" };
  linkCompliance(`WebTransport (${client.name})`, () => openReal(dialWebTransport), abilities);
}
