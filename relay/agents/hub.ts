/**
 * The agents that are connected to this relay.
 *
 * What an agent is told to do is in the database and goes out from there: at its login, when somebody calls `wake`,
 * and by a look every few seconds for what came by another relay. So an order outlives this process, and is sent
 * again until the agent has said how it ended.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import type { WebSocket } from "ws";

import { fromBase64Url, toBase64Url } from "../protocol/bytes.ts";
import {
  AGENT_LOGIN_DEADLINE_MS,
  AGENT_PING_MS,
  AGENT_SILENCE_MAX_MS,
  agentLoginMessage,
  sealingKeyMessage,
  type CancelOrder,
  type LeechOrder,
  type SeedOrder,
} from "../protocol/agent.ts";
import { messageOf } from "../protocol/errors.ts";
import { CHALLENGE_BYTES } from "../protocol/ids.ts";
import { fromHex } from "../db/hex.ts";
import { RelayError } from "../errors.ts";
import type { Log } from "../log.ts";
import { verifies } from "../switchboard/proof.ts";
import { TokenBucket } from "../token-bucket.ts";
import { parseAgentMessage, type AgentMessage, type LoginMessage } from "./messages.ts";
import type { RelayMessage } from "./messages.ts";
import type { AgentStore, FailedOrder, LoggedIn, LoginProblem, OrderRow } from "./store.ts";

/** Between two looks at who is alive and what is to be done. */
const LOOK_INTERVAL_MS = 3_000;
/** What an agent may say in a second, and at once; one that says more is thrown out. */
const MESSAGES_PER_S = 10;
const MESSAGES_AT_ONCE = 200;
/** Messages of one agent that wait for the database. */
const MESSAGES_WAITING_MAX = 200;
/** Bytes that wait to be sent to one agent; one that does not read is thrown out. */
const BUFFERED_BYTES_MAX = 4 * 1024 * 1024;

const CLOSE_GOING_AWAY = 1001;
const CLOSE_POLICY = 1008;
const CLOSE_TRY_AGAIN = 1013;

/** A WebSocket that was opened at `AGENT_PATH`. */
export interface IncomingAgent {
  readonly websocket: WebSocket;
  readonly remoteAddress: string;
  /** Told once it is known whose it is. */
  readonly established?: () => void;
}

/** What the API asks of the agents' side. */
export interface LiveAgents {
  /** There may be something new for this peer to do. */
  wake(peerId: string): void;
  /** Its connection ends now. */
  disconnect(peerId: string, code: string, message: string): void;
  /** Asks for a new report. @returns Whether it is connected here. */
  probe(peerId: string): boolean;
}

export interface AgentHubOptions {
  readonly store: AgentStore;
  readonly log: Log;
  /** The relay's ed25519 public key. */
  readonly identity: Uint8Array;
  /** Ends the session of an order that came to nothing. */
  readonly onFailed: (order: FailedOrder) => Promise<void>;
  readonly lookIntervalMs?: number;
}

const PROBLEMS: Readonly<Record<LoginProblem, string>> = {
  ENROLLMENT_UNKNOWN: "there is no such enrollment code: make one with POST /v1/enrollments",
  ENROLLMENT_USED: "this enrollment code was used by another host: make a new one",
  ENROLLMENT_EXPIRED: "this enrollment code has expired: make a new one",
  PEER_UNKNOWN: "this host is not enrolled here, or was revoked: enroll it with a new code",
  PEER_ELSEWHERE:
    "this host's key is enrolled already: move its state directory away to make another",
};

export class AgentHub implements LiveAgents {
  readonly #options: AgentHubOptions;
  readonly #connections = new Set<Connection>();
  readonly #byPeer = new Map<string, Connection>();
  readonly #timer: ReturnType<typeof setInterval>;
  #looking: Promise<void> | undefined;
  #closed = false;

