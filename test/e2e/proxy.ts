/**
 * A TCP proxy in front of a relay: slow, far away, or with an ear in it.
 *
 * Each connection has its own queue, so a stream is held back by the rate that all share and by its own bytes,
 * not by what another stream has queued: a router with fair queueing. What waits is bounded, and a full queue stops
 * the sender, as a real path would.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import path from "node:path";
import * as tls from "node:tls";

export interface ProxyOptions {
  readonly port: number;
  /** Added to each direction. */
  readonly delayMs?: number;
  /** Of all connections together, in each direction. */
  readonly bytesPerS?: number;
  /** Sees what passes. */
  readonly onData?: (data: Buffer) => void;
  /**
   * The relay's data folder: with its certificate and key the proxy takes TLS apart, so that `onData` sees what the
   * relay sees.
   */
  readonly openTlsOf?: string;
  /** More delay for the n-th connection towards the client, counted from 0. */
  readonly lateMs?: (connectionIndex: number) => number;
}

export interface Proxy extends AsyncDisposable {
  readonly url: string;
  /** Connections so far. */
  connectionCount(): number;
  /** From now on nothing passes and nobody is told, until it is called with `false`. */
  blackhole(on: boolean): void;
  /** Drops every connection; new ones are let in. */
  cut(): void;
}

const QUEUE_BYTES_MAX = 256 * 1024;
const SLICE_BYTES = 16 * 1024;

export async function startProxy(options: ProxyOptions): Promise<Proxy> {
  const { port, delayMs = 0, bytesPerS = Infinity, onData, openTlsOf } = options;
  const sockets = new Set<Socket>();
  const buckets = [new Bucket(bytesPerS), new Bucket(bytesPerS)] as const;
  let connections = 0;
  const hole = new Hole();
  const accept = (client: Socket): void => {
    const lateMs = options.lateMs?.(connections) ?? 0;
    connections++;
    const upstream: Socket =
      openTlsOf === undefined
        ? connect({ host: "127.0.0.1", port, noDelay: true })
        : tls.connect({
            host: "127.0.0.1",
            port,
            rejectUnauthorized: false,
            ALPNProtocols: ["http/1.1"],
          });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      // Either end's error is the other's end.
      socket.on("error", () => undefined);
      socket.once("close", () => sockets.delete(socket));
    }
    pass({ from: client, to: upstream, delayMs, bucket: buckets[0], hole, onData });
    const back = { delayMs: delayMs + lateMs, bucket: buckets[1], hole, onData };
    pass({ from: upstream, to: client, ...back });
  };
  const server: Server =
    openTlsOf === undefined
      ? createServer(accept)
      : tls.createServer({ ...certificateOf(openTlsOf), ALPNProtocols: ["http/1.1"] }, accept);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return {
    url: `https://127.0.0.1:${address.port}`,
    connectionCount: () => connections,
    blackhole: (on) => hole.set(on),
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

interface Pass {
  readonly from: Socket;
  readonly to: Socket;
  readonly delayMs: number;
  readonly bucket: Bucket;
  readonly hole: Hole;
  readonly onData: ((data: Buffer) => void) | undefined;
}

function pass({ from, to, delayMs, bucket, hole, onData }: Pass): void {
  const queue: { data: Buffer; dueAtMs: number }[] = [];
  let queuedBytes = 0;
  let ended = false;
  let pumping = false;
  const pump = async (): Promise<void> => {
    if (pumping) return;
    pumping = true;
    for (let head = queue.shift(); head !== undefined; head = queue.shift()) {
      await bucket.take(head.data.length);
      await hole.passed();
      const waitMs = head.dueAtMs - performance.now();
      if (waitMs > 0) await sleep(waitMs);
      queuedBytes -= head.data.length;
      if (from.isPaused() && queuedBytes < QUEUE_BYTES_MAX) from.resume();
      if (to.destroyed) break;
      if (!to.write(head.data)) await drained(to);
    }
    pumping = false;
    if (ended && queue.length === 0) to.end();
  };
  from.on("data", (data: Buffer) => {
    onData?.(data);
    for (let at = 0; at < data.length; at += SLICE_BYTES) {
      queue.push({
        data: data.subarray(at, at + SLICE_BYTES),
        dueAtMs: performance.now() + delayMs,
      });
    }
    queuedBytes += data.length;
    if (queuedBytes >= QUEUE_BYTES_MAX && Number.isFinite(bucket.bytesPerS)) from.pause();
    void pump();
  });
  from.once("end", () => {
    ended = true;
    void pump();
  });
  from.once("close", () => {
    if (!ended) to.destroy();
  });
}

/** Holds everything while it is there. */
class Hole {
  #filled: Promise<void> | undefined;
  #fill: () => void = () => undefined;

  set(on: boolean): void {
    this.#fill();
    this.#filled = undefined;
    if (!on) return;
    this.#filled = new Promise((resolve) => {
      this.#fill = resolve;
    });
  }

  async passed(): Promise<void> {
    while (this.#filled !== undefined) await this.#filled;
  }
}

/** Lets bytes through at a rate, whoever asks first. */
class Bucket {
  readonly bytesPerS: number;
  #freeAtMs = 0;

  constructor(bytesPerS: number) {
    this.bytesPerS = bytesPerS;
  }

  async take(bytes: number): Promise<void> {
    if (!Number.isFinite(this.bytesPerS)) return;
    const now = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, now) + (bytes / this.bytesPerS) * 1_000;
    // Timers are too coarse for single slices: a little credit evens that out.
    if (this.#freeAtMs - now > 4) await sleep(this.#freeAtMs - now);
  }
}

function certificateOf(dataDir: string): { key: Buffer; cert: Buffer } {
  const read = (name: string): Buffer => readFileSync(path.join(dataDir, name));
  return { key: read("relay-private-key.pem"), cert: read("relay-certificate.pem") };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off("drain", done);
      socket.off("close", done);
      resolve();
    };
    socket.once("drain", done);
    socket.once("close", done);
  });
}
