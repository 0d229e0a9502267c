/**
 * One node of the relay: the real switchboard as a process that can die.
 *
 * @module
 */
import { createPublicKey, verify } from "node:crypto";
import type { Command } from "../../relay/protocol/frame.ts";
import { Switchboard } from "../../relay/switchboard/switchboard.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";
import { Actor, type Host } from "./actor.ts";
import type { Database } from "./database.ts";
import type { Listener } from "./network.ts";

/** DER before the 32 bytes of an ed25519 public key (RFC 8410). */
const SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");

export class RelayNode {
  readonly host: Host;
  readonly #database: Database;
  readonly #onLog: (text: string) => void;
  #listener: Listener | undefined;
  #switchboard: Switchboard | undefined;
  #incarnation = 0;

  constructor(options: {
    readonly host: Host;
    readonly database: Database;
    /** Sees every line of the log. */
    readonly onLog: (text: string) => void;
  }) {
    this.host = options.host;
    this.#database = options.database;
    this.#onLog = options.onLog;
  }

  get listener(): Listener | undefined {
    return this.#listener;
  }

  get alive(): boolean {
    return this.#listener?.actor.alive === true;
  }

  start(): void {
    this.host.up = true;
    const actor = new Actor(`${this.host.name}#${++this.#incarnation}`, this.host);
    const switchboard = actor.run(
      () =>
        new Switchboard({
          store: this.#database.connect(actor),
          log: (level, message, fields) =>
            this.#onLog(`${level} ${message} ${JSON.stringify(fields)}`),
          verifyProof: (key, signature, message) =>
            Promise.resolve(verified(key, signature, message)),
        }),
    );
    this.#switchboard = switchboard;
    this.#listener = {
      actor,
      accept: (incoming: IncomingStream) => switchboard.accept(incoming),
    };
  }

  crash(hard: boolean): void {
    if (hard) this.host.crash();
    else this.#listener?.actor.kill(false);
  }

  /** As the API does it, once the database has it. */
  command(sessionId: Uint8Array, command: Command): void {
    const [listener, switchboard] = [this.#listener, this.#switchboard];
    if (switchboard === undefined || !this.alive) return;
    listener?.actor.run(() => switchboard.command(sessionId, command, ""));
  }

  /** As the API does it. */
  async cancel(sessionId: Uint8Array, reason: string): Promise<void> {
    const [listener, switchboard] = [this.#listener, this.#switchboard];
    if (listener === undefined || switchboard === undefined) return;
    await listener.actor.run(async () => {
      const store = this.#database.connect(listener.actor);
      await store.setState(sessionId, { by: "api", state: "cancelled", reason });
      await switchboard.announce(sessionId, reason);
    });
  }
}

function verified(key: Uint8Array, signature: Uint8Array, message: Uint8Array): boolean {
  const der = Buffer.concat([SPKI_PREFIX, key]);
  return verify(
    null,
    message,
    createPublicKey({ key: der, format: "der", type: "spki" }),
    signature,
  );
}
