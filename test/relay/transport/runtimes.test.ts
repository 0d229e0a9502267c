// A peer on Node against the relay's listener on each runtime, in a process of its own.
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../../peer/net/webtransport.ts";
import type { LinkKind } from "../../../relay/protocol/stream.ts";
import type { Dial, Link } from "../../../peer/net/link.ts";
import { pattern, same, take } from "../../compliance/link.ts";
import { Wish, type RelayReady } from "./relay-entry.ts";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const entry = fileURLToPath(new URL("relay-entry.ts", import.meta.url));

/** What the transport needs of Deno, and no more. */
function denoCommand(directory: string): string[] {
  return [
    join(root, "node_modules/deno/deno"),
    "run",
    "--no-prompt",
    "--unstable-net",
    "--allow-net=127.0.0.1",
    `--allow-read=${directory},${root}`,
    `--allow-write=${directory}`,
    "--allow-env",
  ];
}

const runtimes = [
  { name: "Node", command: () => [process.execPath] },
  { name: "Deno", command: denoCommand },
];
const onNode = !("Deno" in globalThis);
const client = await loadWebTransportClient();

describe.runIf(onNode).each(runtimes)("a relay on $name, a peer on Node", ({ command }) => {
  let directory: string;
  let child: ChildProcess;
  let ready: RelayReady;
  const problems: string[] = [];
  let line: () => Promise<string>;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "memferry-relay-"));
    const [program = "", ...flags] = command(directory);
    child = spawn(program, [...flags, entry, directory], { stdio: ["pipe", "pipe", "pipe"] });
    child.stderr?.on("data", (text: Buffer) => problems.push(text.toString()));
    const { stdout } = child;
    if (stdout === null) throw new Error("no output");
    const lines = createInterface({ input: stdout });
    line = () =>
      new Promise((resolve, reject) => {
        child.once("exit", () => reject(new Error(`the relay ended: ${problems.join("")}`)));
        lines.once("line", resolve);
      });
    ready = JSON.parse(await line()) as RelayReady;
  });
  afterAll(async () => {
    const exited = new Promise((resolve) => {
      child.once("exit", resolve);
    });
    child.stdin?.end();
    if ((await exited) !== 0) throw new Error("the relay did not end well");
    await rm(directory, { recursive: true, force: true });
  });

  const dials: [LinkKind, Dial][] = [["websocket", dialWebSocket]];
  if (!("unavailable" in client)) dials.push(["webtransport", dialWebTransport]);

  describe.each(dials)("over %s", (kind, dial) => {
    async function open(): Promise<Link> {
      const certificateHashes = [Uint8Array.from(ready.hash)];
      return dial({ url: ready.url, certificateHashes });
    }

    test("echoes 5 MiB on each of eight streams", async () => {
      expect(kind === "websocket" || ready.webTransport.name !== undefined).toBe(true);
      const link = await open();
      const sent = pattern(5 * 1024 * 1024, 1);
      const streams = await Promise.all(Array.from({ length: 8 }, () => link.openStream()));
      await Promise.all(
        streams.map(async (stream) => {
          await stream.write(Uint8Array.of(Wish.ECHO));
          const [, got] = await Promise.all([
            stream.write(sent.slice()),
            take(stream, sent.length),
          ]);
          expect(same(got, sent)).toBe(true);
        }),
      );
      await link.close("OK", "done");
    });

    test("is held back when the relay does not read, while other streams go on", async () => {
      const link = await open();
      const stream = await link.openStream();
      await stream.write(Uint8Array.of(Wish.NO_READ));
      let accepted = 0;
      const sending = (async () => {
        for (;;) {
          await stream.write(new Uint8Array(64 * 1024));
          accepted += 64 * 1024;
        }
      })();
      sending.catch(() => {});
      const other = await link.openStream();
      await other.write(Uint8Array.of(Wish.ECHO));
      await other.write(pattern(1000, 2));
      expect(same(await take(other, 1000), pattern(1000, 2))).toBe(true);
      await new Promise((resolve) => {
        setTimeout(resolve, 700);
      });
      const before = accepted;
      await new Promise((resolve) => {
        setTimeout(resolve, 300);
      });
      expect(accepted).toBe(before);
      // The kernel's buffers for TCP on both sides are in it.
      expect(accepted).toBeLessThan(16 * 1024 * 1024);
      await link.close("OK", "done");
      await expect(sending).rejects.toMatchObject({ name: "ProtocolError" });
    });

    test("hears why the relay aborted", async () => {
      const link = await open();
      const stream = await link.openStream();
      await stream.write(Uint8Array.of(Wish.ABORT));
      await expect(stream.read()).rejects.toMatchObject({ code: "EPOCH_STALE" });
      await link.close("OK", "done");
    });

    test("sees the relay's orderly end", async () => {
      const link = await open();
      const stream = await link.openStream();
      await stream.write(Uint8Array.of(Wish.END));
      expect(await take(stream, 3)).toEqual(Uint8Array.of(1, 2, 3));
      expect(await stream.read()).toBeNull();
      await stream.end();
      expect(await stream.closed).toEqual({ code: "OK", reason: "" });
      await link.close("OK", "done");
    });
  });

  test("shows a renewed certificate on both, and streams over TLS go on", async () => {
    const old = [Uint8Array.from(ready.hash)];
    const before = await dialWebSocket({ url: ready.url, certificateHashes: old });
    const stream = await before.openStream();
    await stream.write(Uint8Array.of(Wish.ECHO, 5));
    expect(await take(stream, 1)).toEqual(Uint8Array.of(5));

    child.stdin?.write("renew\n");
    const renewed = [Uint8Array.from(JSON.parse(await line()) as number[])];
    await stream.write(Uint8Array.of(6));
    expect(await take(stream, 1)).toEqual(Uint8Array.of(6));
    for (const [, dial] of dials) {
      await expect(dial({ url: ready.url, certificateHashes: old })).rejects.toMatchObject({
        code: "CERTIFICATE_MISMATCH",
      });
      const link = await dial({ url: ready.url, certificateHashes: renewed });
      const echo = await link.openStream();
      await echo.write(Uint8Array.of(Wish.ECHO, 7));
      expect(await take(echo, 1)).toEqual(Uint8Array.of(7));
      await link.close("OK", "done");
    }
    await before.close("OK", "done");
  });

  test("meets no problem on the way", () => {
    expect(problems).toEqual([]);
  });
});
