/**
 * The relay's certificate: its own, self-signed, or the operator's files.
 *
 * A self-signed one keeps to what WebTransport asks of a certificate that is trusted by its hash: ECDSA
 * on P-256, valid for less than 14 days, no certificate authority. Peers learn the hash from the ticket.
 * The DER is written here: the one package at hand needs a polyfill of the language's reflection, and
 * this certificate has one shape.
 *
 * @module
 */
import {
  createHash,
  createPrivateKey,
  generateKeyPair,
  randomBytes,
  sign,
  X509Certificate,
  type KeyObject,
} from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { isIP } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";

import { systemCode } from "../errors.ts";
import { messageOf } from "../protocol/errors.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
/** WebTransport's limit is 14 days; the day to spare is for clocks that differ. */
export const CERTIFICATE_LIFETIME_DAYS = 13;
/** A certificate with less than this left is replaced at start. */
export const CERTIFICATE_RENEWAL_DAYS = 3;

const CERTIFICATE_FILE = "relay-certificate.pem";
const PRIVATE_KEY_FILE = "relay-private-key.pem";

export interface RelayCertificate {
  /** The leaf first. */
  readonly certificatePem: string;
  readonly privateKeyPem: string;
  /** The same as files: one QUIC implementation reads them by path. */
  readonly certificatePath: string;
  readonly privateKeyPath: string;
  /** SHA-256 of the leaf's DER: what peers pin. */
  readonly hash: Uint8Array;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export interface EnsureCertificateOptions {
  /** Where it is kept; made if it is not there. */
  readonly directory: string;
  /** Names and addresses it is for; a wildcard address stands for this host's name and loopback. */
  readonly hosts: readonly string[];
  /** Milliseconds since the epoch. */
  readonly now?: number;
}

/** The kept certificate if it is for these hosts and lasts, else a new one. */
export async function ensureCertificate(
  options: EnsureCertificateOptions,
): Promise<RelayCertificate> {
  const now = options.now ?? Date.now();
  const hosts = certificateHosts(options.hosts);
  const files = {
    certificatePath: join(options.directory, CERTIFICATE_FILE),
    privateKeyPath: join(options.directory, PRIVATE_KEY_FILE),
  };
  const kept = await keptCertificate(files);
  if (
    kept !== null &&
    kept.notBefore.getTime() <= now &&
    kept.notAfter.getTime() - now >= CERTIFICATE_RENEWAL_DAYS * DAY_MS &&
    hosts.every((host) => includesBytes(pemToDer(kept.certificatePem), generalName(host)))
  ) {
    return kept;
  }
  const made = await makeSelfSigned(hosts, now);
  await mkdir(options.directory, { recursive: true, mode: 0o700 });
  // The key first: a crash in between leaves a pair that does not match, which is noticed and remade.
  await writeWhole(files.privateKeyPath, made.privateKeyPem, 0o600);
  await writeWhole(files.certificatePath, made.certificatePem, 0o644);
  return loadCertificate(files);
}

/** @throws Error naming the file that cannot be read, or is not what it should be. */
export async function loadCertificate(files: {
  readonly certificatePath: string;
  readonly privateKeyPath: string;
}): Promise<RelayCertificate> {
  const certificatePem = await readText(files.certificatePath);
  const privateKeyPem = await readText(files.privateKeyPath);
  let der: Buffer;
  try {
    der = pemToDer(certificatePem);
  } catch (cause) {
    throw new Error(`${files.certificatePath}: ${messageOf(cause)}`, { cause });
  }
  const { notBefore, notAfter } = validityOf(der, files.certificatePath);
  return {
    certificatePem,
    privateKeyPem,
    certificatePath: files.certificatePath,
    privateKeyPath: files.privateKeyPath,
    hash: new Uint8Array(createHash("sha256").update(der).digest()),
    notBefore,
    notAfter,
  };
}

/**
 * As `loadCertificate`, and good to be shown to somebody now.
 *
 * @throws Error saying what is wrong with which file.
 */
export async function checkedCertificate(
  files: { readonly certificatePath: string; readonly privateKeyPath: string },
  now = Date.now(),
): Promise<RelayCertificate> {
  const loaded = await loadCertificate(files);
  const { certificatePath, privateKeyPath } = files;
  let key: KeyObject;
  try {
    key = createPrivateKey(loaded.privateKeyPem);
  } catch (cause) {
    throw new Error(`${privateKeyPath} holds no private key that can be used`, { cause });
  }
  if (!new X509Certificate(loaded.certificatePem).checkPrivateKey(key)) {
    throw new Error(`${privateKeyPath} is not the key of ${certificatePath}`);
  }
  if (loaded.notAfter.getTime() <= now) {
    throw new Error(`${certificatePath} is over since ${loaded.notAfter.toISOString()}: renew it`);
  }
  if (loaded.notBefore.getTime() > now) {
    throw new Error(
      `${certificatePath} is good from ${loaded.notBefore.toISOString()} on: see this host's clock`,
    );
  }
  return loaded;
}

/** Without duplicates; wildcards replaced. */
export function certificateHosts(hosts: readonly string[]): string[] {
  const all = new Set<string>();
  for (const host of hosts) {
    if (host === "" || host === "0.0.0.0" || host === "::") {
      for (const own of ["localhost", "127.0.0.1", "::1", hostname()]) all.add(own);
    } else {
      all.add(host.replace(/^\[|\]$/g, ""));
    }
  }
  return [...all];
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new Error(`${path} cannot be read (${systemCode(cause) ?? messageOf(cause)})`, { cause });
  }
}

