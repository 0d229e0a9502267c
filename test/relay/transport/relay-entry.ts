/**
 * A relay's listener in a process of its own, for tests between runtimes. The first byte of a stream says
 * what becomes of it: echo, no read at all, an abort, or an orderly end. A line on standard input renews the
 * certificate.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { ProtocolError } from "../../../relay/protocol/errors.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { ensureCertificate } from "../../../relay/transport/certificate.ts";
import { listen } from "../../../relay/transport/listener.ts";

export const Wish = { ECHO: 1, NO_READ: 2, ABORT: 3, END: 4 } as const;

export interface RelayReady {
  readonly url: string;
  readonly hash: number[];
  readonly webTransport: { readonly name?: string; readonly unavailable?: string };
}

if (import.meta.main) {
  const certificate = await ensureCertificate({
    directory: process.argv[2] ?? "",
    hosts: ["127.0.0.1"],
  });
  const listener = await listen({
    host: "127.0.0.1",
    port: 0,
    certificate,
    onStream: ({ stream }) => {
      serve(stream).catch((error: unknown) => {
        if (!(error instanceof ProtocolError)) throw error;
      });
    },
    onProblem: (problem) => console.error(JSON.stringify(problem)),
  });
  const ready: RelayReady = {
    url: `https://127.0.0.1:${listener.https.port}`,
    hash: [...certificate.hash],
    webTransport: listener.webTransport,
  };
  console.log(JSON.stringify(ready));
  const input = createInterface({ input: process.stdin });
  input.on("line", () => {
    void (async () => {
      const directory = join(process.argv[2] ?? "", "renewed");
      const renewed = await ensureCertificate({ directory, hosts: ["127.0.0.1"] });
      await listener.renew(renewed);
      console.log(JSON.stringify([...renewed.hash]));
    })();
  });
  input.once("close", () => {
    void listener.close().then(() => process.exit(0));
  });
}

async function serve(stream: ByteStream): Promise<void> {
  const first = await stream.read();
  switch (first?.[0]) {
    case Wish.ECHO:
      for (let piece = first.subarray(1); ;) {
        await stream.write(piece);
        const next = await stream.read();
        if (next === null) return stream.end();
        piece = next;
      }
    case Wish.ABORT:
      return stream.abort("EPOCH_STALE", "the epoch moved on");
    case Wish.END:
      await stream.write(Uint8Array.of(1, 2, 3));
      return stream.end();
    default:
      await stream.closed;
  }
}
