/**
 * An agent's one connection to its relay: made again whenever it is lost, for as long as the agent runs.
 *
 * @module
 */
import WebSocket from "ws";
import {
  AGENT_LOGIN_DEADLINE_MS,
  AGENT_MESSAGE_BYTES_MAX,
  AGENT_PATH,
  AGENT_SILENCE_MAX_MS,
} from "../../relay/protocol/agent.ts";
import { fromBase64Url, toBase64Url, toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { connectionError, parseRelayUrl } from "../net/address.ts";
import { LinkError } from "../net/errors.ts";
import { routedTcp } from "../net/proxy.ts";
import { withCurrentPins } from "../net/relay-pins.ts";
import { connectPinned, destroyLater } from "../net/tls.ts";
import { sleep } from "../sleep.ts";
import type { AgentIdentity } from "./identity.ts";
import { parseRelayMessage, type RelayMessage } from "./messages.ts";

const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 15_000;

/** The relay will not have this host, now or later. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** What no other attempt cures. */
const FINAL = new Set([
  "ENROLLMENT_UNKNOWN",
  "ENROLLMENT_USED",
  "ENROLLMENT_EXPIRED",
  "PEER_UNKNOWN",
  "PEER_ELSEWHERE",
  "SIGNATURE_INVALID",
  "LIMIT_EXCEEDED",
]);

export interface AgentConnectionOptions {
  readonly identity: AgentIdentity;
  /** For the first login alone. */
  readonly enrollment: { readonly token: Uint8Array; readonly name: string } | undefined;
  readonly onWelcome: (name: string) => void;
  readonly onMessage: (message: RelayMessage) => void;
  readonly onLost: (reason: string) => void;
}

export class AgentConnection {
  readonly #options: AgentConnectionOptions;
  #enrollment: AgentConnectionOptions["enrollment"];
  #websocket: WebSocket | undefined;
  #isWelcome = false;

  constructor(options: AgentConnectionOptions) {
    this.#options = options;
    this.#enrollment = options.enrollment;
  }

  /** Lost if there is no connection: after the next login everything is said again. */
  send(message: Readonly<Record<string, unknown>> & { readonly type: string }): void {
    if (this.#isWelcome) this.#websocket?.send(JSON.stringify(message));
  }

  /** @throws RefusedError; the signal's reason */
  async run(signal: AbortSignal): Promise<never> {
    let delayMs = RETRY_FIRST_MS;
    for (;;) {
      signal.throwIfAborted();
      try {
        await this.#once(signal, () => {
          delayMs = RETRY_FIRST_MS;
        });
      } catch (error) {
        if (error instanceof RefusedError && FINAL.has(error.code)) throw error;
        this.#options.onLost(messageOf(error));
      }
      await sleep(delayMs * (0.5 + Math.random()), signal);
      delayMs = Math.min(delayMs * 2, RETRY_MAX_MS);
    }
  }

  /** From one connection to its end. */
  async #once(signal: AbortSignal, onWelcome: () => void): Promise<void> {
    const { relay } = this.#options.identity;
    const address = parseRelayUrl(relay.url);
    const open: { destroy(): void }[] = [];
    const stop = (): void => destroyLater(open);
    signal.addEventListener("abort", stop, { once: true });
    const late = setTimeout(stop, AGENT_LOGIN_DEADLINE_MS);
    try {
      const pinned = {
        address,
        certificateHashes: relay.certificateHashes,
        relayIdentity: relay.identity,
      };
      const socket = await withCurrentPins(pinned, (certificateHashes) =>
        connectPinned({ address, certificateHashes, connectTcp: routedTcp }, open),
      );
      const websocket = new WebSocket(`wss://${address.text}${AGENT_PATH}`, {
        createConnection: () => socket,
        perMessageDeflate: false,
        maxPayload: AGENT_MESSAGE_BYTES_MAX,
        followRedirects: false,
      });
      this.#websocket = websocket;
      await this.#talk(websocket, () => {
        clearTimeout(late);
        onWelcome();
      });
    } catch (error) {
      if (error instanceof RefusedError) throw error;
      throw connectionError(address, error);
    } finally {
      this.#isWelcome = false;
      this.#websocket = undefined;
      clearTimeout(late);
      signal.removeEventListener("abort", stop);
      stop();
    }
  }

  #talk(websocket: WebSocket, onWelcome: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      let refusal: RefusedError | undefined;
      // The relay pings: silence means that it is gone, whatever TCP thinks.
      let silence = setTimeout(() => websocket.terminate(), AGENT_SILENCE_MAX_MS);
      const heard = (): void => {
        clearTimeout(silence);
        silence = setTimeout(() => websocket.terminate(), AGENT_SILENCE_MAX_MS);
      };
      websocket.on("ping", heard);
      websocket.once("error", reject);
      websocket.once("unexpected-response", (_request, response) => {
        reject(
          new LinkError("RELAY_REFUSED", `the relay answers ${response.statusCode ?? 0} to agents`),
        );
      });
      websocket.once("close", (_code, reason) => {
        clearTimeout(silence);
        if (refusal === undefined) reject(new Error(reason.toString() || "the connection is lost"));
        else reject(refusal);
        resolve();
      });
      websocket.on("message", (data: Buffer, isBinary) => {
        heard();
        const message = isBinary ? undefined : parseRelayMessage(data.toString("utf8"));
        if (message === undefined) return websocket.terminate();
        if (message.type === "refused") {
          // Once it was let in, the next login is to tell whether that is final.
          const code = this.#isWelcome ? "LINK_CLOSED" : message.code;
          refusal = new RefusedError(code, message.message);
          return;
        }
        if (message.type === "challenge") return this.#login(websocket, message, reject);
        if (message.type === "welcome" && !this.#isWelcome) {
          this.#isWelcome = true;
          this.#enrollment = undefined;
          onWelcome();
          this.#options.onWelcome(message.name);
          return;
        }
        if (this.#isWelcome) this.#options.onMessage(message);
      });
    });
  }

  #login(
    websocket: WebSocket,
    challenge: Extract<RelayMessage, { type: "challenge" }>,
    reject: (error: Error) => void,
  ): void {
    const { identity } = this.#options;
    if (challenge.identity !== toBase64Url(identity.relay.identity)) {
      // What is signed names the relay that is known, so it would be of no use to another one anyway.
      websocket.terminate();
      reject(
        new Error(
          `this is another relay than the host was enrolled at: ${toHex(fromBase64Url(challenge.identity)).slice(0, 16)}`,
        ),
      );
      return;
    }
    const enrollment = this.#enrollment;
    websocket.send(
      JSON.stringify({
        type: "login",
        peerId: identity.id,
        signature: toBase64Url(identity.login(fromBase64Url(challenge.nonce))),
        ...(enrollment === undefined
          ? {}
          : {
              enrollment: {
                token: toBase64Url(enrollment.token),
                name: enrollment.name,
                sealingKey: toBase64Url(identity.sealingKey),
                sealingKeySignature: toBase64Url(identity.signedSealingKey()),
              },
            }),
      }),
    );
  }
}
