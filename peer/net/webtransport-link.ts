/**
 * A link over WebTransport: one session, a bidirectional stream for each stream.
 *
 * @module
 */
import { ProtocolError, ProtocolErrorNumber } from "../../relay/protocol/errors.ts";
import type { ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import {
  messageOf,
  sessionEnd,
  webStreamToByteStream,
  type WebTransportSessionLike,
} from "../../relay/protocol/web-stream.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import {
  LINK_PATH,
  cancelled,
  certificateMismatch,
  connectionError,
  deadlineExceeded,
  parseRelayUrl,
} from "./address.ts";
import { LinkError } from "./errors.ts";
import type { Dial, DialOptions, Link } from "./link.ts";
import { loadWebTransportClient, type WebTransportClient } from "./webtransport.ts";

const DIAL_DEADLINE_MS = 10_000;
/** A stream opens at once unless the other side's limit of streams is reached. */
const OPEN_DEADLINE_MS = 10_000;
/** What a session's close may take to reach the other side. */
const CLOSE_DEADLINE_MS = 2_000;

export interface WebTransportDialOptions extends DialOptions {
  /** Default: what `loadWebTransportClient` finds. */
  readonly client?: WebTransportClient;
}

export const dialWebTransport = async (options: WebTransportDialOptions): Promise<Link> => {
  const address = parseRelayUrl(options.url);
  const deadlineMs = options.deadlineMs ?? DIAL_DEADLINE_MS;
  const { signal } = options;
  if (signal?.aborted === true) throw cancelled(address, signal.reason);
  const client = options.client ?? (await loadWebTransportClient());
  if ("unavailable" in client) {
    throw new LinkError(
      "LINK_KIND_UNAVAILABLE",
      `no WebTransport here (${client.unavailable}): use --transport websocket`,
    );
  }
  const session = client.connect(
    `https://${address.text}${LINK_PATH}`,
    options.certificateHashes,
  );
  session.closed.catch(() => {});
  let stop: (error: LinkError) => void = () => {};
  const stopped = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  const timer = setTimeout(() => stop(deadlineExceeded(address, deadlineMs)), deadlineMs);
  const onAbort = (): void => stop(cancelled(address, signal?.reason));
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.race([session.ready, stopped]);
  } catch (error) {
    closeSession(session, ProtocolErrorNumber.LINK_CLOSED, "not wanted any more");
    session.ready.catch(() => {});
    if (error instanceof LinkError) throw error;
    const pinned = options.certificateHashes.length > 0;
    if (pinned && isCertificateError(error)) throw certificateMismatch(address);
    throw connectionError(address, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
  return new WebTransportLink(session, client);
};
dialWebTransport satisfies Dial;

class WebTransportLink implements Link {
  readonly kind = "webtransport";
  readonly closed: Promise<CloseInfo>;
  readonly #session: WebTransportSessionLike;
  readonly #client: WebTransportClient;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #lost: ProtocolError | null = null;
  #opened = 0;

  constructor(session: WebTransportSessionLike, client: WebTransportClient) {
    this.#session = session;
    this.#client = client;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    void sessionEnd(session).then((error) => this.#end(error));
  }

  async openStream(): Promise<ByteStream> {
    if (this.#lost !== null) throw new ProtocolError("LINK_CLOSED", this.#lost.message);
    const opening = this.#session.createBidirectionalStream();
    let timer;
    const late = new Promise<null>((resolve) => {
      timer = setTimeout(() => resolve(null), OPEN_DEADLINE_MS);
    });
    try {
      const pair = await Promise.race([opening, late]);
      if (pair !== null) {
        this.#opened += 1;
        return webStreamToByteStream(pair, {
          ...this.#client.streamOptions,
          sessionError: () => this.#lost,
        });
      }
    } catch (error) {
      throw new ProtocolError("LINK_CLOSED", messageOf(error), { cause: error });
    } finally {
      clearTimeout(timer);
    }
    opening.then(
      (pair) => webStreamToByteStream(pair).abort("DEADLINE_EXCEEDED", "opened too late"),
      () => {},
    );
    throw new ProtocolError(
      "DEADLINE_EXCEEDED",
      `no stream after ${OPEN_DEADLINE_MS} ms; ${this.#opened} were opened on this link`,
    );
  }

  async close(code: ProtocolErrorCode, reason: string): Promise<void> {
    if (this.#lost === null) {
      closeSession(this.#session, ProtocolErrorNumber[code], reason);
      this.#end(new ProtocolError(code, reason));
    }
    let timer;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_DEADLINE_MS);
    });
    await Promise.race([sessionEnd(this.#session), late]);
    clearTimeout(timer);
  }

  #end(error: ProtocolError): void {
    this.#lost ??= error;
    this.#resolveClosed({ code: this.#lost.code, reason: this.#lost.message });
  }
}

function closeSession(session: WebTransportSessionLike, closeCode: number, reason: string): void {
  try {
    session.close({ closeCode, reason });
  } catch {
    // Over already, or never begun: there is nothing to close then.
  }
}

/** The libraries say it in words only. */
function isCertificateError(error: unknown): boolean {
  return /certificate|tls|crypto|unknown issuer|alert/i.test(messageOf(error));
}
