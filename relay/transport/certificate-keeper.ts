/**
 * Keeps the relay's certificate fresh while the relay runs: its own, one that an authority issues, or files that
 * somebody else replaces.
 *
 * @module
 */
import { messageOf } from "../protocol/errors.ts";
import type { CertificateNotice } from "../protocol/relay-certificates.ts";
import type { RelayCertificate } from "./certificate.ts";

/** How often the certificate's age is looked at: often enough that a failed attempt is soon followed by the next. */
const CHECK_INTERVAL_MS = 60 * 60 * 1000;

export interface CertificateKeeperOptions {
  readonly certificate: RelayCertificate;
  /** The one to show: that of now, or a new one if that is due or there. It was looked at and is good. */
  readonly ensure: () => Promise<RelayCertificate>;
  /** Puts a new one to use: resolves when every listener shows it. */
  readonly onRenewed: (certificate: RelayCertificate) => Promise<void>;
  /** The one that is shown stays. Not said again while it is the same. */
  readonly onProblem: (reason: string) => void;
  readonly checkIntervalMs?: number;
}

export class CertificateKeeper {
  readonly #options: CertificateKeeperOptions;
  #current: RelayCertificate;
  /** What a listener may still show, or show already. */
  #shown: readonly RelayCertificate[];
  #timer: ReturnType<typeof setInterval> | undefined;
  #checking: Promise<void> | undefined;
  #problem = "";

  constructor(options: CertificateKeeperOptions) {
    this.#options = options;
    this.#current = options.certificate;
    this.#shown = [options.certificate];
  }

  /** Every certificate that a peer may meet at this moment. */
  get notices(): CertificateNotice[] {
    return this.#shown.map(({ hash, notBefore, notAfter }) => ({
      hash,
      notBeforeMs: notBefore.getTime(),
      notAfterMs: notAfter.getTime(),
    }));
  }

  start(): void {
    const intervalMs = this.#options.checkIntervalMs ?? CHECK_INTERVAL_MS;
    this.#timer = setInterval(() => void this.check(), intervalMs);
  }

  /** Renews if that is due. Never rejects; one check at a time. */
  check(): Promise<void> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined;
    });
    return this.#checking;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#checking;
  }

  async #check(): Promise<void> {
    const { ensure, onRenewed, onProblem } = this.#options;
    try {
      const next = await ensure();
      this.#problem = "";
      if (Buffer.compare(next.hash, this.#current.hash) === 0 && this.#shown.length === 1) return;
      this.#shown = [next, this.#current];
      await onRenewed(next);
      this.#current = next;
      this.#shown = [next];
    } catch (error) {
      const reason = messageOf(error);
      if (reason !== this.#problem) onProblem(reason);
      this.#problem = reason;
    }
  }
}
