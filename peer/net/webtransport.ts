/**
 * Which WebTransport client this runtime has.
 *
 * @module
 */
import { isMainThread } from "node:worker_threads";
import {
  failsStreamOptions,
  messageOf,
  type WebStreamOptions,
  type WebTransportSessionLike,
} from "../../relay/protocol/web-stream.ts";

export interface WebTransportClient {
  readonly name: "deno" | "fails-components" | "rwebtransport";
  /** Starts the session; its `ready` says when it is open. */
  connect(url: string, certificateHashes: readonly Uint8Array[]): WebTransportSessionLike;
  readonly streamOptions: WebStreamOptions;
}

interface HashOption {
  readonly algorithm: "sha-256";
  readonly value: Uint8Array;
}

interface ClientOptions {
  readonly serverCertificateHashes?: readonly HashOption[];
  readonly [extra: string]: unknown;
}

type ClientConstructor = new (url: string, options: ClientOptions) => WebTransportSessionLike;

const FAILS = "@fails-components/webtransport";
const FAILS_HTTP3 = "@fails-components/webtransport-transport-http3-quiche";
const RWEBTRANSPORT = "rwebtransport";
const WINDOW_BYTES = 4 * 1024 * 1024;

/** The first that loads, or why none does. Nothing is imported that is not used. */
export async function loadWebTransportClient(): Promise<
  WebTransportClient | { readonly unavailable: string }
> {
  if ("Deno" in globalThis) return denoClient();
  const fails = await failsClient();
  if (!("unavailable" in fails)) return fails;
  const rwebtransport = await rwebtransportClient();
  if (!("unavailable" in rwebtransport)) return rwebtransport;
  return { unavailable: `${fails.unavailable}; ${rwebtransport.unavailable}` };
}

type Loaded = Promise<WebTransportClient | { readonly unavailable: string }>;

async function denoClient(): Loaded {
  // A global only there and in browsers, so the types do not know it.
  const global = globalThis as { WebTransport?: ClientConstructor };
  const { WebTransport } = global;
  if (WebTransport === undefined) {
    return { unavailable: "Deno has no WebTransport unless it runs with --unstable-net" };
  }
  return {
    name: "deno",
    connect: (url, hashes) => new WebTransport(url, hashOptions(hashes)),
    streamOptions: {},
  };
}

/** @param extra For a test: its HTTP/2 transport has the same face. */
export function failsClientOf(
  WebTransport: ClientConstructor,
  extra: Record<string, unknown> = {},
): WebTransportClient {
  return {
    name: "fails-components",
    connect: (url, hashes) =>
      new WebTransport(url, {
        ...hashOptions(hashes),
        initialStreamFlowControlWindow: WINDOW_BYTES,
        initialSessionFlowControlWindow: WINDOW_BYTES,
        streamFlowControlWindowSizeLimit: WINDOW_BYTES,
        sessionFlowControlWindowSizeLimit: WINDOW_BYTES,
        ...extra,
      }),
    streamOptions: failsStreamOptions,
  };
}

async function failsClient(): Loaded {
  // The main package prints a stack trace when it is imported without its HTTP/3 part.
  const missing = notInstalled(FAILS_HTTP3) ?? notInstalled(FAILS);
  if (missing !== null) return missing;
  try {
    await import(FAILS_HTTP3);
    const loaded = (await import(FAILS)) as {
      WebTransport: ClientConstructor;
      quicheLoaded: Promise<unknown>;
    };
    await loaded.quicheLoaded;
    return failsClientOf(loaded.WebTransport);
  } catch (error) {
    return { unavailable: `${FAILS_HTTP3} does not load: ${messageOf(error)}` };
  }
}

async function rwebtransportClient(): Loaded {
  // Its callbacks abort the whole process if they come while the thread that they are for is being ended.
  if (!isMainThread) return { unavailable: `${RWEBTRANSPORT} is safe on the main thread only` };
  const major = Number(process.versions.node.split(".")[0]);
  // Outside these the package throws at first use, not when it loads.
  if (major !== 24 && major !== 26) {
    return {
      unavailable: `${RWEBTRANSPORT} runs on Node 24 and 26, this is ${process.versions.node}`,
    };
  }
  const missing = notInstalled(RWEBTRANSPORT);
  if (missing !== null) return missing;
  try {
    const loaded = (await import(RWEBTRANSPORT)) as {
      WebTransport: ClientConstructor;
      WebTransportError: new (
        message: string,
        options: { source: "stream"; streamErrorCode: number },
      ) => Error;
    };
    return {
      name: "rwebtransport",
      connect: (url, hashes) => new loaded.WebTransport(url, hashOptions(hashes)),
      streamOptions: {
        resetError: (code, message) =>
          new loaded.WebTransportError(message, { source: "stream", streamErrorCode: code }),
      },
    };
  } catch (error) {
    return { unavailable: `${RWEBTRANSPORT} does not load: ${messageOf(error)}` };
  }
}

function notInstalled(name: string): { unavailable: string } | null {
  try {
    import.meta.resolve(name);
    return null;
  } catch {
    return { unavailable: `${name} is not installed` };
  }
}

function hashOptions(hashes: readonly Uint8Array[]): ClientOptions {
  if (hashes.length === 0) return {};
  return {
    serverCertificateHashes: hashes.map((value) => ({ algorithm: "sha-256", value })),
  };
}
