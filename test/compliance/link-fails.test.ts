// The adapters of @fails-components/webtransport, over that package's HTTP/2 transport: its HTTP/3 part is
// fetched from elsewhere when it is installed, and has the same face. Without it the package prints a trace.
import { Http2Server, WebTransport } from "@fails-components/webtransport";
import { dialWebTransport } from "../../peer/net/webtransport-link.ts";
import { failsClientOf } from "../../peer/net/webtransport.ts";
import { listenFails, type FailsServer } from "../../relay/transport/webtransport-fails.ts";
import type { WebTransportSessionLike } from "../../relay/protocol/web-stream.ts";
import { linkCompliance, type LinkUnderTest } from "./link.ts";
import { testListener } from "./link-support.ts";

type ClientConstructor = new (url: string, options: object) => WebTransportSessionLike;

async function open(): Promise<LinkUnderTest> {
  // The package's own types lag behind what it takes and returns; the adapters declare what they use.
  const Server = Http2Server as unknown as new (options: object) => FailsServer;
  const client = failsClientOf(WebTransport as unknown as ClientConstructor, {
    forceReliable: true,
  });
  const { listener, certificate, arrivals, close } = await testListener({
    webTransport: {
      name: "fails-components",
      // TCP, so it cannot have the port of the listener.
      listen: (options) => listenFails((init) => new Server(init), { ...options, port: 0 }),
    },
  });
  if ("unavailable" in listener.webTransport) throw new Error(listener.webTransport.unavailable);
  return {
    dial: (options) => dialWebTransport({ ...options, client }),
    url: `https://127.0.0.1:${listener.webTransport.port}`,
    certificateHashes: [certificate.hash],
    incoming: arrivals.next,
    close,
  };
}

// In 1.6.8 a write resolves at once, however much the stream holds.
linkCompliance("fails-components (HTTP/2)", open, { backpressure: false });
