/**
 * A relay's listener for tests of links.
 *
 * @module
 */
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { ensureCertificate, type RelayCertificate } from "../../relay/transport/certificate.ts";
import { listen, type ListenOptions, type Listener } from "../../relay/transport/listener.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";
import type { Dial } from "../../peer/net/link.ts";
import type { LinkUnderTest } from "./link.ts";

/** What arrives, for whoever waits first. */
export class Arrivals<T> {
  readonly #held: T[] = [];
  readonly #waiting: ((one: T) => void)[] = [];

  readonly add = (one: T): void => {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#held.push(one);
    else waiting(one);
  };

  readonly next = (): Promise<T> => {
    const held = this.#held.shift();
    if (held !== undefined) return Promise.resolve(held);
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  };
}

let shared: Promise<RelayCertificate> | undefined;

const folders: string[] = [];
const removeFolders = (): void => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
};
if (process.env["VITEST"] === undefined) {
  process.once("exit", removeFolders);
} else {
  // Not at the process' exit: a worker of the test runner is stopped before that.
  const { afterAll } = await import("vitest");
  afterAll(removeFolders);
}

/**
 * One for the whole process. On Deno the servers of a process share the keys of TLS session tickets: a
 * client that resumes a session with another of them sees the certificate of the first.
 */
export function testCertificate(): Promise<RelayCertificate> {
  shared ??= makeTestCertificate();
  return shared;
}

async function makeTestCertificate(): Promise<RelayCertificate> {
  const directory = await mkdtemp(join(tmpdir(), "memferry-certificate-"));
  folders.push(directory);
  return ensureCertificate({ directory, hosts: ["127.0.0.1", "localhost"] });
}

export interface TestListener {
  readonly listener: Listener;
  readonly certificate: RelayCertificate;
  readonly url: string;
  readonly arrivals: Arrivals<IncomingStream>;
  readonly close: () => Promise<void>;
}

export async function testListener(options: Partial<ListenOptions> = {}): Promise<TestListener> {
  const certificate = await testCertificate();
  const arrivals = new Arrivals<IncomingStream>();
  const listener = await listen({
    host: "127.0.0.1",
    port: 0,
    certificate,
    onStream: arrivals.add,
    ...options,
  });
  return {
    listener,
    certificate,
    url: `https://127.0.0.1:${listener.https.port}`,
    arrivals,
    close: () => listener.close(),
  };
}

export async function openReal(dial: Dial, options: Partial<ListenOptions> = {}) {
  const { certificate, url, arrivals, close } = await testListener(options);
  const under: LinkUnderTest = {
    dial,
    url,
    certificateHashes: [certificate.hash],
    incoming: arrivals.next,
    close,
  };
  return under;
}
