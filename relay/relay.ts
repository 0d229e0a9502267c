/**
 * A running relay: database, switchboard, HTTP and sockets put together.
 *
 * @module
 */
import { chmod, mkdir, readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { getRequestListener } from "@hono/node-server";

import { fromHex } from "./db/hex.ts";
import { toHex } from "./protocol/bytes.ts";
import { messageOf } from "./protocol/errors.ts";
import type { LinkKind } from "./protocol/stream.ts";
import { Changes } from "./api/changes.ts";
import { meetDeadlines } from "./api/deadlines.ts";
import { SessionService } from "./api/session-service.ts";
import { AgentHub } from "./agents/hub.ts";
import { createAgentStore } from "./agents/store.ts";
import { loadConsole } from "./api/console.ts";
import type { RelayAddress } from "./api/sessions.ts";
import { createApp } from "./app.ts";
import type { Address, RelayConfig } from "./config.ts";
import { createApiKeys, DEFAULT_PROJECT, type ApiKeys } from "./db/api-keys.ts";
import { openDatabase, type Database } from "./db/database.ts";
import { createIdempotentRequests } from "./db/idempotent-requests.ts";
import { API_SCOPES } from "./db/schema.ts";
import { projectShares, sessionRates, spentProjects } from "./db/project-limits.ts";
import { createSessionStore, type DatabaseSessionStore } from "./db/session-store.ts";
import { abandonedSessions } from "./db/sessions.ts";
import { removeOld, type Retention } from "./db/retention.ts";
import { createSignIns } from "./db/sign-ins.ts";
import { RelayError, systemCode } from "./errors.ts";
import { RelayNode } from "./relay-node.ts";
import { checkSealedSecrets } from "./webhooks/check-secrets.ts";
import { Deliverer } from "./webhooks/deliverer.ts";
import { relayLimits, type RelayLimits } from "./limits.ts";
import type { Log } from "./log.ts";
import { NodeBounds } from "./node-bounds.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { lockDirectory } from "./runtime/directory-lock.ts";
import { kernelHints } from "./runtime/kernel-hints.ts";
import { packageVersion, runtimeName, type RuntimeName } from "./runtime/runtime.ts";
import { saveUserConfig, writeWhole } from "./runtime/user-config.ts";
import { createSecretBox, loadSecretKey } from "./secret-box.ts";
import { NodeBuffers } from "./switchboard/buffers.ts";
import { FairShare } from "./switchboard/fair-share.ts";
import { Switchboard } from "./switchboard/switchboard.ts";
import { Admission } from "./transport/admission.ts";
import { CertificateKeeper } from "./transport/certificate-keeper.ts";
import { certificateSource } from "./transport/certificate-source.ts";
import type { RelayCertificate } from "./transport/certificate.ts";
import { listenDiscovery, type DiscoveryServer } from "./transport/discovery.ts";
import { ensureIdentity } from "./transport/identity.ts";
import { listen, type Listener } from "./transport/listener.ts";
import { recordUsage } from "./usage.ts";

export interface Relay extends AsyncDisposable {
  /** How peers reach it. */
  readonly url: string;
  /** The console over plain HTTP on this host. */
  readonly dashboardUrl: string | undefined;
  /** SHA-256 of the certificate in hexadecimal; empty if peers' trust stores decide. */
  readonly certificateHashes: readonly string[];
  /** The relay's public key in hexadecimal, which vouches for its certificates. */
  readonly identity: string;
  readonly links: readonly LinkKind[];
  readonly runtime: RuntimeName;
  readonly version: string;
  /** Where the key for everything is, and the key itself if this start made it. */
  readonly key: { readonly file: string; readonly created: string | undefined };
  /** Stops accepting, lets peers go, writes what is to be written. Repeated calls do nothing. */
  close(): Promise<void>;
}

const KEY_FILE = "relay-key";
const DATABASE_FOLDER = "database";
const CARE_INTERVAL_MS = 30_000;
const DEADLINE_INTERVAL_MS = 2_000;
const RETENTION_INTERVAL_MS = 10 * 60_000;
/** Sessions whose last link is remembered, to see that it was another one before. */
const LAST_PATHS_MAX = 10_000;
const ABANDONED_PER_ROUND = 500;
/** What one part of the relay may take to close: a database that stands still must not keep it from leaving. */
const CLOSE_STEP_MS = 10_000;

/** What a test puts in place of the world. */
export interface RelaySurroundings {
  /** Milliseconds since the epoch, for the age of certificates. */
  readonly now?: () => number;
  /** How often a certificate's age is looked at. */
  readonly certificateCheckMs?: number;
}

/** @throws RelayError with the cure in its message. */
export async function startRelay(
  config: RelayConfig,
  log: Log,
  surroundings: RelaySurroundings = {},
): Promise<Relay> {
  // Undone in reverse if a later step fails, and when the relay closes.
  const undo: (() => Promise<void> | void)[] = [];
  const unwind = async (): Promise<void> => {
    for (let step = undo.pop(); step !== undefined; step = undo.pop()) {
      try {
        // Peers that leave have a time of their own.
        await inTime(step(), CLOSE_STEP_MS + config.drainWaitMs);
      } catch (error) {
        log("warn", "a part of the relay did not close", { reason: messageOf(error) });
      }
    }
  };
  try {
    return await start(config, log, surroundings, undo, unwind);
  } catch (error) {
    await unwind();
    throw error;
  }
}

async function inTime(work: Promise<void> | void, ms: number): Promise<void> {
  let timer;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("it takes too long")), ms);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function start(
  config: RelayConfig,
  log: Log,
  surroundings: RelaySurroundings,
  undo: (() => Promise<void> | void)[],
  unwind: () => Promise<void>,
): Promise<Relay> {
  const version = packageVersion();
  await makeDirectory(config.dataDir);
  undo.push(await lockDirectory(config.dataDir));

  const metrics = createMetrics();
  const limits = relayLimits(config.limits);
  const database = await openDatabase({
    url: config.databaseUrl,
    dataDir: join(config.dataDir, DATABASE_FOLDER),
    onError: (error) => {
      metrics.countDatabaseError();
      log("warn", "the database failed", { reason: messageOf(error) });
    },
  });
  undo.push(() => database.close());

  const store = createSessionStore(database, {
    onDowntime: (downtimeMs) => metrics.observeDowntime(downtimeMs),
    onDone: (seconds) => metrics.observeMigration(seconds),
    onFoldError: (error) => log("warn", "index not folded", { reason: messageOf(error) }),
    defaults: limits,
  });
  undo.push(() => store.index.settled());
  const apiKeys = createApiKeys(database);
  const secrets = createSecretBox(await loadSecretKey(config.dataDir, config.secretKeyFile));
  await checkSealedSecrets(database, secrets, log, config.secretKeyFile);
  const key = await ensureKey(config.dataDir, apiKeys);

  const discovery = await discoveryOrWithout(config, log, metrics);
  if (discovery !== undefined) undo.push(() => discovery.close());
  const throttled = (limitName: string): void => metrics.countThrottled(limitName);
  const node = new NodeBounds({
    limits,
    liveSessions: () => switchboard.liveSessionCount,
    onProblem: (reason) => log("warn", "this process could not be looked at", { reason }),
  });
  const shares = new FairShare({ nodeBytesPerS: limits.nodeBytesPerS });
  const buffers = new NodeBuffers(limits);
  const admission = new Admission({ limits, onRefused: throttled });
  const switchboard: Switchboard = new Switchboard({
    store,
    log,
    discovery,
    bounds: {
      shares,
      buffers,
      refusal: (projectId) => node.refusal(projectId),
      onThrottled: throttled,
    },
    onHandshakeFailure: (code) => metrics.countHandshakeFailure(code),
    onBytes: (from, link, count) => {
      bytesRelayed += count;
      metrics.addBytes(from, link, count);
    },
    onPaired: (sessionId, path, waitedMs) => {
      if (waitedMs !== undefined) metrics.observePairWait(waitedMs / 1000);
      const before = lastPaths.get(sessionId);
      if (before !== undefined && before !== path) metrics.countPathChange(before, path);
      lastPaths.delete(sessionId);
      lastPaths.set(sessionId, path);
      const [oldest] = lastPaths.size > LAST_PATHS_MAX ? lastPaths.keys() : [];
      if (oldest !== undefined) lastPaths.delete(oldest);
    },
    drainDeadlineMs: config.drainWaitMs,
  });
  let bytesRelayed = 0;
  const lastPaths = new Map<string, string>();
  const relay = new RelayNode({
    database,
    log,
    // Known once it listens; the first heartbeat comes after that.
    url: () => address.url,
    version,
    name: config.name,
    zone: config.zone,
    sessions: () => switchboard.liveSessionCount,
    bytesRelayed: () => bytesRelayed,
  });
  undo.push(() => relay.stop());
  undo.push(recordUsage(switchboard, store, log));
  undo.push(() => switchboard.close());

  const identity = await ensureIdentity(config.dataDir);
  const source = certificateSource(config, log, surroundings.now);
  const certificate = await source.first();
  const pinned = ({ hash }: RelayCertificate): string[] => (source.pinned ? [toHex(hash)] : []);

  const down = new AbortController();
  let address: RelayAddress = {
    url: "",
    certificateHashes: pinned(certificate),
    identity: toHex(identity.publicKey),
  };
  const keeper = new CertificateKeeper({
    certificate,
    ensure: () => source.ensure(),
    onRenewed: async (renewed) => {
      await listener.renew(renewed);
      address = { ...address, certificateHashes: pinned(renewed) };
      log("info", "certificate renewed", { notAfter: renewed.notAfter.toISOString() });
      await tellUser(config, log, { ...address, key: undefined });
    },
    onProblem: (reason) => log("warn", "the certificate was not renewed", { reason }),
    checkIntervalMs: surroundings.certificateCheckMs ?? source.checkIntervalMs,
  });
  const changes = new Changes();
  const agents = new AgentHub({
    store: createAgentStore(database, limits),
    log,
    identity: identity.publicKey,
    onFailed: async ({ sessionId, reason }) => {
      const id = fromHex(sessionId);
      // Not if it has moved already, or is over.
      if (!(await store.setState(id, { by: "relay", state: "cancelled", reason }))) return;
      switchboard.command(id, "cancel", reason);
      await switchboard.announce(id);
      changes.publish(sessionId);
    },
  });
  undo.push(() => agents.close());
  const sessions = new SessionService({
    database,
    store,
    switchboard,
    changes,
    place: () => relay.place,
  });
  const app = createApp({
    sessions,
    relay,
    agents,
    webhooks: { secrets, rules: config.webhooks },
    changes,
    limits,
    node,
    admission,
    database,
    store,
    apiKeys,
    switchboard,
    metrics,
    log,
    console: await loadConsole(
      ["../web/dist", "../../web/dist"].map((path) =>
        fileURLToPath(new URL(path, import.meta.url)),
      ),
    ),
    version,
    address: () => address,
    vouch: (nonce) => identity.vouch(nonce, keeper.notices),
    discovery,
    signal: down.signal,
  });
  const answer = getRequestListener(app.fetch, { overrideGlobalObjects: false });
  const listener = await listenOrSay(config, {
    host: config.listen.host === "" ? "::" : config.listen.host,
    port: config.listen.port,
    certificate,
    limits,
    admission,
    onStream: (incoming) => switchboard.accept(incoming),
    onAgent: (incoming) => agents.accept(incoming),
    // It never rejects: what a handler throws has become an answer before.
    requestListener: (request, response) => void answer(request, response),
    webTransport: config.webTransport ? "auto" : "off",
    ...(config.dashboard === undefined ? {} : { plain: config.dashboard }),
    onProblem: ({ what, remoteAddress, message }) => {
      metrics.countAcceptFailure(what);
      log("debug", "connection problem", { what, remoteAddress, reason: message });
    },
  });
  undo.push(() => listener.close());
  // While the sockets are still there: peers are told when to come back.
  undo.push(() => switchboard.close());
  undo.push(() => agents.close());
  undo.push(() => {
    relay.goDown();
    down.abort();
  });
  keeper.start();
  undo.push(() => keeper.stop());

  const url = config.publicUrl ?? urlOf("https", peerHost(config.listen.host), listener.https.port);
  address = { ...address, url };
  await relay.start();
  const deliverer = new Deliverer({
    database,
    secrets,
    rules: config.webhooks,
    version,
    log,
    onAttempt: (state) => metrics.countWebhook(state),
  });
  deliverer.start();
  undo.push(() => deliverer.stop());
  const dashboardUrl =
    listener.plain === null || config.dashboard === undefined
      ? undefined
      : urlOf("http", config.dashboard.host, listener.plain.port);
  if (config.webTransport && "unavailable" in listener.webTransport) {
    log("warn", "no WebTransport: peers use WebSocket", {
      reason: listener.webTransport.unavailable,
    });
  }
  const isWebTransport = !("unavailable" in listener.webTransport);
  for (const hint of kernelHints({ webTransport: isWebTransport })) {
    log("info", "this host's kernel could be faster over distance", { ...hint });
  }
  undo.push(
    await takeCare({
      database,
      store,
      changes,
      service: sessions,
      retention: config.retention,
      log,
      switchboard,
      limits,
      shares,
      node,
    }),
  );

  await tellUser(config, log, { ...address, key: key.text });

  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= unwind());
  return {
    url,
    dashboardUrl,
    get certificateHashes() {
      return address.certificateHashes;
    },
    identity: address.identity,
    links: "unavailable" in listener.webTransport ? ["websocket"] : ["webtransport", "websocket"],
    runtime: runtimeName(),
    version,
    key: { file: key.file, created: key.created },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** The relay is good without it; its commands will ask for --relay. */
async function tellUser(
  { userConfigFile: file }: RelayConfig,
  log: Log,
  { url, certificateHashes, identity, key }: RelayAddress & { readonly key: string | undefined },
): Promise<void> {
  if (file === undefined) return;
  const vouched = certificateHashes.length === 0 ? {} : { identity };
  try {
    await saveUserConfig(file, { url, certificateHashes, key, ...vouched });
  } catch (error) {
    const reason = messageOf(error);
    log("warn", "the user's configuration was not written", { file, reason });
  }
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    // It may have been there before, open to others.
    await chmod(path, 0o700);
  } catch (cause) {
    throw new RelayError(
      "DATA_DIRECTORY_UNUSABLE",
      `${path} cannot be used (${systemCode(cause) ?? messageOf(cause)}): give --data a directory that this user may write`,
      { cause },
    );
  }
}