  constructor(options: AgentHubOptions) {
    this.#options = options;
    this.#timer = setInterval(() => {
      this.#looking ??= this.#look()
        .catch((error: unknown) => {
          options.log("warn", "agents were not looked after", { reason: messageOf(error) });
        })
        .finally(() => {
          this.#looking = undefined;
        });
    }, options.lookIntervalMs ?? LOOK_INTERVAL_MS);
  }

  accept(incoming: IncomingAgent): void {
    if (this.#closed) {
      incoming.websocket.close(CLOSE_GOING_AWAY, "the relay is going down");
      return;
    }
    const connection = new Connection(incoming, this.#options, {
      onLogin: (agent) => {
        // The newest counts: the one before may be half open.
        this.#byPeer.get(agent.peerId)?.end(CLOSE_POLICY, "the agent has connected again");
        this.#byPeer.set(agent.peerId, connection);
        void this.#deliver([agent.peerId], ["queued", "running"]);
      },
      onReady: (peerId) => this.wake(peerId),
      onClose: () => {
        this.#connections.delete(connection);
        const { agent } = connection;
        if (agent !== undefined && this.#byPeer.get(agent.peerId) === connection) {
          this.#byPeer.delete(agent.peerId);
        }
      },
    });
    this.#connections.add(connection);
  }

  wake(peerId: string): void {
    if (this.#byPeer.has(peerId)) void this.#deliver([peerId], ["queued"]);
  }

  disconnect(peerId: string, code: string, message: string): void {
    this.#byPeer.get(peerId)?.refuse(code, message);
  }

  probe(peerId: string): boolean {
    const connection = this.#byPeer.get(peerId);
    connection?.send({ type: "probe" });
    return connection !== undefined;
  }

  /** Repeated calls do nothing more. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#looking;
    const open = [...this.#connections];
    for (const connection of open) connection.end(CLOSE_GOING_AWAY, "the relay is going down");
    await Promise.all(open.map((connection) => connection.settled));
  }

  async #look(): Promise<void> {
    const { store, onFailed } = this.#options;
    const agents = [...this.#byPeer.values()].flatMap(({ agent }) => agent ?? []);
    const alive = await store.alive(agents);
    for (const agent of agents) {
      if (alive.has(agent.connectionId)) continue;
      const connection = this.#byPeer.get(agent.peerId);
      if (connection?.agent !== agent) continue;
      connection.refuse("PEER_UNKNOWN", PROBLEMS.PEER_UNKNOWN, CLOSE_TRY_AGAIN);
    }
    for (const failed of await store.sweep()) await onFailed(failed);
    await this.#deliver(
      agents.map(({ peerId }) => peerId),
      ["queued"],
    );
  }

  async #deliver(
    peerIds: readonly string[],
    states: readonly ("queued" | "running")[],
  ): Promise<void> {
    try {
      for (const order of await this.#options.store.openOrders(peerIds, states)) {
        this.#byPeer.get(order.peerId)?.order(order);
      }
    } catch (error) {
      // The next look does it.
      this.#options.log("warn", "orders were not sent", { reason: messageOf(error) });
    }
  }
}

interface ConnectionEvents {
  readonly onLogin: (agent: LoggedIn) => void;
  readonly onReady: (peerId: string) => void;
  readonly onClose: () => void;
}

class Connection {
  /** Once it has logged in. */
  agent: LoggedIn | undefined;
  readonly #websocket: WebSocket;
  readonly #incoming: IncomingAgent;
  readonly #options: AgentHubOptions;
  readonly #events: ConnectionEvents;
  readonly #nonce = new Uint8Array(randomBytes(CHALLENGE_BYTES));
  readonly #rate = new TokenBucket(MESSAGES_PER_S, MESSAGES_AT_ONCE);
  readonly #delivered = new Set<string>();
  readonly #pings: ReturnType<typeof setInterval>;
  readonly #loginDeadline: ReturnType<typeof setTimeout>;
  #heardAtMs = performance.now();
  #waiting = 0;
  #work: Promise<void> = Promise.resolve();
  #isLoggingIn = false;
  /** When it is closed and the database knows it. */
  readonly settled: Promise<void>;

  constructor(incoming: IncomingAgent, options: AgentHubOptions, events: ConnectionEvents) {
    this.#incoming = incoming;
    this.#websocket = incoming.websocket;
    this.#options = options;
    this.#events = events;
    const { websocket } = incoming;
    websocket.on("message", (data: Buffer, isBinary: boolean) => this.#hear(data, isBinary));
    websocket.on("pong", () => {
      this.#heardAtMs = performance.now();
    });
    // What is wrong with it, its close says.
    websocket.on("error", () => {});
    this.settled = new Promise((resolve) => {
      websocket.once("close", () => {
        clearInterval(this.#pings);
        clearTimeout(this.#loginDeadline);
        events.onClose();
        void this.#work.then(() => this.#leave()).then(resolve);
      });
    });
    this.#pings = setInterval(() => this.#ping(), AGENT_PING_MS);
    this.#loginDeadline = setTimeout(
      () => this.end(CLOSE_POLICY, "no login in time"),
      AGENT_LOGIN_DEADLINE_MS,
    );
    const identity = toBase64Url(options.identity);
    this.send({ type: "challenge", nonce: toBase64Url(this.#nonce), identity });
  }

  send(message: RelayMessage): void {
    if (this.#websocket.readyState !== this.#websocket.OPEN) return;
    if (this.#websocket.bufferedAmount > BUFFERED_BYTES_MAX) {
      this.end(CLOSE_POLICY, "it does not read");
      return;
    }
    this.#websocket.send(JSON.stringify(message));
  }

  /** Once for each connection: its answer is waited for, and another login sends it again. */
  order(row: OrderRow): void {
    if (this.#delivered.has(row.id)) return;
    this.#delivered.add(row.id);
    // Written by the API's own code for this kind.
    const body = row.body as unknown as SeedOrder | LeechOrder | CancelOrder;
    this.send({ type: "order", id: row.id, kind: row.kind, begun: row.state === "running", body });
  }

  refuse(code: string, message: string, closeCode = CLOSE_POLICY): void {
    this.send({ type: "refused", code, message });
    this.end(closeCode, code);
  }

  end(code: number, reason: string): void {
    this.#websocket.close(code, reason);
    // An agent that does not answer holds its socket no longer than this.
    setTimeout(() => this.#websocket.terminate(), 1_000).unref();
  }

  #ping(): void {
    if (performance.now() - this.#heardAtMs > AGENT_SILENCE_MAX_MS) {
      this.#websocket.terminate();
      return;
    }
    if (this.#websocket.readyState === this.#websocket.OPEN) this.#websocket.ping();
  }

  #hear(data: Buffer, isBinary: boolean): void {
    this.#heardAtMs = performance.now();
    const message = isBinary ? undefined : parseAgentMessage(data.toString("utf8"));
    if (message === undefined) return this.end(CLOSE_POLICY, "a message that makes no sense");
    if (!this.#rate.take() || this.#waiting >= MESSAGES_WAITING_MAX) {
      return this.end(CLOSE_POLICY, "too many messages");
    }
    const isLogin = message.type === "login";
    if (isLogin ? this.#isLoggingIn : this.agent === undefined) {
      return this.end(CLOSE_POLICY, "a message that has no place");
    }
    if (isLogin) this.#isLoggingIn = true;
    this.#waiting++;
    // One after the other: what was said later is true later.
    this.#work = this.#work
      .then(() => this.#handle(message))
      .catch((error: unknown) => {
        if (error instanceof RelayError && error.code === "LIMIT_EXCEEDED") {
          this.refuse(error.code, error.message);
          return;
        }
        this.#options.log("warn", "an agent's message was not kept", {
          peerId: this.agent?.peerId,
          reason: messageOf(error),
        });
        // It says it again when it is back.
        this.refuse("RELAY_UNAVAILABLE", "the relay cannot keep this now", CLOSE_TRY_AGAIN);
      })
      .finally(() => {
        this.#waiting--;
      });
  }

  async #handle(message: AgentMessage): Promise<void> {
    if (message.type === "login") return await this.#login(message);
    const { agent } = this;
    if (agent === undefined) return;
    const { store, onFailed } = this.#options;
    if (message.type === "report") return await store.report(agent, message);
    const kept = await store.orderState(agent, message);
    const state = kept?.state ?? message.state;
    this.send({ type: "orderKept", id: message.id, state });
    if (state !== "queued" && state !== "running") this.#delivered.delete(message.id);
    if (kept?.ready !== undefined) this.#events.onReady(kept.ready);
    if (kept?.failed !== undefined) await onFailed(kept.failed);
  }

  async #login(login: LoginMessage): Promise<void> {
    const peerKey = fromHex(login.peerId);
    const { identity: relayIdentity, store, log } = this.#options;
    const signed = agentLoginMessage({ relayIdentity, nonce: this.#nonce, peerKey });
    const { enrollment } = login;
    const isGenuine =
      (await verifies(peerKey, fromBase64Url(login.signature), signed)) &&
      (enrollment === undefined ||
        (await verifies(
          peerKey,
          fromBase64Url(enrollment.sealingKeySignature),
          sealingKeyMessage(peerKey, fromBase64Url(enrollment.sealingKey)),
        )));
    if (!isGenuine) {
      this.refuse("SIGNATURE_INVALID", "the signature is not this key's for this connection");
      return;
    }
    const result = await store.login(login, this.#incoming.remoteAddress);
    if (typeof result === "string") {
      log("info", "an agent was refused", { peerId: login.peerId, code: result });
      this.refuse(result, PROBLEMS[result]);
      return;
    }
    clearTimeout(this.#loginDeadline);
    this.#incoming.established?.();
    this.agent = result;
    log("info", "an agent has logged in", { peerId: result.peerId, name: result.name });
    this.send({ type: "welcome", peerId: result.peerId, name: result.name });
    // It may have gone meanwhile.
    if (this.#websocket.readyState === this.#websocket.OPEN) this.#events.onLogin(result);
  }

  async #leave(): Promise<void> {
    const { agent } = this;
    if (agent === undefined) return;
    try {
      await this.#options.store.logout(agent);
    } catch (error) {
      // Whoever looks next finds that nobody has heard of it.
      this.#options.log("warn", "an agent's leaving was not kept", {
        peerId: agent.peerId,
        reason: messageOf(error),
      });
    }
  }
}
