import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { ApiClient } from "../../peer/net/api-client.ts";
import { dialLink } from "../../peer/net/dial.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { RelayControl } from "../../peer/net/relay-control.ts";
import { relayOf } from "../../peer/net/relay-pins.ts";
import { fromHex } from "../../relay/db/hex.ts";
import { decodeTicket, encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import type { RelayConfig } from "../../relay/config.ts";
import { startRelay, type Relay, type RelaySurroundings } from "../../relay/relay.ts";
import { loadWebTransportClient } from "../../peer/net/webtransport.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const hasWebTransport = !("unavailable" in (await loadWebTransportClient()));
// Deno's client resumes TLS sessions and then does not see a certificate that is new.
const onNode = !("Deno" in globalThis);

let directory: string;
const open: Relay[] = [];
const controls: RelayControl[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-relay-"));
});
afterEach(async () => {
  for (const control of controls.splice(0)) await control.close();
  for (const relay of open.splice(0)) await relay.close();
  await rm(directory, { recursive: true, force: true });
});

const userConfigFile = (): string => join(directory, "config.json");

async function start(port = 0, surroundings: RelaySurroundings = {}): Promise<Relay> {
  const config: RelayConfig = {
    listen: { host: "127.0.0.1", port },
    dashboard: undefined,
    dataDir: join(directory, "data"),
    databaseUrl: undefined,
    publicUrl: undefined,
    certificate: undefined,
    acme: undefined,
    secretKeyFile: undefined,
    name: "",
    zone: "",
    drainWaitMs: 1_000,
    retention: { days: 90, auditDays: 400 },
    webhooks: { allow: [], http: false },
    discoveryPorts: [0, 0],
    limits: {},
    webTransport: hasWebTransport,
    logLevel: "error",
    json: true,
    userConfigFile: userConfigFile(),
  };
  const relay = await startRelay(config, () => {}, surroundings);
  open.push(relay);
  return relay;
}

async function key(relay: Relay): Promise<string> {
  return (await readFile(relay.key.file, "utf8")).trim();
}

async function clientOf(relay: Relay): Promise<ApiClient> {
  return new ApiClient({
    url: relay.url,
    certificateHashes: relay.certificateHashes.map(fromHex),
    relayIdentity: fromHex(relay.identity),
    key: await key(relay),
  });
}

async function joined(ticket: Ticket, heard: string[] = []): Promise<RelayControl> {
  const control = await RelayControl.join({
    ticket,
    identity: PeerIdentity.generate(),
    dial: (signal) => dialLink("auto", { ...relayOf(ticket), signal }),
    onConnection: (connected, detail) => heard.push(connected ? "connected" : detail),
  });
  controls.push(control);
  return control;
}

async function ticketsOf(client: ApiClient): Promise<readonly [Ticket, Ticket]> {
  const { id, relay, seederToken, leecherToken } = await client.createSession({
    name: "s",
    ticketTtlMs: 60_000,
  });
  const common = { ...relay, sessionId: id, secret: new Uint8Array(32) };
  const seeder: Ticket = { ...common, role: "seeder", token: seederToken };
  const leecher: Ticket = { ...common, role: "leecher", token: leecherToken };
  // As it travels.
  return [seeder, decodeTicket(encodeTicket(leecher))];
}

test("startRelay() keeps its identity with mode 0600 and tells it to the user's commands", async () => {
  const first = await start();
  expect(first.identity).toMatch(/^[0-9a-f]{64}$/);
  const files = await readdir(join(directory, "data"));
  expect(files).toContain("relay-identity.pem");
  const { mode } = await stat(join(directory, "data", "relay-identity.pem"));
  expect(mode & 0o777).toBe(0o600);
  const saved = JSON.parse(await readFile(userConfigFile(), "utf8"));
  expect(saved.relays[0]).toMatchObject({ url: first.url, identity: first.identity });
  await first.close();
  expect((await start()).identity).toBe(first.identity);
}, 60_000);

// A relay whose data directory lost its certificate, or whose address changed, starts with another one.
test.runIf(onNode)(
  "a session outlives a restart of the relay with a new certificate",
  async () => {
    const first = await start();
    const port = Number(new URL(first.url).port);
    const client = await clientOf(first);
    const [seeder, leecher] = await ticketsOf(client);
    expect(leecher.relayIdentity).toEqual(fromHex(first.identity));
    const heard: string[] = [];
    const [one, other] = await Promise.all([joined(seeder, heard), joined(leecher)]);
    const before = await one.pairing();
    await other.pairing();

    await first.close();
    for (const name of ["relay-certificate.pem", "relay-private-key.pem"]) {
      await rm(join(directory, "data", name));
    }
    const second = await start(port);
    expect(second.certificateHashes).not.toEqual(first.certificateHashes);

    await new Promise<void>((resolve) => {
      if (before.lost.aborted) resolve();
      before.lost.addEventListener("abort", () => resolve(), { once: true });
    });
    const [a, b] = await Promise.all([one.pairing(), other.pairing()]);
    const [from, to] = await Promise.all([a.openStream(1), b.openStream(1)]);
    await from.write(Uint8Array.of(42));
    expect(await to.read()).toEqual(Uint8Array.of(42));
    expect(heard.at(-1)).toBe("connected");

    // The command line with what it saved before.
    expect((await client.listSessions("")).sessions).toHaveLength(1);
    const [late] = await ticketsOf(client);
    expect(late.certificateHashes).toEqual(second.certificateHashes.map(fromHex));
  },
  60_000,
);

test.runIf(onNode)(
  "a relay renews its certificate while it runs, and its peers follow",
  async () => {
    // Some days back: the certificate is fit to be used still, and about to be due.
    let nowMs = Date.now() - 9 * DAY_MS;
    const relay = await start(0, { now: () => nowMs, certificateCheckMs: 20 });
    const old = relay.certificateHashes;
    const client = await clientOf(relay);
    const [seeder, leecher] = await ticketsOf(client);
    const one = await joined(seeder);

    nowMs = Date.now();
    await vi.waitFor(
      async () => {
        expect(relay.certificateHashes).toHaveLength(1);
        expect(relay.certificateHashes).not.toEqual(old);
        const saved = JSON.parse(await readFile(userConfigFile(), "utf8"));
        expect(saved.relays[0]).toMatchObject({
          certificateHashes: relay.certificateHashes,
          key: await key(relay),
        });
      },
      { timeout: 30_000 },
    );
    // Its ticket names the old certificate.
    const other = await joined(leecher);
    const [a, b] = await Promise.all([one.pairing(), other.pairing()]);
    const [from, to] = await Promise.all([a.openStream(1), b.openStream(1)]);
    await from.write(Uint8Array.of(42));
    expect(await to.read()).toEqual(Uint8Array.of(42));
    expect((await client.listSessions("")).sessions).toHaveLength(1);
  },
  60_000,
);
