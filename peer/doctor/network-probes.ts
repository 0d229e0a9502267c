/**
 * What works between this host and the relay. Every probe has a deadline, and none throws.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { readFile } from "node:fs/promises";
import * as https from "node:https";
import { connect, isIP } from "node:net";
import { networkInterfaces } from "node:os";
import { promisify } from "node:util";

import { fromBase64Url, toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { proxyEnvironment } from "../config.ts";
import { connectionError, parseRelayUrl, type RelayAddress } from "../net/address.ts";
import { ApiClient } from "../net/api-client.ts";
import { LinkError } from "../net/errors.ts";
import type { DialOptions, Link } from "../net/link.ts";
import { dgramSocket } from "../net/paths/dgram-socket.ts";
import { discover } from "../net/paths/discovery.ts";
import { proxyFor, routedTcp } from "../net/proxy.ts";
import { currentPins, withCurrentPins, type PinnedRelay } from "../net/relay-pins.ts";
import { connectPinned, destroyLater, presentedCertificateHash } from "../net/tls.ts";
import { dialWebSocket } from "../net/websocket-link.ts";
import { dialWebTransport } from "../net/webtransport-link.ts";
import {
  ANSWER_BYTES_MAX,
  PROBE_DEADLINE_MS,
  PROGRAM_DEADLINE_MS,
  RESOLVE_DEADLINE_MS,
} from "./limits.ts";
import type { NetworkSnapshot, Probed, Timed } from "./snapshot.ts";

/** The relay as it is known here; an API key is not needed. */
export interface RelayToProbe {
  readonly url: string;
  readonly certificateHashes: readonly Uint8Array[];
  readonly relayIdentity: Uint8Array | undefined;
  readonly key: string | undefined;
}

type Tls = NetworkSnapshot["tls"];
type Name = NetworkSnapshot["name"];

const skipped = (message: string): { readonly problem: { code: string; message: string } } => ({
  problem: { code: "SKIPPED", message },
});

/** @throws LinkError `ADDRESS_INVALID` */
export async function probeNetwork(relay: RelayToProbe): Promise<NetworkSnapshot> {
  const address = parseRelayUrl(relay.url);
  const name = await probed(RESOLVE_DEADLINE_MS, () => resolve(address.host));
  const proxy = proxyInUse(address);
  const base = { url: relay.url, host: address.host, port: address.port, proxy, name };
  const [tcp, mtu, beyond] = await Promise.all([
    probeTcp(name, address.port),
    probeMtu(name, address.port),
    probeBeyond(relay, address, name),
  ]);
  return { ...base, tcp, mtu, ...beyond };
}

/** TLS, and what needs the certificate to be known. */
async function probeBeyond(relay: RelayToProbe, address: RelayAddress, name: Name) {
  const tls = await probeTls(relay, address);
  const known = pinsOf(relay, tls);
  const options: DialOptions = {
    url: relay.url,
    certificateHashes: known,
    relayIdentity: relay.relayIdentity,
    deadlineMs: PROBE_DEADLINE_MS,
  };
  const mismatch = "problem" in tls && tls.problem.code === "CERTIFICATE_MISMATCH";
  if (mismatch) {
    const why = skipped("somebody else may answer there");
    return { tls, webSocket: why, webTransport: why, clock: why, discovery: why, key: undefined };
  }
  const pinned = { address, certificateHashes: known, relayIdentity: relay.relayIdentity };
  const noTls = "problem" in tls ? skipped("no TLS connection to the relay") : undefined;
  const [webSocket, webTransport, clock, discovery, key] = await Promise.all([
    noTls ?? probed(PROBE_DEADLINE_MS, () => opened(dialWebSocket(options))),
    // It goes over UDP, which may work where TCP does not.
    probed(PROBE_DEADLINE_MS, () => opened(dialWebTransport(options))),
    noTls ?? probed(PROBE_DEADLINE_MS, () => clockOf(pinned)),
    noTls ?? probed(2 * PROBE_DEADLINE_MS, (signal) => discovered(pinned, name, signal)),
    noTls ?? probeKey(relay, tls),
  ]);
  return { tls, webSocket, webTransport, clock, discovery, key };
}

/** Those that the user knows, or for want of them that of whoever answers: nothing secret is said to it. */
function pinsOf({ certificateHashes }: RelayToProbe, tls: Tls): readonly Uint8Array[] {
  if (!("value" in tls) || tls.value.trust !== "unknown") return certificateHashes;
  return [Uint8Array.from(Buffer.from(tls.value.hash, "hex"))];
}

