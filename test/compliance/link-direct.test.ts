import { randomBytes } from "node:crypto";
import { describe } from "vitest";

import { DirectSocket } from "../../peer/net/paths/direct-socket.ts";
import { openConnectionLink, type Connection } from "../../peer/net/connection-link.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";
import { Arrivals } from "./link-support.ts";
import { linkCompliance } from "./link.ts";

/** To abort one of its streams ends a direct connection, so each stream of this link has one of its own. */
describe("over UDP", () => {
  linkCompliance(
    "direct",
    () => {
      const arrivals = new Arrivals<IncomingStream>();
      const sockets = new Set<DirectSocket>();
      const connection = (): Connection => {
        const [near, far] = [new DirectSocket(), new DirectSocket()];
        const [sendKey, receiveKey] = [randomBytes(32), randomBytes(32)];
        const common = { address: "127.0.0.1", id: 1, rttUs: 1_000 };
        near.connect({ ...common, port: far.port, sendKey, receiveKey });
        far.connect({ ...common, port: near.port, sendKey: receiveKey, receiveKey: sendKey });
        for (const socket of [near, far]) sockets.add(socket);
        const open = (): Promise<ByteStream> => {
          arrivals.add({
            stream: far.stream(0),
            kind: "direct",
            remoteAddress: "127.0.0.1",
            connectionId: String(near.port),
          });
          return Promise.resolve(near.stream(0));
        };
        const gone = Promise.withResolvers<void>();
        near.lost.addEventListener("abort", () => gone.resolve());
        const drop = (): void => void near.close("OK", "not used");
        return { open, openFirst: open, gone: gone.promise, drop };
      };
      return Promise.resolve({
        dial: () =>
          openConnectionLink(
            { kind: "direct", greets: false, connect: () => Promise.resolve(connection()) },
            { deadlineMs: 10_000, signal: undefined },
          ),
        url: "https://direct:1",
        certificateHashes: [],
        incoming: arrivals.next,
        close: async () => {
          const closing = [...sockets].map((socket) =>
            socket.close("RELAY_DRAINING", "the relay is stopping"),
          );
          await Promise.all(closing);
        },
      });
    },
    { abortReason: true },
  );
});