async function keptCertificate(files: {
  readonly certificatePath: string;
  readonly privateKeyPath: string;
}): Promise<RelayCertificate | null> {
  try {
    const kept = await loadCertificate(files);
    const publicKey = createPrivateKey(kept.privateKeyPem);
    const point = publicKey.export({ format: "jwk" });
    const x = Buffer.from(String(point.x), "base64url");
    return x.length > 0 && includesBytes(pemToDer(kept.certificatePem), x) ? kept : null;
  } catch {
    // Missing, half-written or unreadable: all are cured by making a new one, which reports what fails.
    return null;
  }
}

/** Whoever reads sees the old file or the new one. */
async function writeWhole(path: string, text: string, mode: number): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}`;
  await writeFile(temporary, text, { mode, flag: "wx" });
  await rename(temporary, path);
}

const generate = promisify(generateKeyPair);

async function makeSelfSigned(
  hosts: readonly string[],
  now: number,
): Promise<{ certificatePem: string; privateKeyPem: string }> {
  const { publicKey, privateKey } = await generate("ec", { namedCurve: "prime256v1" });
  const name = sequence(
    der(0x31, sequence(COMMON_NAME, der(0x0c, Buffer.from("memferry relay", "utf8")))),
  );
  // A day back for clocks that are behind; it counts towards the lifetime.
  const notBefore = now - DAY_MS;
  const notAfter = notBefore + CERTIFICATE_LIFETIME_DAYS * DAY_MS;
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    sequence(ECDSA_WITH_SHA256),
    name,
    sequence(time(notBefore), time(notAfter)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
    der(
      0xa3,
      sequence(
        // CA:FALSE is the default, so the critical extension is an empty sequence.
        extension(BASIC_CONSTRAINTS, true, sequence()),
        // digitalSignature
        extension(KEY_USAGE, true, der(0x03, Buffer.from([7, 0x80]))),
        extension(EXTENDED_KEY_USAGE, false, sequence(SERVER_AUTH)),
        extension(SUBJECT_ALT_NAME, false, sequence(...hosts.map(generalName))),
      ),
    ),
  );
  const signature = sign("sha256", body, privateKey);
  const certificate = sequence(
    body,
    sequence(ECDSA_WITH_SHA256),
    der(0x03, Buffer.concat([Buffer.from([0]), signature])),
  );
  return {
    certificatePem: derToPem(certificate),
    privateKeyPem: String(privateKey.export({ type: "pkcs8", format: "pem" })),
  };
}

function der(tag: number, content: Uint8Array): Buffer {
  const { length } = content;
  const head =
    length < 0x80
      ? [tag, length]
      : length < 0x100
        ? [tag, 0x81, length]
        : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), content]);
}

function sequence(...parts: Uint8Array[]): Buffer {
  return der(0x30, Buffer.concat(parts));
}

function extension(oid: Buffer, critical: boolean, value: Buffer): Buffer {
  const parts = [oid];
  if (critical) parts.push(der(0x01, Buffer.from([0xff])));
  return sequence(...parts, der(0x04, value));
}

/** An entry of the subject alternative name. */
function generalName(host: string): Buffer {
  const kind = isIP(host);
  if (kind === 0) return der(0x82, Buffer.from(host, "latin1"));
  return der(0x87, kind === 4 ? Buffer.from(host.split(".").map(Number)) : ipv6Bytes(host));
}

function ipv6Bytes(address: string): Buffer {
  const plain = address.split("%")[0] ?? "";
  // The URL parser writes an embedded IPv4 part as hexadecimal groups.
  const canonical = new URL(`http://[${plain}]`).hostname.slice(1, -1);
  const [head = "", tail] = canonical.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length;
  const bytes = Buffer.alloc(16);
  [...left, ...Array.from({ length: zeros }, () => "0"), ...right].forEach((group, index) =>
    bytes.writeUInt16BE(Number.parseInt(group, 16), index * 2),
  );
  return bytes;
}

