/**
 * The relay's HTTP side on a database in memory, without sockets, and with a switchboard of the test's own.
 *
 * @module
 */
import { generateKeyPairSync } from "node:crypto";
import { createApp, type App } from "../../../relay/app.ts";
import { createApiKeys, type ApiKeys } from "../../../relay/db/api-keys.ts";
import { openDatabase, type Database } from "../../../relay/db/database.ts";
import { API_SCOPES, type ApiScope } from "../../../relay/db/schema.ts";
import { createSessionStore, type DatabaseSessionStore } from "../../../relay/db/session-store.ts";
import { createLog } from "../../../relay/log.ts";
import { createMetrics } from "../../../relay/metrics.ts";
import type { Command, SessionTerms } from "../../../relay/protocol/frame.ts";
import { toHex } from "../../../relay/protocol/bytes.ts";
import { RelayNode } from "../../../relay/relay-node.ts";
import { createSecretBox } from "../../../relay/secret-box.ts";
import { RelayIdentity } from "../../../relay/transport/identity.ts";
import type { LiveSession } from "../../../relay/switchboard/switchboard.ts";

export class FakeSwitchboard {
  readonly sessions = new Map<string, LiveSession>();
  readonly commands: { sessionId: string; command: Command; reason: string }[] = [];
  readonly #listeners = new Set<(sessionId: Uint8Array) => void>();

  get liveSessionCount(): number {
    return this.sessions.size;
  }

  live(sessionId: Uint8Array): LiveSession | undefined {
    return this.sessions.get(toHex(sessionId));
  }

  /** Relayed by WebSocket where both peers are here. */
  livePaths(): ReadonlyMap<string, "websocket"> {
    const both = [...this.sessions].filter(([, one]) => one.seeder && one.leecher);
    return new Map(both.map(([id]) => [id, "websocket"]));
  }

  readonly queuedBytes = 0;

  command(sessionId: Uint8Array, command: Command, reason: string): boolean {
    this.commands.push({ sessionId: toHex(sessionId), command, reason });
    return this.sessions.get(toHex(sessionId))?.leecher !== undefined;
  }

  readonly rates = new Map<string, number>();
  renewed = 0;

  renewPairing(): boolean {
    this.renewed++;
    return true;
  }

  readonly terms = new Map<string, SessionTerms>();

  setTerms(sessionId: string, terms: SessionTerms): void {
    this.terms.set(sessionId, terms);
  }

  setBytesPerS(sessionId: string, bytesPerS: number): void {
    this.rates.set(sessionId, bytesPerS);
  }

  announce(): Promise<void> {
    return Promise.resolve();
  }

  onChange(listener: (sessionId: Uint8Array) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed(sessionId: Uint8Array): void {
    for (const listener of this.#listeners) listener(sessionId);
  }
}

export interface Harness extends AsyncDisposable {
  readonly app: App;
  readonly database: Database;
  readonly store: DatabaseSessionStore;
  readonly apiKeys: ApiKeys;
  readonly switchboard: FakeSwitchboard;
  readonly logged: string[];
  readonly relay: RelayNode;
  /** Aborting it is the relay going down. */
  readonly down: AbortController;
  /** Seconds that the limits of rate think have passed. */
  advance(seconds: number): void;
  /** A key of a project, made with it. */
  key(project: string, scopes?: readonly ApiScope[]): Promise<{ key: string; keyId: string }>;
  /** A request with a key; `body` becomes JSON unless it is text. */
  ask(key: string, method: string, path: string, body?: unknown): Promise<Response>;
}

export async function startHarness(): Promise<Harness> {
  const database = await openDatabase({ memory: true });
  const store = createSessionStore(database);
  const apiKeys = createApiKeys(database);
  const switchboard = new FakeSwitchboard();
  const logged: string[] = [];
  const down = new AbortController();
  const identity = new RelayIdentity(generateKeyPairSync("ed25519").privateKey);
  let clockMs = 0;
  const relay = new RelayNode({
    database,
    log: () => {},
    url: () => "https://relay.test:8443",
    version: "0.0.0-test",
    name: "test",
    zone: "",
    sessions: () => switchboard.sessions.size,
    bytesRelayed: () => 0,
  });
  await relay.start();
  const app = createApp({
    database,
    store,
    apiKeys,
    switchboard,
    metrics: createMetrics(),
    log: createLog({ level: "debug", format: "json", write: (line) => logged.push(line) }),
    console: new Map(),
    version: "0.0.0-test",
    address: () => ({
      url: "https://relay.test:8443",
      certificateHashes: ["ab".repeat(32)],
      identity: "cd".repeat(32),
    }),
    vouch: (nonce) =>
      identity.vouch(nonce, [
        { hash: new Uint8Array(32).fill(0xab), notBeforeMs: 1, notAfterMs: 2 },
      ]),
    relay,
    agents: { wake: () => {}, disconnect: () => {}, probe: () => false },
    webhooks: {
      secrets: createSecretBox(new Uint8Array(32)),
      rules: { allow: [], http: false },
    },
    discovery: { ports: [3478, 3479], lend: () => new Uint8Array(16).fill(5) },
    signal: down.signal,
    clock: () => clockMs,
  });
  return {
    app,
    database,
    store,
    apiKeys,
    switchboard,
    logged,
    relay,
    down,
    advance: (seconds) => (clockMs += seconds * 1000),
    async key(project, scopes = API_SCOPES) {
      return await apiKeys.create({
        projectId: await apiKeys.project(project),
        name: "test",
        scopes,
      });
    },
    async ask(key, method, path, body) {
      const headers: Record<string, string> = { authorization: `Bearer ${key}` };
      if (body !== undefined) headers["content-type"] = "application/json";
      return await app.request(path, {
        method,
        headers,
        ...(body === undefined
          ? {}
          : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      });
    },
    async [Symbol.asyncDispose]() {
      down.abort();
      await relay.stop();
      await database.close();
    },
  };
}
