/**
 * A certificate from an authority that speaks ACME (RFC 8555), proved by HTTP (`http-01`).
 *
 * The account's key and the certificate are kept in the data directory. While an order is under way, and only then, a
 * plain HTTP port answers the one question that the authority asks. A certificate is renewed when a third of its life
 * is left, and the one that is there serves for as long as that fails.
 *
 * @module
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { Agent } from "node:https";
import { join } from "node:path";
import { rootCertificates } from "node:tls";

import * as acme from "acme-client";

import type { AcmeConfig } from "../config.ts";
import { RelayError, systemCode } from "../errors.ts";
import type { Log } from "../log.ts";
import { messageOf } from "../protocol/errors.ts";
import { writeWhole } from "../runtime/user-config.ts";
import { checkedCertificate, type RelayCertificate } from "./certificate.ts";

const ACCOUNT_KEY_FILE = "acme-account-key.pem";
const CERTIFICATE_FILE = "acme-certificate.pem";
const PRIVATE_KEY_FILE = "acme-private-key.pem";
const CHALLENGE_PATH = "/.well-known/acme-challenge/";
/** An order with all its proofs; the authority may be slow, but a relay that starts waits for it. */
const ORDER_DEADLINE_MS = 3 * 60_000;
const POLL_MS_MIN = 1_000;
const POLL_MS_MAX = 10_000;
const POLLS_MAX = 20;
/** Of one request that fails: attempts after the first, and seconds between them. */
const REQUEST_SETTINGS = { retryMaxAttempts: 2, retryDefaultDelay: 1 };

export interface AcmeOptions extends AcmeConfig {
  /** Where account, key and certificate are kept. */
  readonly directory: string;
  readonly log: Log;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

export class AcmeCertificates {
  readonly #options: AcmeOptions;
  readonly #files: { readonly certificatePath: string; readonly privateKeyPath: string };

  constructor(options: AcmeOptions) {
    this.#options = options;
    this.#files = {
      certificatePath: join(options.directory, CERTIFICATE_FILE),
      privateKeyPath: join(options.directory, PRIVATE_KEY_FILE),
    };
  }

  /**
   * The certificate that is kept, or a new one if that is due.
   *
   * @throws RelayError `CERTIFICATE_UNAVAILABLE` if one is due and is not issued, though the kept one may be good yet.
   */
  async ensure(): Promise<RelayCertificate> {
    const kept = await this.kept();
    if (kept !== undefined && !this.#isDue(kept)) return kept;
    try {
      await this.#issue();
    } catch (cause) {
      throw new RelayError(
        "CERTIFICATE_UNAVAILABLE",
        `no certificate for ${this.#options.domains.join(", ")} was issued: ${messageOf(cause)}`,
        { cause },
      );
    }
    return await checkedCertificate(this.#files, this.#now());
  }

  /** At the start: one that is due but good will do, and is renewed later. */
  async first(): Promise<RelayCertificate> {
    try {
      return await this.ensure();
    } catch (error) {
      const kept = await this.kept();
      if (kept === undefined) throw error;
      this.#options.log("warn", "the certificate was not renewed", { reason: messageOf(error) });
      return kept;
    }
  }

  /** What is in the data directory, if it can be shown now and is for all the names. */
  async kept(): Promise<RelayCertificate | undefined> {
    try {
      const kept = await checkedCertificate(this.#files, this.#now());
      const leaf = new X509Certificate(kept.certificatePem);
      return this.#options.domains.every((name) => leaf.checkHost(name) !== undefined)
        ? kept
        : undefined;
    } catch {
      // Missing, over, damaged: all are cured by a new one, and what keeps that from coming is said.
      return undefined;
    }
  }

  #isDue({ notBefore, notAfter }: RelayCertificate): boolean {
    const lifeMs = notAfter.getTime() - notBefore.getTime();
    return notAfter.getTime() - this.#now() < lifeMs / 3;
  }

  async #issue(): Promise<void> {
    const { directoryUrl, domains, email, caFile, challenge, log } = this.#options;
    if (caFile !== undefined) {
      const ca = [...rootCertificates, await readFile(caFile, "utf8")];
      acme.axios.defaults.httpsAgent = new Agent({ ca });
    }
    // The library's own way to say so; its types do not have it. The next look is soon enough for more.
    Object.assign(acme.axios.defaults, { acmeSettings: REQUEST_SETTINGS });
    const client = new acme.Client({
      directoryUrl,
      accountKey: await this.#accountKey(),
      backoffAttempts: POLLS_MAX,
      backoffMin: POLL_MS_MIN,
      backoffMax: POLL_MS_MAX,
    });
    const key = await acme.crypto.createPrivateEcdsaKey("P-256");
    const [, csr] = await acme.crypto.createCsr({ altNames: [...domains] }, key);
    const answers = new Map<string, string>();
    const server = await answering(challenge, answers);
    try {
      log("info", "a certificate is ordered", { names: domains.join(" "), directoryUrl });
      const certificate = await inTime(
        client.auto({
          csr,
          ...(email === undefined ? {} : { email }),
          termsOfServiceAgreed: true,
          challengePriority: ["http-01"],
          // From in here the port may look different than from where the authority looks.
          skipChallengeVerification: true,
          challengeCreateFn: (_authorization, { type, token }, keyAuthorization) => {
            if (type !== "http-01") {
              return Promise.reject(new Error(`the authority offers no http-01, but ${type}`));
            }
            answers.set(token, keyAuthorization);
            return Promise.resolve();
          },
          challengeRemoveFn: (_authorization, { token }) => {
            answers.delete(token);
            return Promise.resolve();
          },
        }),
      );
      // The key first: a crash in between leaves a pair that does not match, and another one is ordered.
      await writeWhole(this.#files.privateKeyPath, key.toString());
      await writeWhole(this.#files.certificatePath, certificate);
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  /** The authority knows the account by it: made once. */
  async #accountKey(): Promise<string> {
    const file = join(this.#options.directory, ACCOUNT_KEY_FILE);
    try {
      const pem = await readFile(file, "utf8");
      createPrivateKey(pem);
      return pem;
    } catch (error) {
      if (systemCode(error) !== "ENOENT") {
        throw new Error(`${file} is no key any more: restore it, or delete it for a new account`, {
          cause: error,
        });
      }
    }
    const key = (await acme.crypto.createPrivateEcdsaKey("P-256")).toString();
    await writeWhole(file, key);
    return key;
  }

  #now(): number {
    return this.#options.now?.() ?? Date.now();
  }
}

/** Answers what the authority asks, and nothing else. */
async function answering(
  { host, port }: AcmeConfig["challenge"],
  answers: ReadonlyMap<string, string>,
): Promise<Server> {
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    const answer = path.startsWith(CHALLENGE_PATH)
      ? answers.get(path.slice(CHALLENGE_PATH.length))
      : undefined;
    if (answer === undefined) response.writeHead(404).end();
    else response.writeHead(200, { "content-type": "application/octet-stream" }).end(answer);
  });
  server.maxConnections = 100;
  server.requestTimeout = 10_000;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      const why = systemCode(cause) ?? cause.message;
      reject(new Error(`--acme-challenge: cannot listen on ${host}:${port} (${why})`, { cause }));
    });
    server.listen({ host, port }, resolve);
  });
  return server;
}

async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("the authority takes too long")), ORDER_DEADLINE_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
