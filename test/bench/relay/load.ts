/**
 * Streams of bytes through a server, from one end to the other.
 *
 * @module
 */
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

import { WebSocket } from "ws";

import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import type { Role } from "../../../relay/protocol/ids.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { websocketToByteStream } from "../../../relay/protocol/websocket-stream.ts";
import { RawPeer } from "../../relay/switchboard/harness.ts";
import { benchSession } from "./session.ts";

export const KINDS = ["tcp", "tls", "websocket", "relay"] as const;
export type Kind = (typeof KINDS)[number];

export interface Target {
  readonly port: number;
  readonly hash: readonly number[];
}

/** What is sent with one call; our peers send batches of this size. */
const WRITE_BYTES = 1024 * 1024;
const PING_MS = 1_500;

interface End {
  write(bytes: Uint8Array): Promise<void>;
  /** Resolves when so many bytes have come. */
  took(bytes: number): Promise<void>;
  drop(): void;
}

export interface Carried {
  /** Sends so many bytes over each of the streams at once, and resolves when all have arrived. */
  carry(bytesEach: number): Promise<void>;
  close(): Promise<void>;
}

export async function openStreams(kind: Kind, target: Target, count: number): Promise<Carried> {
  const pairs: [End, End][] = [];
  let close = async (): Promise<void> => {};
  if (kind === "relay") {
    const [seeder, leecher] = await joinedPair(target, 0);
    close = async () => {
      await Promise.all([seeder.close(), leecher.close()]);
    };
    for (let at = 0; at < count; at++) {
      const [a, b] = await Promise.all([seeder.peer.openStream(at), leecher.peer.openStream(at)]);
      pairs.push([streamEnd(a), streamEnd(b)]);
    }
  } else {
    for (let at = 0; at < count; at++)
      pairs.push([await open(kind, target), await open(kind, target)]);
  }
  const bytes = new Uint8Array(WRITE_BYTES);
  crypto.getRandomValues(bytes.subarray(0, 65_536));
  return {
    async carry(bytesEach) {
      await Promise.all(
        pairs.map(async ([from, to]) => {
          const arrived = to.took(bytesEach);
          for (let sent = 0; sent < bytesEach; sent += WRITE_BYTES) {
            await from.write(bytes.subarray(0, Math.min(WRITE_BYTES, bytesEach - sent)));
          }
          await arrived;
        }),
      );
    },
    async close() {
      for (const end of pairs.flat()) end.drop();
      await close();
    },
  };
}

/** Sessions of two peers who say nothing but that they are there. */
export async function openIdle(
  target: Target,
  count: number,
  first: number,
): Promise<{ close(): Promise<void> }> {
  const open: Joined[] = [];
  for (let number = first; number < first + count; number++) {
    open.push(...(await joinedPair(target, number)));
  }
  return { close: async () => void (await Promise.all(open.map((one) => one.close()))) };
}

interface Joined {
  readonly peer: RawPeer;
  close(): Promise<void>;
}

async function joinedPair(target: Target, number: number): Promise<[Joined, Joined]> {
  const join = async (role: Role): Promise<Joined> => {
    const link = await dialWebSocket({
      url: `https://127.0.0.1:${target.port}`,
      certificateHashes: [Uint8Array.from(target.hash)],
    });
    const peer = await (await RawPeer.open(link, benchSession(number), role)).join();
    const pinging = setInterval(() => void peer.send({ kind: "ping", nonce: 0 }), PING_MS);
    return {
      peer,
      async close() {
        clearInterval(pinging);
        await link.close("OK", "measured");
      },
    };
  };
  const seeder = await join("seeder");
  const leecher = await join("leecher");
  for (const { peer } of [seeder, leecher]) {
    await peer.paired();
    void readOn(peer);
  }
  return [seeder, leecher];
}

async function readOn(peer: RawPeer): Promise<void> {
  try {
    while ((await peer.next()) !== null);
  } catch {
    // It is closed in the end.
  }
}

async function open(kind: Exclude<Kind, "relay">, { port }: Target): Promise<End> {
  if (kind === "websocket") {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false });
    await new Promise((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    return streamEnd(websocketToByteStream(socket));
  }
  return await new Promise((resolve, reject) => {
    const socket: Socket =
      kind === "tls"
        ? // The server is our own process' child.
          connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false }, () =>
            resolve(socketEnd(socket)),
          )
        : connect({ port, host: "127.0.0.1" }, () => resolve(socketEnd(socket)));
    socket.once("error", reject);
  });
}

function streamEnd(stream: ByteStream): End {
  return {
    write: (bytes) => stream.write(bytes),
    async took(bytes) {
      for (let got = 0; got < bytes;) {
        const piece = await stream.read();
        if (piece === null) throw new Error("the stream ended early");
        got += piece.length;
      }
    },
    drop: () => stream.abort("OK", "measured"),
  };
}

function socketEnd(socket: Socket): End {
  socket.setNoDelay(true);
  socket.on("error", () => {});
  return {
    write: (bytes) =>
      socket.write(bytes)
        ? Promise.resolve()
        : new Promise((resolve) => {
            socket.once("drain", resolve);
          }),
    took: (bytes) =>
      new Promise((resolve) => {
        let got = 0;
        const take = (piece: Uint8Array): void => {
          got += piece.length;
          if (got < bytes) return;
          socket.off("data", take);
          resolve();
        };
        socket.on("data", take);
      }),
    drop: () => socket.destroy(),
  };
}
