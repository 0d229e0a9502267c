import fc from "fast-check";
import { expect, test } from "vitest";
import { toBase64Url } from "../../../relay/protocol/bytes.ts";
import {
  certificatesMessage,
  decodeNonce,
  decodeSignedCertificates,
  encodeSignedCertificates,
} from "../../../relay/protocol/relay-certificates.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const certificate = fc.record({
  hash: bytes(32),
  notBeforeMs: fc.maxSafeNat(),
  notAfterMs: fc.maxSafeNat(),
});
const signed = fc.record({
  identity: bytes(32),
  certificates: fc.array(certificate, { maxLength: 4 }),
  signature: bytes(64),
});

test("decodeSignedCertificates() gives back what encodeSignedCertificates() took", () => {
  fc.assert(
    fc.property(signed, (given) => {
      expect(decodeSignedCertificates(encodeSignedCertificates(given))).toEqual(given);
    }),
  );
});

test("decodeSignedCertificates() takes nothing else, whatever it is", () => {
  const good = JSON.parse(
    encodeSignedCertificates({
      identity: new Uint8Array(32),
      certificates: [{ hash: new Uint8Array(32), notBeforeMs: 1, notAfterMs: 2 }],
      signature: new Uint8Array(64),
    }),
  );
  const [one] = good.certificates;
  const wrong = [
    { ...good, identity: "00" },
    { ...good, identity: "g".repeat(64) },
    { ...good, identity: 5 },
    { ...good, signature: "" },
    { ...good, signature: `${good.signature}AA` },
    { ...good, certificates: {} },
    { ...good, certificates: [one, one, one, one, one] },
    { ...good, certificates: [null] },
    { ...good, certificates: [{ ...one, sha256: one.sha256.slice(2) }] },
    { ...good, certificates: [{ ...one, notAfterMs: "2" }] },
    { ...good, certificates: [{ ...one, notAfterMs: -1 }] },
    { ...good, certificates: [{ ...one, notAfterMs: 2 ** 60 }] },
    [],
    null,
  ].map((value) => JSON.stringify(value));
  for (const text of ["", "<html>", ...wrong]) {
    expect(() => decodeSignedCertificates(text)).toThrow(
      expect.objectContaining({ code: "FRAME_MALFORMED" }),
    );
  }
  fc.assert(
    fc.property(fc.json(), (text) => {
      expect(() => decodeSignedCertificates(text)).toThrow(
        expect.objectContaining({ code: "FRAME_MALFORMED" }),
      );
    }),
  );
});

test("certificatesMessage() is another one for another nonce, hash, time or order", () => {
  const a = { hash: new Uint8Array(32).fill(1), notBeforeMs: 1, notAfterMs: 2 };
  const b = { ...a, hash: new Uint8Array(32).fill(2) };
  const nonce = new Uint8Array(32);
  const messages = [
    certificatesMessage(nonce, [a, b]),
    certificatesMessage(nonce, [b, a]),
    certificatesMessage(nonce, [a]),
    certificatesMessage(nonce, [{ ...a, notAfterMs: 3 }]),
    certificatesMessage(nonce, [{ ...a, notBeforeMs: 0 }]),
    certificatesMessage(new Uint8Array(32).fill(1), [a]),
  ].map((message) => Buffer.from(message).toString("hex"));
  expect(new Set(messages).size).toBe(messages.length);
});

test("decodeNonce() takes 32 bytes and nothing else", () => {
  const nonce = new Uint8Array(32).fill(7);
  expect(decodeNonce(toBase64Url(nonce))).toEqual(nonce);
  for (const text of [undefined, "", "A", toBase64Url(new Uint8Array(31)), "A".repeat(5_000)]) {
    expect(() => decodeNonce(text)).toThrow(expect.objectContaining({ code: "FRAME_MALFORMED" }));
  }
});
