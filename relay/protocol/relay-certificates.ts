/**
 * How a relay says which certificates are its own, so that a peer which pins them can follow a renewal.
 *
 * A peer that meets a certificate it does not know asks `GET RELAY_CERTIFICATES_PATH?nonce=...` over a
 * connection that it does not trust. The answer is JSON, signed with the relay's identity; the peer's own nonce
 * is under the signature, so an old answer cannot be told again.
 *
 * @module
 */
import { ByteWriter, fromBase64Url, malformed, toBase64Url, toHex } from "./bytes.ts";
import { RELAY_IDENTITY_BYTES, SIGNATURE_BYTES } from "./ids.ts";
import { RELAY_CERTIFICATES_MAX, TEXT_BYTES_MAX } from "./limits.ts";

export const RELAY_CERTIFICATES_PATH = "/.well-known/memferry-relay";
/** Made by who asks. */
export const RELAY_NONCE_BYTES = 32;

const HASH_BYTES = 32;

/** One certificate of a relay. */
export interface CertificateNotice {
  /** SHA-256 of its DER. */
  readonly hash: Uint8Array;
  /** Milliseconds since the epoch. */
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** What the relay answers, before its signature is checked. */
export interface SignedCertificates {
  readonly identity: Uint8Array;
  readonly certificates: readonly CertificateNotice[];
  readonly signature: Uint8Array;
}

/** What the relay signs. */
export function certificatesMessage(
  nonce: Uint8Array,
  certificates: readonly CertificateNotice[],
): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter();
  writer.text("memferry relay certificates 1", TEXT_BYTES_MAX).bytes(nonce);
  writer.u8(certificates.length);
  for (const { hash, notBeforeMs, notAfterMs } of certificates) {
    writer.bytes(hash).u53(notBeforeMs).u53(notAfterMs);
  }
  return writer.finish();
}

/** As JSON: names as the API has them. */
export function encodeSignedCertificates(signed: SignedCertificates): string {
  return JSON.stringify({
    identity: toHex(signed.identity),
    certificates: signed.certificates.map(({ hash, notBeforeMs, notAfterMs }) => ({
      sha256: toHex(hash),
      notBeforeMs,
      notAfterMs,
    })),
    signature: toBase64Url(signed.signature),
  });
}

/** @throws ProtocolError `FRAME_MALFORMED` */
export function decodeSignedCertificates(text: string): SignedCertificates {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw malformed("not JSON", { cause });
  }
  if (!isRecord(json)) throw malformed("not an object");
  const { identity, certificates, signature } = json;
  if (!Array.isArray(certificates) || certificates.length > RELAY_CERTIFICATES_MAX) {
    throw malformed("no list of certificates, or too long a one");
  }
  return {
    identity: bytesOf(identity, fromHexText, RELAY_IDENTITY_BYTES),
    certificates: certificates.map((one: unknown) => {
      if (!isRecord(one)) throw malformed("a certificate is not an object");
      return {
        hash: bytesOf(one["sha256"], fromHexText, HASH_BYTES),
        notBeforeMs: instantOf(one["notBeforeMs"]),
        notAfterMs: instantOf(one["notAfterMs"]),
      };
    }),
    signature: bytesOf(signature, fromBase64Url, SIGNATURE_BYTES),
  };
}

/** A nonce from the query of a request. @throws ProtocolError `FRAME_MALFORMED` */
export function decodeNonce(text: string | undefined): Uint8Array {
  return bytesOf(text, fromBase64Url, RELAY_NONCE_BYTES);
}

function bytesOf(value: unknown, decode: (text: string) => Uint8Array, length: number): Uint8Array {
  if (typeof value !== "string" || value.length > 2 * length) throw malformed("a text is missing");
  const bytes = decode(value);
  if (bytes.length !== length) throw malformed(`${bytes.length} bytes in place of ${length}`);
  return bytes;
}

function fromHexText(text: string): Uint8Array {
  if (!/^(?:[0-9a-f]{2})*$/.test(text)) throw malformed("not hexadecimal");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

function instantOf(value: unknown): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw malformed("a time is not in milliseconds");
  }
  return value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
