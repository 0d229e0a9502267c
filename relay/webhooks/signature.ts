/**
 * What proves to a receiver that a delivery is the relay's, and new.
 *
 * `memferry-signature: t=SECONDS,v1=HEX[,v1=HEX]`, where each HEX is HMAC-SHA256, under a secret of the webhook, of
 * `SECONDS.BODY`. While the secret before a rotation is still good there are two, and one that fits is enough.
 *
 * @module
 */
import { createHmac, randomBytes } from "node:crypto";

import { toBase64Url } from "../protocol/bytes.ts";

export const SIGNATURE_HEADER = "memferry-signature";
const SECRET_BYTES = 32;

/** The key is this text, as it is. */
export function makeSecret(): string {
  return `whsec_${toBase64Url(randomBytes(SECRET_BYTES))}`;
}

export function signatureOf(body: string, atS: number, secrets: readonly string[]): string {
  const parts = secrets.map(
    (secret) => `v1=${createHmac("sha256", secret).update(`${atS}.${body}`).digest("hex")}`,
  );
  return [`t=${atS}`, ...parts].join(",");
}