/** Direct paths are a gain, not a need: without its ports the relay relays. */
async function discoveryOrWithout(
  { listen: { host }, discoveryPorts: ports }: RelayConfig,
  log: Log,
  metrics: Metrics,
): Promise<DiscoveryServer | undefined> {
  if (ports === undefined) return undefined;
  try {
    return await listenDiscovery({
      host,
      ports,
      count: (outcome) => metrics.countDiscovery(outcome),
      onProblem: (reason) => log("debug", "a port for address discovery failed", { reason }),
    });
  } catch (error) {
    log("warn", "no address discovery, so no direct paths: give --discovery-ports two free ports", {
      ports: ports.join(","),
      reason: systemCode(error) ?? messageOf(error),
    });
    return undefined;
  }
}

async function listenOrSay(
  config: RelayConfig,
  options: Parameters<typeof listen>[0],
): Promise<Listener> {
  try {
    return await listen(options);
  } catch (cause) {
    const code = systemCode(cause);
    // Which of the two: the error names the port.
    const port = typeof cause === "object" && cause !== null && "port" in cause ? cause.port : 0;
    const dashboard = config.dashboard !== undefined && config.dashboard.port === port;
    const flag = dashboard ? "--dashboard" : "--listen";
    const { host, port: wanted } = dashboard ? config.dashboard : config.listen;
    if (code === "EADDRINUSE") {
      throw new RelayError(
        "ADDRESS_IN_USE",
        `port ${wanted} is taken: stop the program that has it, or give ${flag} another HOST:PORT`,
        { cause },
      );
    }
    if (code === "EACCES" || code === "EADDRNOTAVAIL" || code === "ENOTFOUND") {
      throw new RelayError(
        "ADDRESS_IN_USE",
        `cannot listen on ${host}:${wanted} (${code}): give ${flag} an address of this host and a port that this user may have`,
        { cause },
      );
    }
    throw cause;
  }
}

