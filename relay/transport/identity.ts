/**
 * The relay's identity: one ed25519 key in its data directory that outlives its certificates.
 *
 * Tickets name it. What it signs is the list of certificates that are the relay's at the moment, and nothing
 * else.
 *
 * @module
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  randomBytes,
  sign,
  type KeyObject,
} from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { RELAY_IDENTITY_BYTES } from "../protocol/ids.ts";
import {
  certificatesMessage,
  type CertificateNotice,
  type SignedCertificates,
} from "../protocol/relay-certificates.ts";
import { RelayError, systemCode } from "../errors.ts";

const IDENTITY_FILE = "relay-identity.pem";
/** Bytes of DER before the 32 bytes of an ed25519 public key (RFC 8410). */
const SPKI_PREFIX_BYTES = 12;

export class RelayIdentity {
  readonly #privateKey: KeyObject;
  /** 32 bytes. */
  readonly publicKey: Uint8Array;

  constructor(privateKey: KeyObject) {
    this.#privateKey = privateKey;
    const spki = createPublicKey(privateKey).export({ type: "spki", format: "der" });
    this.publicKey = Uint8Array.from(
      spki.subarray(SPKI_PREFIX_BYTES, SPKI_PREFIX_BYTES + RELAY_IDENTITY_BYTES),
    );
  }

  /** Says, to who made `nonce`, which certificates are this relay's. */
  vouch(nonce: Uint8Array, certificates: readonly CertificateNotice[]): SignedCertificates {
    const message = certificatesMessage(nonce, certificates);
    const signature = Uint8Array.from(sign(null, message, this.#privateKey));
    return { identity: this.publicKey, certificates, signature };
  }
}

/**
 * The kept key, or at the first start a new one.
 *
 * @throws RelayError `DATA_DIRECTORY_UNUSABLE` if the file is damaged: a new key in its place would cut off every
 *   peer that knows the old one, so that is for a person to decide.
 */
export async function ensureIdentity(directory: string): Promise<RelayIdentity> {
  const file = join(directory, IDENTITY_FILE);
  let pem: string;
  try {
    pem = await readFile(file, "utf8");
  } catch (cause) {
    if (systemCode(cause) !== "ENOENT") throw unusable(file, cause);
    return await makeIdentity(directory, file);
  }
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType !== "ed25519") throw new Error("it is not an ed25519 key");
    return new RelayIdentity(key);
  } catch (cause) {
    throw unusable(file, cause);
  }
}

async function makeIdentity(directory: string, file: string): Promise<RelayIdentity> {
  const { privateKey } = generateKeyPairSync("ed25519");
  const draft = `${file}.${randomBytes(6).toString("hex")}`;
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const handle = await open(draft, "wx", 0o600);
    try {
      await handle.writeFile(String(privateKey.export({ type: "pkcs8", format: "pem" })));
      // Tickets that name it are given out from now on: it must be there after a power cut.
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(draft, file);
    await syncDirectory(directory);
  } catch (cause) {
    throw unusable(file, cause);
  } finally {
    await rm(draft, { force: true });
  }
  return new RelayIdentity(privateKey);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function unusable(file: string, cause: unknown): RelayError {
  return new RelayError(
    "DATA_DIRECTORY_UNUSABLE",
    `${file} is not the relay's identity any more: restore it, or delete it, after which every ticket and ` +
      "login that names it needs a new one when the certificate changes",
    { cause },
  );
}
