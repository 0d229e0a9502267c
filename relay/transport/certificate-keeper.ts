/**
 * Keeps the relay's own certificate fresh while the relay runs.
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
  /** The kept certificate, or a new one if that is due. Absent for an operator's own files. */
  readonly ensure?: () => Promise<RelayCertificate>;
  /** Puts a new one to use: resolves when every listener shows it. */
  readonly onRenewed: (certificate: RelayCertificate) => Promise<void>;
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
    if (this.#options.ensure === undefined) return;
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
    if (ensure === undefined) return;
    try {
      const next = await ensure();
      if (Buffer.compare(next.hash, this.#current.hash) === 0 && this.#shown.length === 1) return;
      this.#shown = [next, this.#current];
      await onRenewed(next);
      this.#current = next;
      this.#shown = [next];
    } catch (error) {
      onProblem(messageOf(error));
    }
  }
}