/** The first start makes the project and its key. Later ones find both, or the operator took the key away. */
async function ensureKey(
  dataDir: string,
  apiKeys: ApiKeys,
): Promise<{ file: string; text: string | undefined; created: string | undefined }> {
  const file = join(dataDir, KEY_FILE);
  const projectId = await apiKeys.project(DEFAULT_PROJECT);
  const kept = (await readFile(file, "utf8").catch(() => "")).trim();
  const holder = kept === "" ? undefined : await apiKeys.authenticate(kept);
  const text = holder === undefined ? undefined : kept;
  if (holder?.scopes.includes("operator") === true || (await apiKeys.hasOperatorKey())) {
    return { file, text, created: undefined };
  }
  const { key } = await apiKeys.create({ projectId, name: "first", scopes: API_SCOPES });
  await writeWhole(file, `${key}\n`);
  return { file, text: key, created: key };
}

/** Ends sessions that nobody joined, and clears away what is over. @returns Stops it. */
async function takeCare(parts: {
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly switchboard: Switchboard;
  readonly changes: Changes;
  readonly service: SessionService;
  readonly retention: Retention;
  readonly log: Log;
  readonly limits: RelayLimits;
  readonly shares: FairShare;
  readonly node: NodeBounds;
}): Promise<() => Promise<void>> {
  const { database, store, switchboard, changes, service, log, limits, shares, node } = parts;
  const { retention } = parts;
  const requests = createIdempotentRequests(database, limits);
  const signIns = createSignIns(database);
  const beat = async (): Promise<void> => {
    await requests.clear();
    node.setSpent(await spentProjects(database, limits));
    const ofProjects = await projectShares(database, shares.projectIds, limits);
    for (const [projectId, share] of ofProjects) shares.configure(projectId, share);
    const ofSessions = await sessionRates(database, switchboard.liveSessionIds);
    for (const [id, bytesPerS] of ofSessions) switchboard.setBytesPerS(id, bytesPerS);
    await signIns.clear();
    for (const sessionId of await abandonedSessions(database, ABANDONED_PER_ROUND)) {
      const change = {
        by: "relay",
        state: "cancelled",
        reason: "a ticket was not used in time",
      } as const;
      await store.setState(fromHex(sessionId), change);
      await switchboard.announce(fromHex(sessionId));
      changes.publish(sessionId);
    }
  };
  const clearAway = async (): Promise<void> => {
    const removed = await removeOld(database, retention);
    const rows = Object.values(removed).reduce((sum, count) => sum + count, 0);
    if (rows > 0) log("info", "what was old was taken away", { ...removed });
  };
  await beat();
  const stops = [
    repeatedly(CARE_INTERVAL_MS, beat, log),
    repeatedly(RETENTION_INTERVAL_MS, clearAway, log),
    repeatedly(DEADLINE_INTERVAL_MS, () => meetDeadlines({ database, store, service, log }), log),
  ];
  return async () => {
    await Promise.all(stops.map((stop) => stop()));
  };
}

/** Never twice at once. @returns Stops it, and waits for what is under way. */
function repeatedly(everyMs: number, work: () => Promise<void>, log: Log): () => Promise<void> {
  let running: Promise<void> | undefined;
  const timer = setInterval(() => {
    running ??= work()
      .catch((error: unknown) => {
        log("warn", "housekeeping failed", { reason: messageOf(error) });
      })
      .finally(() => {
        running = undefined;
      });
  }, everyMs);
  return async () => {
    clearInterval(timer);
    await running;
  };
}

/** A name for an address that stands for all of them. */
function peerHost(host: string): string {
  return ["", "0.0.0.0", "::"].includes(host) ? hostname() : host;
}

function urlOf(scheme: "http" | "https", host: Address["host"], port: number): string {
  return `${scheme}://${host.includes(":") ? `[${host}]` : host}:${port}`;
}