async function resolve(host: string): Promise<{ ipv4: string[]; ipv6: string[] }> {
  const found =
    isIP(host) === 0 ? await lookup(host, { all: true }) : [{ address: host, family: isIP(host) }];
  const of = (family: number): string[] =>
    found.filter((one) => one.family === family).map(({ address }) => address);
  return { ipv4: of(4), ipv6: of(6) };
}

function addressesOf(name: Name): string[] {
  return "value" in name ? [...name.value.ipv4, ...name.value.ipv6] : [];
}

async function probeTcp(name: Name, port: number): Promise<NetworkSnapshot["tcp"]> {
  if (!("value" in name)) return {};
  const probe = (host: string): Promise<Probed<Timed>> =>
    probed(PROBE_DEADLINE_MS, (signal) => connected(host, port, signal));
  const [four] = name.value.ipv4;
  const [six] = name.value.ipv6;
  const [tcp4, tcp6] = await Promise.all([
    four === undefined ? undefined : probe(four),
    six === undefined ? undefined : probe(six),
  ]);
  return {
    ...(tcp4 === undefined ? {} : { 4: tcp4 }),
    ...(tcp6 === undefined ? {} : { 6: tcp6 }),
  };
}

function connected(host: string, port: number, signal: AbortSignal): Promise<Timed> {
  const startedAtMs = performance.now();
  const socket = connect({ host, port });
  return new Promise<Timed>((done, fail) => {
    socket.once("connect", () => done({ ms: performance.now() - startedAtMs }));
    socket.once("error", fail);
    signal.addEventListener("abort", () => fail(signal.reason), { once: true });
  }).finally(() => socket.destroy());
}

async function probeTls(relay: RelayToProbe, address: RelayAddress): Promise<Tls> {
  const startedAtMs = performance.now();
  const { certificateHashes, relayIdentity } = relay;
  const trust = certificateHashes.length > 0 ? "pinned" : "system";
  const first = await probed(PROBE_DEADLINE_MS, async () => {
    const open: { destroy(): void }[] = [];
    try {
      const hash = await withCurrentPins(
        { address, certificateHashes, relayIdentity },
        async (hashes) => {
          const socket = await connectPinned(
            { address, certificateHashes: hashes, connectTcp: routedTcp },
            open,
          );
          return socket.getPeerX509Certificate()?.fingerprint256 ?? "";
        },
      );
      const hex = hash.replaceAll(":", "").toLowerCase();
      return { trust, hash: hex, ms: performance.now() - startedAtMs } as const;
    } catch (error) {
      throw connectionError(address, error);
    } finally {
      destroyLater(open);
    }
  });
  if ("value" in first || first.problem.code !== "CERTIFICATE_UNTRUSTED") return first;
  return await probed(PROBE_DEADLINE_MS, async () => {
    const hash = toHex(await presentedCertificateHash(address, routedTcp));
    return { trust: "unknown", hash, ms: performance.now() - startedAtMs } as const;
  });
}

async function opened(dialing: Promise<Link>): Promise<Timed> {
  const startedAtMs = performance.now();
  const link = await dialing;
  const ms = performance.now() - startedAtMs;
  await link.close("OK", "only looked");
  return { ms };
}

async function probeKey(relay: RelayToProbe, tls: Tls): Promise<Probed<Timed> | undefined> {
  const { key } = relay;
  if (key === undefined) return undefined;
  if ("value" in tls && tls.value.trust === "unknown") {
    return skipped("a key is not shown to a relay whose certificate is not known");
  }
  return await probed(PROBE_DEADLINE_MS, async () => {
    const startedAtMs = performance.now();
    await new ApiClient({ ...relay, key }).listSessions("?limit=1");
    return { ms: performance.now() - startedAtMs };
  });
}

interface Answer {
  readonly status: number;
  readonly date: string | undefined;
  readonly body: string;
}

/** One request without a key. */
async function ask(relay: PinnedRelay, method: string, path: string): Promise<Answer> {
  const { address } = relay;
  const open: { destroy(): void }[] = [];
  try {
    const socket = await connectPinned(
      { address, certificateHashes: currentPins(relay), connectTcp: routedTcp },
      open,
    );
    return await new Promise<Answer>((done, fail) => {
      const request = https.request({
        method,
        path,
        host: address.host,
        port: address.port,
        createConnection: () => socket,
        timeout: PROBE_DEADLINE_MS,
        headers: { host: address.text, accept: "application/json" },
      });
      request.once("timeout", () => request.destroy(new Error("the relay does not answer")));
      request.once("error", fail);
      request.once("response", (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (part: string) => {
          body += part;
          if (body.length > ANSWER_BYTES_MAX) request.destroy(new Error("the answer is too long"));
        });
        response.once("error", fail);
        response.once("end", () =>
          done({ status: response.statusCode ?? 0, date: response.headers.date, body }),
        );
      });
      request.end();
    });
  } finally {
    destroyLater(open);
  }
}

