/**
 * How fast a link is through loopback, beside a bare TCP socket in the same run; one JSON object.
 *
 *     node test/bench/links.ts [--relay node|deno] [--mib 512] [--write-kib 64] [--rounds 3]
 *
 * The peer is this process, on whatever runs it (Deno needs `--allow-all --unstable-net`); the relay is a
 * child that reads and drops, or writes zeros. The best of the rounds counts: the machine is shared.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { availableParallelism } from "node:os";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Dial } from "../../peer/net/link.ts";
import { dialWebSocket } from "../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../peer/net/webtransport.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import { testListener } from "../compliance/link-support.ts";

const MIB = 1024 * 1024;
const UP = 1;
const DOWN = 2;

const { values } = parseArgs({
  options: {
    serve: { type: "boolean", default: false },
    relay: { type: "string", default: "node" },
    mib: { type: "string", default: "512" },
    "write-kib": { type: "string", default: "64" },
    rounds: { type: "string", default: "3" },
  },
});
const total = Number(values.mib) * MIB;
const piece = Number(values["write-kib"]) * 1024;
const rounds = Number(values.rounds);

await (values.serve ? serve() : measure());

async function serve(): Promise<void> {
  const { listener, certificate, url } = await testListener({
    onStream: ({ stream }) => {
      answer(stream).catch((error: unknown) => console.error(error));
    },
  });
  const tcp = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (first: Uint8Array) => answerTcp(socket, first));
  });
  await new Promise<void>((resolve) => {
    tcp.listen(0, "127.0.0.1", resolve);
  });
  const { port } = tcp.address() as AddressInfo;
  const { webTransport } = listener;
  console.log(JSON.stringify({ url, hash: [...certificate.hash], tcpPort: port, webTransport }));
}

/** One byte says which way; then `total` bytes go, and one byte back says that all arrived. */
async function answer(stream: ByteStream): Promise<void> {
  const first = await stream.read();
  if (first?.[0] === UP) {
    let got = first.length - 1;
    while (got < total) got += (await stream.read())?.length ?? total;
    await stream.write(Uint8Array.of(1));
  } else {
    const bytes = new Uint8Array(piece);
    for (let sent = 0; sent < total; sent += piece) await stream.write(bytes);
  }
}

function answerTcp(socket: Socket, first: Uint8Array): void {
  if (first[0] === UP) {
    let got = first.length - 1;
    socket.on("data", (bytes: Uint8Array) => {
      got += bytes.length;
      if (got >= total) socket.end(Uint8Array.of(1));
    });
    return;
  }
  const bytes = new Uint8Array(piece);
  let sent = 0;
  const pump = (): void => {
    while (sent < total) {
      sent += piece;
      if (!socket.write(bytes)) return void socket.once("drain", pump);
    }
    socket.end();
  };
  pump();
}

async function measure(): Promise<void> {
  const file = fileURLToPath(import.meta.url);
  const flags = ["--serve", "--mib", values.mib, "--write-kib", values["write-kib"]];
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const [command, before] =
    values.relay === "deno"
      ? [`${root}node_modules/deno/deno`, ["run", "--allow-all", "--unstable-net"]]
      : [`${root}node_modules/.bin/node`, []];
  const child = spawn(command, [...before, file, ...flags], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const lines = createInterface({ input: child.stdout });
    const [line] = await new Promise<string[]>((resolve) => {
      lines.once("line", (text: string) => resolve([text]));
    });
    const relay = JSON.parse(line ?? "") as {
      url: string;
      hash: number[];
      tcpPort: number;
      webTransport: { name?: string; unavailable?: string };
    };
    const client = await loadWebTransportClient();
    const results: Record<string, unknown> = {
      tcp: await best((way) => runTcp(relay.tcpPort, way)),
    };
    const dials: [string, Dial][] = [["websocket", dialWebSocket]];
    if (!("unavailable" in client) && relay.webTransport.name !== undefined) {
      dials.push([`webtransport ${client.name} to ${relay.webTransport.name}`, dialWebTransport]);
    }
    for (const [name, dial] of dials) {
      const link = await dial({
        url: relay.url,
        certificateHashes: [Uint8Array.from(relay.hash)],
      });
      results[name] = await best(async (way) => runStream(await link.openStream(), way));
      await link.close("OK", "measured");
    }
    console.log(
      JSON.stringify(
        {
          unit: "MiB/s",
          peer: "Deno" in globalThis ? "deno" : `node ${process.versions.node}`,
          relay: values.relay,
          cpus: availableParallelism(),
          mib: total / MIB,
          writeKib: piece / 1024,
          rounds,
          results,
        },
        null,
        2,
      ),
    );
  } finally {
    child.kill();
  }
}

async function best(run: (way: number) => Promise<number>): Promise<{ up: number; down: number }> {
  const result = { up: 0, down: 0 };
  for (let round = 0; round < rounds; round += 1) {
    result.up = Math.max(result.up, await run(UP));
    result.down = Math.max(result.down, await run(DOWN));
  }
  return result;
}

async function runStream(stream: ByteStream, way: number): Promise<number> {
  await stream.write(Uint8Array.of(way));
  const start = performance.now();
  if (way === UP) {
    const bytes = new Uint8Array(piece);
    for (let sent = 0; sent < total; sent += piece) await stream.write(bytes);
    await stream.read();
  } else {
    let got = 0;
    while (got < total) got += (await stream.read())?.length ?? total;
  }
  const rate = rateSince(start);
  stream.abort("OK", "measured");
  return rate;
}

function runTcp(port: number, way: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true }, () => {
      socket.write(Uint8Array.of(way));
      const start = performance.now();
      let got = 0;
      socket.on("data", (bytes: Uint8Array) => {
        got += bytes.length;
        if (way === DOWN && got < total) return;
        resolve(rateSince(start));
        socket.destroy();
      });
      if (way === DOWN) return;
      const bytes = new Uint8Array(piece);
      let sent = 0;
      const pump = (): void => {
        while (sent < total) {
          sent += piece;
          if (!socket.write(bytes)) return void socket.once("drain", pump);
        }
      };
      pump();
    });
    socket.on("error", reject);
  });
}

function rateSince(start: number): number {
  return Math.round(total / MIB / ((performance.now() - start) / 1000));
}