/** UTCTime, which is right until 2049. */
function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replaceAll(/[-:T]/g, "").slice(2, 14);
  return der(0x17, Buffer.from(`${digits}Z`, "latin1"));
}

const COMMON_NAME = Buffer.from("0603550403", "hex");
const ECDSA_WITH_SHA256 = Buffer.from("06082a8648ce3d040302", "hex");
const BASIC_CONSTRAINTS = Buffer.from("0603551d13", "hex");
const KEY_USAGE = Buffer.from("0603551d0f", "hex");
const EXTENDED_KEY_USAGE = Buffer.from("0603551d25", "hex");
const SERVER_AUTH = Buffer.from("06082b06010505070301", "hex");
const SUBJECT_ALT_NAME = Buffer.from("0603551d11", "hex");

/** The first certificate of a PEM file. */
function pemToDer(pem: string): Buffer {
  const found = /-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----/.exec(pem);
  if (found?.[1] === undefined) throw new Error("no certificate in PEM form");
  return Buffer.from(found[1], "base64");
}

function derToPem(bytes: Buffer): string {
  const lines = bytes.toString("base64").match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

function includesBytes(bytes: Buffer, part: Buffer): boolean {
  return bytes.indexOf(part) !== -1;
}

/**
 * Walks to the validity: certificate, body, then past version, serial, algorithm and issuer. Written out
 * because `X509Certificate` gives dates as text of no fixed form across runtimes.
 */
function validityOf(bytes: Buffer, path: string): { notBefore: Date; notAfter: Date } {
  try {
    const certificate = element(bytes, 0);
    const body = element(bytes, certificate.start);
    let at = body.start;
    if (bytes[at] === 0xa0) at = element(bytes, at).end;
    for (let skipped = 0; skipped < 3; skipped += 1) at = element(bytes, at).end;
    const validity = element(bytes, at);
    const first = element(bytes, validity.start);
    const second = element(bytes, first.end);
    return { notBefore: dateOf(bytes, first), notAfter: dateOf(bytes, second) };
  } catch (cause) {
    throw new Error(`${path}: not a certificate`, { cause });
  }
}

interface Element {
  readonly tag: number;
  readonly start: number;
  readonly end: number;
}

function element(bytes: Buffer, at: number): Element {
  const tag = bytes.readUInt8(at);
  const first = bytes.readUInt8(at + 1);
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f;
  const length = lengthBytes === 0 ? first : bytes.readUIntBE(at + 2, lengthBytes);
  const start = at + 2 + lengthBytes;
  if (start + length > bytes.length) throw new RangeError("an element is longer than its file");
  return { tag, start, end: start + length };
}

function dateOf(bytes: Buffer, part: Element): Date {
  const text = bytes.toString("latin1", part.start, part.end);
  const short = Number(text.slice(0, 2));
  const digits = part.tag === 0x17 ? `${short < 50 ? "20" : "19"}${text}` : text;
  const [, year, month, day, hour, minute, second] =
    /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(digits) ?? [];
  const date = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  if (Number.isNaN(date.getTime())) throw new RangeError("no date in the validity");
  return date;
}
