/**
 * The WebTransport half of a listener: opened beside HTTPS, and given a new certificate while it runs.
 *
 * @module
 */
import { messageOf } from "../protocol/errors.ts";
import type { RelayCertificate } from "./certificate.ts";
import type {
  WebTransportIncoming,
  WebTransportListening,
  WebTransportServerImplementation,
} from "./webtransport.ts";

export type WebTransportState =
  | { readonly name: WebTransportServerImplementation["name"]; readonly port: number }
  | { readonly unavailable: string };

/** The system may take a moment to give a port back. */
const REOPEN_ATTEMPTS_MAX = 10;
const REOPEN_DELAY_MS = 100;

export interface WebTransportPortOptions {
  readonly implementation: WebTransportServerImplementation;
  /** An address, not a name. */
  readonly host: string;
  readonly port: number;
  readonly certificate: RelayCertificate;
  readonly onSession: (incoming: WebTransportIncoming) => void;
  /** The listener is lost, or could not be opened again. */
  readonly onProblem: (message: string) => void;
  /** Tells the peers of open sessions that these end. */
  readonly endSessions: () => Promise<void>;
}

export class WebTransportPort {
  readonly #options: WebTransportPortOptions;
  #listening: WebTransportListening | null = null;
  #state: WebTransportState = { unavailable: "it is not open yet" };
  #work: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(options: WebTransportPortOptions) {
    this.#options = options;
  }

  /** @throws Error with `code` (`EADDRINUSE`, ...) */
  static async open(options: WebTransportPortOptions): Promise<WebTransportPort> {
    const port = new WebTransportPort(options);
    await port.#listen(options.certificate);
    return port;
  }

  get state(): WebTransportState {
    return this.#state;
  }

  /** Sessions that are open go on where the library can change its certificate, and are ended where not. */
  renew(certificate: RelayCertificate): Promise<void> {
    this.#work = this.#work.then(() => this.#renew(certificate));
    return this.#work;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#work;
    const listening = this.#listening;
    this.#listening = null;
    await listening?.close();
  }

  async #renew(certificate: RelayCertificate): Promise<void> {
    const listening = this.#listening;
    if (this.#closed) return;
    try {
      if (listening?.renew !== undefined) return await listening.renew(certificate);
      this.#listening = null;
      await this.#options.endSessions();
      await listening?.close();
      await this.#listenAgain(certificate);
    } catch (error) {
      // Peers use WebSocket; the next renewal tries again.
      const reason = `it could not be opened with the new certificate: ${messageOf(error)}`;
      this.#state = { unavailable: reason };
      this.#options.onProblem(reason);
    }
  }

  async #listenAgain(certificate: RelayCertificate): Promise<void> {
    for (let attempt = 1; !this.#closed; attempt += 1) {
      try {
        return await this.#listen(certificate);
      } catch (error) {
        if (attempt === REOPEN_ATTEMPTS_MAX) throw error;
      }
      await new Promise((resolve) => {
        setTimeout(resolve, REOPEN_DELAY_MS * attempt);
      });
    }
  }

  async #listen(certificate: RelayCertificate): Promise<void> {
    const { implementation, host, port, onSession, onProblem } = this.#options;
    const listening = await implementation.listen({
      host,
      port,
      certificate,
      onSession,
      onLost: (error) => {
        if (this.#listening === listening) onProblem(error.message);
      },
    });
    this.#listening = listening;
    this.#state = { name: implementation.name, port: listening.port };
  }
}
