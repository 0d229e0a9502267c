/**
 * `Idempotency-Key`: a POST that is sent again, its answer having been lost, is not done again.
 *
 * What was answered with 2xx is kept for a day and given again. It may hold tickets or a new API key, so it is sealed
 * under a key that is derived from the caller's own secret, of which the database has no more than a hash: who reads
 * the database, or a backup, reads no answers. A request that was refused has done nothing, and its token is free
 * again.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from "node:crypto";

import { createMiddleware } from "hono/factory";
import type { ContentfulStatusCode } from "hono/utils/http-status";

import type { IdempotentRequests, RequestName } from "../db/idempotent-requests.ts";
import { RelayError } from "../errors.ts";
import type { Log } from "../log.ts";
import { messageOf } from "../protocol/errors.ts";
import type { AppEnv, Credential } from "./env.ts";

const TOKEN_CHARS_MAX = 128;
const TOKEN_PATTERN = new RegExp(`^[\\x21-\\x7e]{1,${TOKEN_CHARS_MAX}}$`);
/** Of an answer, what is given again. */
const KEPT_HEADERS = ["content-type", "etag", "location"] as const;
const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface IdempotencyOptions {
  readonly requests: IdempotentRequests;
  readonly log: Log;
}

interface Answer {
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

/** For every route of /v1, behind `authenticate`. */
export function idempotency({ requests, log }: IdempotencyOptions) {
  return createMiddleware<AppEnv>(async (c, next) => {
    const header = c.req.header("idempotency-key");
    if (header === undefined || c.req.method !== "POST") return await next();
    if (!TOKEN_PATTERN.test(header)) {
      throw new RelayError(
        "REQUEST_INVALID",
        `Idempotency-Key: 1 to ${TOKEN_CHARS_MAX} visible ASCII characters are due`,
        {
          details: {
            issues: [{ path: "idempotency-key", message: "is not 1 to 128 visible characters" }],
          },
        },
      );
    }
    const credential = c.get("credential");
    const { search } = new URL(c.req.url);
    const request: RequestName = {
      keyId: c.get("principal").keyId,
      token: `${credential.kind}:${header}`,
      requestHash: createHash("sha256")
        .update(`${c.req.method} ${c.req.path}${search}\n`)
        .update(new Uint8Array(await c.req.arrayBuffer()))
        .digest(),
    };
    const begun = await requests.begin(request);
    switch (begun.kind) {
      case "otherRequest":
        throw new RelayError(
          "IDEMPOTENCY_KEY_REUSED",
          "this Idempotency-Key was sent with another request: make a new one for each",
        );
      case "underWay":
        throw new RelayError(
          "IDEMPOTENCY_KEY_IN_USE",
          "the first request with this Idempotency-Key is still under way",
          { details: { retryAfterS: 1 } },
        );
      case "answered": {
        const answer = unseal(credential, request, begun.sealedAnswer);
        // An answer of ours, as it was: its status was one that Hono took before.
        const headers = { ...Object.fromEntries(answer.headers), "idempotency-replayed": "true" };
        const status = begun.status as ContentfulStatusCode;
        return answer.body === ""
          ? c.body(null, status, headers)
          : c.body(answer.body, status, headers);
      }
      case "new":
        break;
    }
    await next();
    const { status } = c.res;
    try {
      if (status < 200 || status >= 300) {
        await requests.release(request, begun.createdAt);
        return;
      }
      const answer: Answer = {
        headers: KEPT_HEADERS.flatMap((name) => {
          const value = c.res.headers.get(name);
          return value === null ? [] : [[name, value] as const];
        }),
        body: await c.res.clone().text(),
      };
      await requests.finish(request, {
        createdAt: begun.createdAt,
        status,
        sealedAnswer: seal(credential, request, answer),
      });
    } catch (error) {
      // What was done is done, and the caller is to hear of it. Sent again within two minutes it gets a 409.
      log("warn", "an answer was not kept for its Idempotency-Key", {
        requestId: c.get("requestId"),
        reason: messageOf(error),
      });
    }
  });
}

function sealingKey({ secret }: Credential): Uint8Array {
  return new Uint8Array(
    hkdfSync("sha256", secret, new Uint8Array(0), "memferry idempotent answers", 32),
  );
}

function associatedData({ keyId, token, requestHash }: RequestName): Uint8Array {
  return createHash("sha256").update(`${keyId} ${token}\n`).update(requestHash).digest();
}

/** @returns Nonce, ciphertext, tag. */
function seal(credential: Credential, request: RequestName, answer: Answer): Uint8Array {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, sealingKey(credential), nonce);
  cipher.setAAD(associatedData(request));
  const sealed = [cipher.update(JSON.stringify(answer), "utf8"), cipher.final()];
  return Buffer.concat([nonce, ...sealed, cipher.getAuthTag()]);
}

/** @throws RelayError `INTERNAL`: the database is not what it was. */
function unseal(credential: Credential, request: RequestName, sealed: Uint8Array): Answer {
  try {
    const nonce = sealed.subarray(0, NONCE_BYTES);
    const decipher = createDecipheriv(CIPHER, sealingKey(credential), nonce);
    decipher.setAAD(associatedData(request));
    decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
    const opened = decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES));
    // Sealed by `seal` and nobody else.
    return JSON.parse(Buffer.concat([opened, decipher.final()]).toString("utf8")) as Answer;
  } catch (cause) {
    throw new RelayError("INTERNAL", "a kept answer does not open", { cause });
  }
}
