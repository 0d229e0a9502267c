/**
 * Where the relay's certificate comes from, as it was configured.
 *
 * @module
 */
import type { RelayConfig } from "../config.ts";
import { RelayError } from "../errors.ts";
import type { Log } from "../log.ts";
import { messageOf } from "../protocol/errors.ts";
import { AcmeCertificates } from "./acme.ts";
import { checkedCertificate, ensureCertificate, type RelayCertificate } from "./certificate.ts";

/** Files that somebody replaces are looked at this often: by polling, which also sees a mount that was switched. */
const FILES_CHECK_MS = 10_000;
/** What the relay renews by itself; a failed attempt is so soon followed by the next, and no authority is annoyed. */
const RENEWAL_CHECK_MS = 60 * 60 * 1000;

export interface CertificateSource {
  /** @throws RelayError with the cure. */
  first(): Promise<RelayCertificate>;
  /** That of now, or a newer one. @throws if there is none that is good. */
  ensure(): Promise<RelayCertificate>;
  /** Whether peers pin its hash; else their trust stores decide. */
  readonly pinned: boolean;
  readonly checkIntervalMs: number;
}

export function certificateSource(
  { certificate: files, acme, dataDir, listen, publicUrl }: RelayConfig,
  log: Log,
  now: (() => number) | undefined,
): CertificateSource {
  if (files !== undefined) {
    const ensure = (): Promise<RelayCertificate> => checkedCertificate(files, now?.());
    return { first: () => orSay(ensure), ensure, pinned: false, checkIntervalMs: FILES_CHECK_MS };
  }
  if (acme !== undefined) {
    const certificates = new AcmeCertificates({
      ...acme,
      directory: dataDir,
      log,
      ...(now === undefined ? {} : { now }),
    });
    return {
      first: () => certificates.first(),
      ensure: () => certificates.ensure(),
      pinned: false,
      checkIntervalMs: RENEWAL_CHECK_MS,
    };
  }
  const hosts = [listen.host];
  if (publicUrl !== undefined) hosts.push(new URL(publicUrl).hostname);
  const ensure = (): Promise<RelayCertificate> =>
    ensureCertificate({
      directory: dataDir,
      hosts,
      ...(now === undefined ? {} : { now: now() }),
    });
  return { first: ensure, ensure, pinned: true, checkIntervalMs: RENEWAL_CHECK_MS };
}

/** Another in its place would be worse than none: peers' trust stores would refuse it. */
async function orSay(ensure: () => Promise<RelayCertificate>): Promise<RelayCertificate> {
  try {
    return await ensure();
  } catch (cause) {
    throw new RelayError("CONFIG_INVALID", `--certificate: ${messageOf(cause)}`, { cause });
  }
}