async function clockOf(relay: PinnedRelay): Promise<{ aheadMs: number }> {
  const { date } = await ask(relay, "GET", "/version");
  const relayMs = Date.parse(date ?? "");
  if (Number.isNaN(relayMs)) throw new Error("the relay does not tell the time");
  // The header has whole seconds, cut off: half of one is the best guess at the rest.
  return { aheadMs: Date.now() - (relayMs + 500) };
}

async function discovered(relay: PinnedRelay, name: Name, signal: AbortSignal) {
  const { status, body } = await ask(relay, "POST", "/v1/discovery");
  if (status === 404) throw new LinkError("RELAY_REFUSED", "the relay has no ports for it");
  if (status !== 200) throw new Error(`the relay answered with status ${status}`);
  const { token, ports } = tokenOf(JSON.parse(body));
  await using socket = await dgramSocket();
  const found = await discover(socket, { relays: addressesOf(name), ports, token }, signal);
  return { ...found, ports };
}

function tokenOf(body: unknown): { token: Uint8Array; ports: readonly [number, number] } {
  if (typeof body === "object" && body !== null && "token" in body && "ports" in body) {
    const { token, ports } = body;
    const [first, second]: unknown[] = Array.isArray(ports) ? ports : [];
    if (typeof token === "string" && typeof first === "number" && typeof second === "number") {
      return { token: fromBase64Url(token), ports: [first, second] };
    }
  }
  throw new Error("what answers there does not speak the relay's API");
}

async function probeMtu(name: Name, port: number): Promise<NetworkSnapshot["mtu"]> {
  const [address] = addressesOf(name);
  if (address === undefined) return skipped("the name does not resolve");
  return await probed(PROBE_DEADLINE_MS, async () => {
    const device = deviceOf(await localAddress(address, port));
    if (device === undefined) throw new Error(`no interface leads to ${address}`);
    const own = Number(await readFile(`/sys/class/net/${device}/mtu`, "utf8"));
    return { device, bytes: (await learntMtu(address)) ?? own };
  });
}

/** The kernel chooses a route when a socket is connected; nothing is sent. */
async function localAddress(address: string, port: number): Promise<string> {
  const socket = createSocket(isIP(address) === 6 ? "udp6" : "udp4");
  try {
    await new Promise<void>((done, fail) => {
      socket.once("error", fail);
      socket.connect(port, address, done);
    });
    return socket.address().address;
  } finally {
    socket.close();
  }
}

function deviceOf(local: string): string | undefined {
  const interfaces = Object.entries(networkInterfaces());
  return interfaces.find(([, list]) => list?.some(({ address }) => address === local))?.[0];
}

/** What routers on the way have told, if they have, and if there is a program to show it. */
async function learntMtu(address: string): Promise<number | undefined> {
  try {
    const options = { timeout: PROGRAM_DEADLINE_MS };
    const { stdout } = await promisify(execFile)("ip", ["route", "get", address], options);
    const [, mtu] = /\bmtu (\d+)/.exec(stdout) ?? [];
    return mtu === undefined ? undefined : Number(mtu);
  } catch {
    return undefined;
  }
}

function proxyInUse(address: RelayAddress): string | undefined {
  try {
    return proxyFor(address, proxyEnvironment())?.text;
  } catch {
    // The connection fails with the reason.
    return "something that is no URL of a proxy";
  }
}

async function probed<T>(
  deadlineMs: number,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<Probed<T>> {
  const late = new AbortController();
  const seconds = Math.round(deadlineMs / 1000);
  const error = new LinkError("DEADLINE_EXCEEDED", `no answer within ${seconds} s`);
  const over = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.abort(error);
    over.reject(error);
  }, deadlineMs);
  try {
    return { value: await Promise.race([work(late.signal), over.promise]) };
  } catch (cause) {
    const code =
      cause instanceof Error && "code" in cause && typeof cause.code === "string"
        ? cause.code
        : "INTERNAL";
    return { problem: { code, message: messageOf(cause) } };
  } finally {
    clearTimeout(timer);
  }
}
